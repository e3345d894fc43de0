//! [`Core`]: a loop without its driver.

use std::rc::Rc;

use super::answers::Batching;
use super::connecting::Connecting;
use super::draining::Drains;
use super::hooks::Hooks;
use super::jobs::Lookups;
use super::keeping::Keeping;
use super::load::Load;
use super::steps::Suspended;
use super::table::Table;
use crate::counters::LoopCounters;
use crate::driver::Order;
use crate::internals::unhandled_failures;
use crate::reactor::monitor::{CallMonitor, monitor_protocol};
use crate::reactor::options::LoopOptions;
use crate::reactor::records::Records;
use crate::reactor::snapshot::Totals;
use crate::recorder::Reactor;
use crate::timers::Seq;

/// The state that the turn works on, by owner. Each owner's fields are private to its file.
pub(super) struct Core {
    /// The handle that user code gets.
    pub(super) reactor: Reactor,
    pub(super) records: Rc<Records>,
    /// Connections and ports by their keys, and which of them to write.
    pub(super) table: Table,
    pub(super) batching: Batching,
    pub(super) connecting: Connecting,
    pub(super) lookups: Lookups,
    pub(super) drains: Drains,
    pub(super) load: Load,
    pub(super) keeping: Keeping,
    pub(super) hooks: Hooks,
    /// The sums of connections that have ended.
    pub(super) ended: Totals,
    pub(super) counters: LoopCounters,
    /// The unhandled failures of the thread before the loop was created.
    pub(super) unhandled_before: u64,
    /// The order of otherwise unordered calls, in a world that explores such orders.
    pub(super) order: Option<Order>,
    /// The turn in progress, while the owner of the loop makes calls in the middle of it.
    pub(super) suspended: Option<Suspended>,
    /// How often this turn has looked for input again before its timed calls.
    pub(super) looks: usize,
    /// Where the last turn that returned to the owner of the loop began.
    pub(super) last_turn: Seq,
}

impl Core {
    pub(super) fn new(records: Rc<Records>, options: &LoopOptions) -> Core {
        let mut hooks = Hooks::default();
        if let Some(ring) = records.ring().cloned() {
            hooks.wrap_protocols(move |key, mut protocol| {
                ring.built(key, protocol.type_name());
                protocol
            });
        }
        let observes = |monitor: &&CallMonitor| monitor.observes_protocols();
        if let Some(monitor) = records.monitor.get().filter(observes).cloned() {
            hooks.wrap_protocols(move |_key, protocol| monitor_protocol(&monitor, protocol));
        }
        let last_turn = records.timers.borrow().seq();
        Core {
            reactor: Reactor::of(records.clone()),
            order: records.world.order(),
            last_turn,
            records,
            table: Table::new(),
            batching: Batching::new(options.tuning.answers),
            connecting: Connecting::default(),
            lookups: Lookups::default(),
            drains: Drains::default(),
            load: Load::new(options.load_limits),
            keeping: Keeping::default(),
            hooks,
            ended: Totals::default(),
            counters: LoopCounters::default(),
            unhandled_before: unhandled_failures(),
            suspended: None,
            looks: 0,
        }
    }
}
