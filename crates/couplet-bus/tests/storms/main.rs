//! Buses whose servers, nodes and links are killed under load, and the rows of docs/guarantees.md.
//! Without a server of a bus its tests are skipped, and fail in CI.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

mod engines;
mod guarantees;
mod ledger;
#[path = "../../../../programs/couplet/src/sim/nats.rs"]
mod nats_server;
mod node;
mod storm;

use couplet_testkit::{apart, needed, servers as process};
use couplet_testkit_loops::link;
