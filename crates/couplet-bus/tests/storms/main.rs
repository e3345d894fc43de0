//! Buses whose servers, nodes and links are killed under load, and the rows of docs/guarantees.md.
//! Without a server of a bus its tests are skipped, and fail in CI.
#![cfg(unix)]

#[macro_use]
extern crate couplet_watched;

#[path = "../../../couplet-core/tests/apart/mod.rs"]
mod apart;
mod engines;
mod guarantees;
mod ledger;
mod link;
#[path = "../../../../programs/couplet/src/sim/nats.rs"]
mod nats_server;
#[path = "../../../couplet-core/tests/needed/mod.rs"]
mod needed;
mod node;
#[path = "../server/process.rs"]
mod process;
mod storm;
