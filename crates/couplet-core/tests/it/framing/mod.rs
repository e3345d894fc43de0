//! Framers: rows 163 to 169, and access to the protocol they wrap. The fuzzer shares `naive`,
//! `notes` and `bodies`.

mod bodies;
mod flow;
mod limits;
mod models;
mod naive;
mod notes;
mod own;
mod raw;
mod resp;
mod typed;

use couplet::testing::Manner;

use notes::{Event, Log, Notes, events, lost, message};

const MANNERS: [Manner; 2] = [Manner::Readiness, Manner::Completion];
