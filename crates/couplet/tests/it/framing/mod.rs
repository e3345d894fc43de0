//! Framers: rows 163 to 169, and the way back to what they wrap. The fuzzer shares `naive`, `notes` and `bodies`.

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

use notes::{Log, Notes, Told, lost, message, told};

const MANNERS: [Manner; 2] = [Manner::Readiness, Manner::Completion];
