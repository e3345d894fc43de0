//! The simulator: what its networks and hosts do, that a seed decides everything, and what it
//! finds.

mod basics;
mod choices;
mod connects;
mod datagrams;
mod half_open;
mod hosts;
mod invariants;
mod kit;
mod networks;
mod parity;
mod replays;
mod reports;
mod services;
