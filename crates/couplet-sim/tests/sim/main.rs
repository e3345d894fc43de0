//! The simulator: its networks and hosts, determinism by seed, and the failures it finds.
//! Some names begin with rows of `docs/contract.md`.

#[macro_use]
extern crate couplet_watched;

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
mod suite;

#[path = "../../../couplet-core/tests/apart/mod.rs"]
mod apart;
#[path = "../../../couplet-core/tests/it/logged.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod logged;
#[path = "../../../couplet-core/tests/needed/mod.rs"]
mod needed;
#[path = "../../../couplet-core/tests/it/sealed.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod sealed;
#[cfg(unix)]
#[path = "../../../couplet-core/tests/it/terminal.rs"]
mod terminal;

/// For the certificate code of the core's own tests.
use couplet::layers;
