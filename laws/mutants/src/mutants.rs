//! Selects a mutant by the environment. This file is copied into the library as a module of its
//! crate: `crate::mutants::on(7)`.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// One more than the highest mutant id.
const MOST: usize = 10_000;

enum Choice {
    None,
    One(u32),
    /// No mutant; the ids of reached mutants are appended to this file.
    Reached(String),
}

/// True if mutant `id` is selected.
#[allow(dead_code, unreachable_pub)]
pub fn on(id: u32) -> bool {
    static CHOICE: OnceLock<Choice> = OnceLock::new();
    let choice = CHOICE.get_or_init(|| {
        if let Some(id) = std::env::var("COUPLET_MUTANT").ok().and_then(|id| id.parse().ok()) {
            return Choice::One(id);
        }
        std::env::var("COUPLET_MUTANTS_REACHED").map_or(Choice::None, Choice::Reached)
    });
    match choice {
        Choice::None => false,
        Choice::One(chosen) => *chosen == id,
        Choice::Reached(path) => {
            note(path, id);
            false
        }
    }
}

fn note(path: &str, id: u32) {
    static NOTED: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];
    if NOTED[id as usize].swap(true, Ordering::Relaxed) {
        return;
    }
    if let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{id}\n").as_bytes());
    }
}
