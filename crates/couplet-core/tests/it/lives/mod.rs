//! Thousands of random lives of one connection, on the memory driver in both manners. The protocol,
//! its producer, the peer and the clock act in any order; law 5 holds, and no byte is lost,
//! duplicated or reordered.
//!
//! A life depends only on its seed. A failing life prints its seed; `COUPLET_LIFE=readiness:17` (or
//! `completion:17`) replays that life and prints its story, and `COUPLET_LIVES=100000` runs that
//! many in each manner instead of 10 000. The fuzzer generates lives from its input
//! (`fuzz/src/lives.rs`).

use couplet::testing::Manner;

use couplet_testkit_loops::life::{Dice, Life};

const LIVES: u64 = 10_000;

#[test]
fn every_life_ends_once_and_keeps_its_bytes_by_readiness() {
    live_all(Manner::Readiness, "readiness");
}

#[test]
fn every_life_ends_once_and_keeps_its_bytes_by_completion() {
    live_all(Manner::Completion, "completion");
}

#[test]
fn a_seed_determines_its_life_over_tls_too() {
    let mut over_tls = 0;
    for seed in 0..500 {
        let [one, other] = [(); 2].map(|()| Life::new(Dice::seeded(seed)).live(Manner::Completion));
        assert_eq!(one, other, "seed {seed}");
        over_tls += u32::from(one.starts_with("over Tls"));
    }
    assert!(over_tls > 3, "{over_tls} of 500");
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
        let _on_panic = Seed(name, seed);
        Life::new(Dice::seeded(seed)).live(manner);
    }
}

/// Prints how to replay a life that panics.
struct Seed<'a>(&'a str, u64);

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with COUPLET_LIFE={}:{}", self.0, self.1);
        }
    }
}
