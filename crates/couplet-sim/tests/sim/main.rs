//! The simulator: its networks and hosts, determinism by seed, and the failures it finds.
//! Some names begin with rows of `docs/contract.md`.

#[macro_use]
extern crate couplet_testkit;

mod basics;
mod choices;
mod connects;
mod datagrams;
mod eyeballs;
mod half_open;
mod hosts;
mod invariants;
mod kit;
mod layered;
mod networks;
mod parity;
#[cfg(unix)]
mod processes;
mod proxied;
mod reasons;
mod replays;
mod reports;
mod restarts;
mod secure;
mod services;
mod shuffled;
mod streams;

use couplet_testkit::{apart, logged};
use couplet_testkit_loops::suite;
