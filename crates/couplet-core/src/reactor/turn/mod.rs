//! The turn: the one place where requests take effect (law 1), written once for all drivers.
//!
//! 1. wait: not at all if something is recorded, woken or still readable, otherwise until the next
//!    deadline;
//! 2. read the clock, once, after the wait, and apply requests recorded outside a turn;
//! 3. for each event: deliver it; then a *round*: apply the requests recorded for any connection
//!    (states change immediately and completely), and make the calls into user code that were
//!    queued when the round began; then send this connection's output;
//! 4. make the calls from other threads, then the due timed calls;
//! 5. poll the woken tasks, each once;
//! 6. start listens, connects and jobs;
//! 7. one more round, then send all other output, then pass records of connections to their keeper.
//!
//! A timed call or a task requested in a turn waits for the next turn; a call queued while queued
//! calls run waits for the next round; while anything is pending, step 1 does not sleep. So a reply
//! is sent immediately, a thousand small writes leave in one system call, and nothing that feeds
//! itself starves the rest.
//!
//! A turn that is [suspended](crate::hooks::suspend_turn) returns in step 3, after an event, and
//! continues there.
//!
//! Handles record in the modules above, which do not know this one. Here [`core::Core`] holds the
//! owners of a loop's state, and each module has the verbs for one of them.

mod access;
mod answers;
mod calls;
mod cluster;
mod connecting;
mod connections;
mod core;
mod datagrams;
mod draining;
mod handing;
mod hooks;
mod jobs;
mod keeping;
mod leaks;
mod load;
mod opening;
mod ports;
mod run;
mod runtime;
mod shutdown;
mod snapshot;
mod steps;
mod table;
mod tasks;
mod waits;

pub use cluster::{Cluster, Members, NoSuchLoop, cluster};
pub use run::{Loop, Stopped, react, run, run_until};
