//! The simulator: its networks and hosts, determinism by seed, and the failures it finds.

mod basics;
mod choices;
mod connects;
mod datagrams;
mod eyeballs;
mod half_open;
mod hosts;
mod invariants;
pub(crate) mod kit;
mod layered;
mod networks;
mod parity;
mod proxied;
mod replays;
mod reports;
pub(crate) mod secure;
mod services;
mod shuffled;
