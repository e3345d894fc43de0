//! [`Core`]: a loop without its driver.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::answers::Batching;
use super::connecting::Connecting;
use super::table::Table;
use crate::driver::{Key, Order, Signal, Ticket};
use crate::layers::{Layer, Side};
use crate::protocol::Protocol;
use crate::reactor::drain::DrainCell;
use crate::reactor::options::LoopOptions;
use crate::reactor::records::Records;
use crate::reactor::requests::Lookup;
use crate::reactor::snapshot::Snapshot;
use crate::reactor::stalls::monitor_protocol;
use crate::recorder::Reactor;

/// Shows the snapshot that SIGUSR1 requests.
pub(super) type SnapshotHandler = Box<dyn FnMut(&Snapshot)>;

/// Receives signals: see [`Core::on_signal`].
pub(super) type SignalHandler = Box<dyn FnMut(&Reactor, Signal) -> bool>;

/// A loop without its driver: the state that the turn works on.
pub(super) struct Core {
    /// The handle that user code gets.
    pub(super) reactor: Reactor,
    pub(super) records: Rc<Records>,
    pub(super) table: Table,
    /// Connections to write in step 7.
    // Bound: each connection once (`ConnectionEntry::to_write`).
    pub(super) to_write: Vec<Key>,
    pub(super) batching: Batching,
    /// The dirty list being processed; kept for its capacity.
    // Bound: swapped with `Records.dirty`: each connection twice.
    pub(super) dirty: Vec<Key>,
    pub(super) connecting: Connecting,
    /// The lookups for callers that the driver has begun.
    // Unbounded: one for each unfired Deferred of `resolve` that has begun; the driver refuses more
    // than it has room for.
    pub(super) lookups: BTreeMap<Ticket, Lookup>,
    /// Drains in progress.
    // Unbounded: one for each drain that the user began and that has not ended.
    pub(super) drains: Vec<Rc<DrainCell>>,
    /// The order of otherwise unordered calls, in a world that explores such orders.
    pub(super) order: Option<Order>,
    pub(super) on_snapshot: Option<SnapshotHandler>,
    /// Gets each signal first; returns true if it has handled the signal.
    pub(super) on_signal: Option<SignalHandler>,
    /// Called around each wait that may block.
    pub(super) around_wait: Option<AroundWait>,
    /// Wraps the protocol of each new connection.
    pub(super) wrap: Option<Wrap>,
    /// Builds the lowest layers of each new connection.
    pub(super) layer: Option<MakeLayers>,
}

/// Must call its argument, which waits.
pub(super) type AroundWait = Box<dyn FnMut(&mut dyn FnMut())>;

pub(super) type MakeLayers = Box<dyn Fn(Side) -> Vec<Box<dyn Layer>>>;

pub(super) type Wrap = Box<dyn Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol>>;

impl Core {
    pub(super) fn new(records: Rc<Records>, options: &LoopOptions) -> Core {
        let order = records.world.order();
        let stalls = records.stalls.get().cloned();
        let wrap = stalls.map(|stalls| -> Wrap {
            Box::new(move |_key, protocol| monitor_protocol(&stalls, protocol))
        });
        Core {
            reactor: Reactor::of(records.clone()),
            records,
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
