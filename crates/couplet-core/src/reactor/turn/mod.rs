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
//! 7. one more round, then send all other output.
//!
//! A timed call or a task requested in a turn waits for the next turn; a call queued while queued
//! calls run waits for the next round; while anything is pending, step 1 does not sleep. So a reply
//! is sent immediately, a thousand small writes leave in one system call, and nothing that feeds
//! itself starves the rest.

//!
//! Handles record in the modules above, which do not know this one. Here [`Core`] holds the owners
//! of a loop's state, and each module has the verbs for one of them.

mod answers;
mod calls;
mod cluster;
mod connecting;
mod connections;
mod datagrams;
mod draining;
mod jobs;
mod leaks;
mod opening;
mod ports;
mod run;
mod runtime;
mod shutdown;
mod snapshot;
mod steps;
mod table;
mod tasks;

use std::collections::BTreeMap;
use std::rc::Rc;

use super::drain::DrainCell;
use super::names::Lookup;
use super::stalls::monitor_protocol;
use super::{LoopOptions, Reactor, Snapshot};
use crate::driver::{Key, Order, Signal, Ticket};
use crate::layers::{Layer, Side};
use crate::protocol::Protocol;

use answers::Batching;
pub use cluster::{Cluster, Members, NoSuchLoop, cluster};
use connecting::Connecting;
pub use run::{Loop, Stopped, react, run, run_until};
use table::Table;

/// Shows the snapshot that SIGUSR1 requests.
type SnapshotHandler = Box<dyn FnMut(&Snapshot)>;

/// Receives signals: see [`Core::on_signal`].
type SignalHandler = Box<dyn FnMut(&Reactor, Signal) -> bool>;

/// A loop without its driver: the state that the turn works on.
struct Core {
    reactor: Reactor,
    table: Table,
    /// Connections to write in step 7.
    // Bound: each connection once (`ConnectionEntry::to_write`).
    to_write: Vec<Key>,
    batching: Batching,
    /// The dirty list being processed; kept for its capacity.
    // Bound: swapped with `Records.dirty`: each connection twice.
    dirty: Vec<Key>,
    connecting: Connecting,
    /// The lookups for callers that the driver has begun.
    // Unbounded: one for each unfired Deferred of `resolve` that has begun; the driver refuses more
    // than it has room for.
    lookups: BTreeMap<Ticket, Lookup>,
    /// Drains in progress.
    // Unbounded: one for each drain that the user began and that has not ended.
    drains: Vec<Rc<DrainCell>>,
    /// The order of otherwise unordered calls, in a world that explores such orders.
    order: Option<Order>,
    on_snapshot: Option<SnapshotHandler>,
    /// Gets each signal first; returns true if it has handled the signal.
    on_signal: Option<SignalHandler>,
    /// Called around each wait that may block.
    around_wait: Option<AroundWait>,
    /// Wraps the protocol of each new connection.
    wrap: Option<Wrap>,
    /// Builds the lowest layers of each new connection.
    layer: Option<MakeLayers>,
}

/// Must call its argument, which waits.
type AroundWait = Box<dyn FnMut(&mut dyn FnMut())>;

type MakeLayers = Box<dyn Fn(Side) -> Vec<Box<dyn Layer>>>;

type Wrap = Box<dyn Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol>>;

impl Core {
    fn new(reactor: Reactor, options: &LoopOptions) -> Core {
        let order = reactor.records.world.order();
        let stalls = reactor.records.stalls.get().cloned();
        let wrap = stalls.map(|stalls| -> Wrap {
            Box::new(move |_key, protocol| monitor_protocol(&stalls, protocol))
        });
        Core {
            reactor,
            table: Table::new(),
            to_write: Vec::new(),
            batching: Batching::new(options.answers),
            dirty: Vec::new(),
            connecting: Connecting::default(),
            lookups: BTreeMap::new(),
            drains: Vec::new(),
            order,
            on_snapshot: None,
            on_signal: None,
            around_wait: None,
            wrap,
            layer: None,
        }
    }
}
