//! Rooms in memory and in the simulator, without sockets: rows 186 to 193b of the contract.

#[macro_use]
extern crate couplet_testkit;

mod again;
mod crowds;
mod cycles;
mod kit;
mod limits;
mod loops;
mod members;
mod panics;
mod positions;
mod presence;
mod queues;
mod storms;
mod turns;
