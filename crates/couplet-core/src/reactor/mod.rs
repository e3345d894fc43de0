//! The loop: the records of a [`Reactor`], its handles, and the [`Loop`], which owns the connections
//! and carries the requests out in its turn.
//!
//! `records.rs` holds the requests. The other modules at this level give [`Reactor`] the methods that
//! record requests; the modules in `turn/` carry them out, and the others don't depend on `turn/`.

mod adopting;
mod call_times;
mod capacity;
mod connect;
mod control;
mod datagrams;
mod dependents;
mod drain;
pub(crate) mod frames;
mod handing;
mod inbox;
pub(crate) mod inspect;
mod jobs;
mod keeping;
mod leaks;
mod monitor;
mod names;
pub(crate) mod notes;
mod options;
mod port;
mod records;
mod remote;
mod requests;
mod sharing;
pub(crate) mod snapshot;
mod spawning;
mod stage;
mod sync;
mod tasks;
mod turn;
#[cfg(unix)]
mod watch;
#[cfg(unix)]
mod watches;

pub use crate::connector::{Connector, ConnectorState, NotDisconnected};
pub use crate::counters::{DatagramCounters, LoopCounters, PortCounters};
pub use crate::recorder::{DelayedCall, Reactor};
pub use call_times::CallTimes;
pub use control::LoopResult;
pub use datagrams::DatagramEndpoint;
#[cfg(unix)]
pub(crate) use dependents::{Dependent, DependentId};
pub use drain::Drained;
pub use handing::HandedOver;
pub use keeping::Keeper;
#[cfg(feature = "testing")]
pub(crate) use leaks::{Leak, numbered};
pub use options::{Answers, Drain, DriverChoice, LoadLimits, LoopOptions, Tuning};
pub use port::Port;
pub use remote::{ForThread, LoopGone, Remote, WouldWaitForItself};
pub(crate) use sharing::SharedSocket;
pub use snapshot::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PortSnapshot, Snapshot, Totals,
};
pub use stage::Shutdown;
pub(crate) use tasks::{Executor, ReaderOf, TaskId, TaskRef};
pub use turn::{Cluster, Loop, Members, NoSuchLoop, Stopped, cluster, react, run, run_until};
#[cfg(unix)]
pub use watch::{NotWatching, Watch};
