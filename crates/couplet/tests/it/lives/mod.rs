//! Thousands of random lives of one connection, on the memory driver in both manners. Whatever the
//! protocol, its producer, the peer and the clock do, and in whichever order, law 5 holds, and
//! no byte is lost, doubled or moved.
//!
//! A life is made from its seed alone. When one goes wrong its seed is printed;
//! `COUPLET_LIFE=readiness:17` (or `completion:17`) lives that one again and prints its story, and
//! `COUPLET_LIVES=100000` lives that many in each manner instead of 10 000. The fuzzer lives the
//! same lives from its bytes (`fuzz/src/lives.rs`).

mod life;

use couplet::testing::Manner;

use life::{Dice, Life};

const LIVES: u64 = 10_000;

#[test]
fn every_life_ends_once_and_keeps_its_bytes_where_sockets_tell_what_is_ready() {
    live_all(Manner::Readiness, "readiness");
}

#[test]
fn every_life_ends_once_and_keeps_its_bytes_where_operations_come_home() {
    live_all(Manner::Completion, "completion");
}

fn live_all(manner: Manner, name: &str) {
    if let Ok(one) = std::env::var("COUPLET_LIFE") {
        if let Some((_, seed)) = one.split_once(':').filter(|(of, _)| *of == name) {
            let seed = seed.parse().expect("a seed is a number");
            eprintln!("{}", Life::new(Dice::seeded(seed)).live(manner));
        }
        return;
    }
    let lives = std::env::var("COUPLET_LIVES").map_or(LIVES, |n| n.parse().expect("a number"));
    for seed in 0..lives {
        let _told = Seed(name, seed);
        Life::new(Dice::seeded(seed)).live(manner);
    }
}

/// Tells which life it was when one panics.
struct Seed<'a>(&'a str, u64);

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with COUPLET_LIFE={}:{}", self.0, self.1);
        }
    }
}
