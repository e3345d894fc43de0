//! Framers: rows 163 to 169, and access to the protocol they wrap.

mod flow;
mod limits;
mod models;
mod own;
mod raw;
mod resp;
mod typed;

use couplet::testing::Manner;

use couplet_testkit_loops::framing::notes::{Event, Log, Notes, events, lost, message};

const MANNERS: [Manner; 2] = [Manner::Readiness, Manner::Completion];
