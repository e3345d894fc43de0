//! [`Records`]: the requests that handles have recorded and the turn has not yet applied, the loop's
//! time, and the state that handles and the turn share.
//!
//! Contract: 125b.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::adopting::AdoptionCell;
use super::capacity::Capacity;
use super::dependents::Dependents;
use super::drain::DrainCell;
use super::frames::Frames;
use super::handing::{BuildProtocol, HandOverRequest};
use super::inspect::EndedDeferreds;
use super::leaks::{Origin, Places};
use super::monitor::CallMonitor;
use super::notes::Notes;
use super::options::{LoadLimits, LoopOptions};
use super::port::PortCell;
use super::requests::{DriverRequests, Jobs, Lookup};
use super::sharing::HandedConnection;
use super::snapshot::Snapshot;
use super::stage::{Run, RunStage};
use super::tasks::{Executor, Tasks, WakeQueue};
#[cfg(unix)]
use super::watches::Watches;
use crate::connector::ConnectorCell;
use crate::datagrams::DatagramCell;
use crate::defer::{Deferred, Resolver};
use crate::driver::{Key, Spares, Ticket, UserCall, World};
use crate::internals::{FiredBy, fired_by};
use crate::recorder::{Reactor, Recorder, Source, TimerOwner, TimerPurpose, loop_ended};
use crate::slots::Slots;
use crate::sorted::SortedMap;
use crate::timers::{TimerKey, Timers, after};
use crate::transport::cell::ConnectionCell;
#[cfg(feature = "testing")]
use crate::transport::report::LayerReport;
use crate::transport::{Producer, Tell};

/// Requests recorded by handles and not yet applied by the turn.
pub(super) struct Records {
    /// The loop's number in this process.
    serial: u32,
    pub(super) world: Rc<dyn World>,
    pub(super) spares: Rc<Spares>,
    /// When the loop was made.
    made_at: Instant,
    /// The time of this turn, or of the last one.
    time: Cell<Instant>,
    /// Calls and woken tasks from other threads, and the way to wake the loop.
    pub(super) queue: Arc<WakeQueue>,
    /// The lists below that hold work for the turn; bits of [`pending`].
    pending: Cell<u8>,
    /// [`Turns::Many`](super::turn::Turns) must return after this turn.
    must_return: Cell<bool>,
    /// The dirty list: connections with requests or output.
    // A connection is in it at most twice: `ConnectionCell::dirty` lets it in once, and once more
    // after bytes.
    dirty: RefCell<Vec<Key>>,
    /// The list that was last applied, kept for its capacity.
    spare_dirty: RefCell<Vec<Key>>,
    /// Calls into user code, first in, first out.
    // A round makes the calls that are present when it begins.
    calls: RefCell<VecDeque<Call>>,
    /// Ports, connectors, drains and layers with a request.
    requests: RefCell<VecDeque<LoopRequest>>,
    /// Listens and connects for step 6.
    starts: RefCell<VecDeque<Start>>,
    pub(super) timers: RefCell<Timers<TimerAction>>,
    pub(super) tasks: Rc<Executor>,
    pub(super) jobs: Jobs,
    pub(super) names: RefCell<DriverRequests<Lookup>>,
    #[cfg(unix)]
    pub(super) watches: RefCell<Watches>,
    pub(super) dependents: RefCell<Dependents>,
    /// Called when the run ends or the loop is dropped.
    at_end: RefCell<Slots<Box<dyn FnOnce()>>>,
    snapshots: RefCell<Vec<Resolver<Snapshot>>>,
    /// The program's own lines in snapshots.
    pub(super) notes: Rc<Notes>,
    /// Called when the loop is dropped, to release the threads in [`Remote::block_on_reactor`].
    blocked: RefCell<Slots<Box<dyn FnOnce()>>>,
    /// Resolvers of pending snapshots of all loops of a cluster.
    cluster_snapshots: RefCell<Slots<Resolver<Snapshot>>>,
    /// The ports that listen on sockets shared with other loops.
    shared_ports: RefCell<Slots<Rc<PortCell>>>,
    /// Factories of protocols that continue connections of another process.
    pub(super) named: RefCell<SortedMap<String, Weak<BuildProtocol>>>,
    pub(super) run: Run,
    /// Whether connections whose output waits are to be counted.
    pub(super) counts_output: Cell<bool>,
    /// Whether a keeper gets records of connections.
    pub(super) has_keeper: Cell<bool>,
    /// Whether the load of the loop keeps its ports from accepting.
    pub(super) holds_ports: Cell<bool>,
    /// The capacity for connections, as other loops see it.
    pub(super) capacity: Arc<Capacity>,
    /// Source locations of requests; only in a loop under test.
    pub(super) places: RefCell<Option<Box<Places>>>,
    /// The tables as of earlier times, in a loop with a ring.
    pub(super) frames: OnceCell<Arc<Frames>>,
    pub(super) ended_deferreds: EndedDeferreds,
    /// The ticks of the frame that is due.
    frame_at: Cell<Option<u64>>,
    /// Observes calls into user code, if the options request it.
    pub(super) monitor: OnceCell<CallMonitor>,
    /// Observes the bytes between layers and protocols, in a simulated loop.
    #[cfg(feature = "testing")]
    layer_observer: OnceCell<LayerObserver>,
}

/// Observes the bytes between layers and protocols.
#[cfg(feature = "testing")]
type LayerObserver = Box<dyn Fn(Key, LayerReport<'_>)>;

/// Pending work for the turn; a set of bits. While one is set, the loop does not sleep.
pub(super) mod pending {
    /// Connections have requests or output.
    pub(in super::super) const DIRTY: u8 = 1;
    /// Ports, connectors, drains, layers or snapshots have requests.
    pub(in super::super) const REQUESTS: u8 = 2;
    /// Calls are queued.
    pub(in super::super) const CALLS: u8 = 4;
    /// A round has work to do.
    pub(in super::super) const ROUND: u8 = DIRTY | REQUESTS | CALLS;
    /// Tasks were spawned or cancelled.
    pub(in super::super) const TASKS: u8 = 8;
    /// Listens, connects, adoptions, jobs or lookups must start.
    pub(in super::super) const STARTS: u8 = 16;
    /// The run must end.
    pub(in super::super) const STOP: u8 = 32;
    /// The turn is to be suspended.
    pub(in super::super) const SUSPEND: u8 = 64;
    /// An event has more work than a reply.
    pub(in super::super) const EVENT: u8 = ROUND | SUSPEND;
}

impl Records {
    pub(super) fn new(world: Rc<dyn World>, tasks: Tasks, options: &LoopOptions) -> Rc<Records> {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let now = world.now();
        let serial = world.serial().unwrap_or_else(|| SERIAL.fetch_add(1, Ordering::Relaxed));
        Rc::new(Records {
            serial,
            world,
            spares: Rc::default(),
            made_at: now,
            time: Cell::new(now),
            queue: tasks.queue(),
            pending: Cell::new(0),
            must_return: Cell::new(false),
            dirty: RefCell::default(),
            spare_dirty: RefCell::default(),
            calls: RefCell::default(),
            requests: RefCell::default(),
            starts: RefCell::default(),
            timers: RefCell::new(Timers::new(now)),
            tasks: Executor::new(tasks),
            jobs: Jobs::default(),
            names: RefCell::default(),
            #[cfg(unix)]
            watches: RefCell::default(),
            dependents: RefCell::default(),
            at_end: RefCell::default(),
            snapshots: RefCell::default(),
            notes: Rc::default(),
            blocked: RefCell::new(Slots::new()),
            cluster_snapshots: RefCell::new(Slots::new()),
            shared_ports: RefCell::new(Slots::new()),
            named: RefCell::default(),
            run: Run::new(options),
            counts_output: Cell::new(options.load_limits.counts_output()),
            has_keeper: Cell::new(false),
            holds_ports: Cell::new(false),
            capacity: Capacity::new(options.load_limits.connections),
            places: RefCell::default(),
            frames: OnceCell::new(),
            ended_deferreds: EndedDeferreds::default(),
            frame_at: Cell::new(None),
            monitor: OnceCell::new(),
            #[cfg(feature = "testing")]
            layer_observer: OnceCell::new(),
        })
    }

    pub(super) fn is_dropped(&self) -> bool {
        self.run.stage() == RunStage::Dropped
    }

    pub(super) fn enqueue(&self, call: Call) {
        self.calls.borrow_mut().push_back(call);
        self.add_pending(pending::CALLS);
    }

    pub(super) fn request(&self, request: LoopRequest) {
        if self.is_dropped() {
            return;
        }
        self.requests.borrow_mut().push_back(request);
        self.add_pending(pending::REQUESTS);
    }

    pub(super) fn start(&self, start: Start) {
        self.starts.borrow_mut().push_back(start);
        self.add_pending(pending::STARTS);
    }

    /// The time of this turn, or of the last one.
    #[inline]
    pub(super) fn turn_time(&self) -> Instant {
        self.time.get()
    }

    /// Makes [`Loop::turn_until`](crate::Loop::turn_until) return after this turn.
    pub(super) fn interrupt(&self) {
        self.must_return.set(true);
    }

    #[inline]
    pub(super) fn take_interrupt(&self) -> bool {
        self.must_return.take()
    }

    // The dirty list.

    pub(super) fn take_dirty(&self) -> Vec<Key> {
        self.dirty.replace(self.spare_dirty.take())
    }

    /// Keeps the capacity of a list that was applied.
    pub(super) fn recycle_dirty(&self, list: Vec<Key>) {
        debug_assert!(list.is_empty(), "a round left connections dirty");
        self.spare_dirty.replace(list);
    }

    // The queues. A round or a step takes the items present when it begins.

    pub(super) fn queued_calls(&self) -> usize {
        self.calls.borrow().len()
    }

    pub(super) fn next_call(&self) -> Option<Call> {
        self.calls.borrow_mut().pop_front()
    }

    pub(super) fn take_calls(&self) -> VecDeque<Call> {
        self.calls.take()
    }

    /// Whether the due calls of a connection are queued.
    #[cfg(debug_assertions)]
    pub(super) fn is_due(&self, connection: Key) -> bool {
        let calls = self.calls.borrow();
        calls.iter().any(|call| matches!(call, Call::Due(key) if *key == connection))
    }

    pub(super) fn recorded_requests(&self) -> usize {
        self.requests.borrow().len()
    }

    pub(super) fn next_request(&self) -> Option<LoopRequest> {
        self.requests.borrow_mut().pop_front()
    }

    pub(super) fn drop_requests(&self) {
        drop(self.requests.take());
    }

    pub(super) fn recorded_starts(&self) -> usize {
        self.starts.borrow().len()
    }

    pub(super) fn starts(&self) -> Ref<'_, VecDeque<Start>> {
        self.starts.borrow()
    }

    pub(super) fn next_start(&self) -> Option<Start> {
        self.starts.borrow_mut().pop_front()
    }

    pub(super) fn take_starts(&self) -> VecDeque<Start> {
        self.starts.take()
    }

    pub(super) fn has_calls_at_end(&self) -> bool {
        !self.at_end.borrow().is_empty()
    }

    /// Makes the calls for the end that are present now.
    pub(super) fn make_calls_at_end(&self) {
        let keys = self.at_end.borrow().keys();
        for key in keys {
            // An earlier call may have cancelled this one.
            let call = self.at_end.borrow_mut().remove(key);
            if let Some(call) = call {
                call();
            }
        }
    }

    // Callers that wait for the loop.

    pub(super) fn request_snapshot(&self, resolver: Resolver<Snapshot>) {
        self.snapshots.borrow_mut().push(resolver);
        self.add_pending(pending::REQUESTS);
    }

    pub(super) fn take_snapshot_requests(&self) -> Vec<Resolver<Snapshot>> {
        self.snapshots.take()
    }

    /// Has the turn that is about to begin take a frame of these ticks, without a wake-up.
    pub(super) fn request_frame(&self, ticks: u64) {
        self.frame_at.set(Some(ticks));
        self.pending.set(self.pending.get() | pending::REQUESTS);
    }

    pub(super) fn take_frame_request(&self) -> Option<u64> {
        self.frame_at.take()
    }

    pub(super) fn add_cluster_snapshot(&self, resolver: Resolver<Snapshot>) -> Key {
        self.cluster_snapshots.borrow_mut().insert(resolver)
    }

    pub(super) fn take_cluster_snapshot(&self, number: Key) -> Option<Resolver<Snapshot>> {
        self.cluster_snapshots.borrow_mut().remove(number)
    }

    /// Keeps the release of a thread that waits in [`Remote::block_on_reactor`](super::Remote).
    pub(super) fn add_blocked(&self, release: Box<dyn FnOnce()>) -> Key {
        self.blocked.borrow_mut().insert(release)
    }

    pub(super) fn remove_blocked(&self, thread: Key) {
        let release = self.blocked.borrow_mut().remove(thread);
        drop(release);
    }

    #[cfg(test)]
    pub(super) fn blocked(&self) -> usize {
        self.blocked.borrow().len()
    }

    /// The loop is dropped: no thread waits for it any longer.
    pub(super) fn release_blocked(&self) {
        for release in self.blocked.take().into_values() {
            release();
        }
    }

    // Ports that listen on sockets shared with other loops.

    pub(super) fn add_shared_port(&self, port: Rc<PortCell>) -> Key {
        self.shared_ports.borrow_mut().insert(port)
    }

    pub(super) fn shared_port(&self, key: Key) -> Option<Rc<PortCell>> {
        self.shared_ports.borrow().get(key).cloned()
    }

    pub(super) fn remove_shared_port(&self, key: Key) {
        let port = self.shared_ports.borrow_mut().remove(key);
        drop(port);
    }

    /// Records source locations of requests from now on.
    pub(super) fn record_places(&self) {
        self.places.replace(Some(Box::default()));
    }

    /// A request that is made now.
    pub(super) fn origin(&self, place: Source) -> Origin {
        Origin { place, since: self.now() }
    }

    fn add_timer(&self, delay: Duration, action: TimerAction, by: TimerOwner) -> Option<TimerKey> {
        if self.is_dropped() {
            return None;
        }
        let deadline = after(self.now(), delay);
        let timer = self.with_timers(|timers| timers.insert(deadline, action));
        if let Some(places) = &mut *self.places.borrow_mut() {
            let timers = self.timers.borrow();
            places.add_timer(timer, by.0, self.origin(by.1), |timer| timers.contains(timer));
        }
        Some(timer)
    }

    #[inline]
    pub(super) fn mark_dirty(&self, connection: Key) {
        self.dirty.borrow_mut().push(connection);
        self.add_pending(pending::DIRTY);
    }

    /// Records work for the turn. Outside a turn, also wakes the loop if it may be asleep in a
    /// foreign loop's wait.
    #[inline]
    pub(super) fn add_pending(&self, what: u8) {
        let pending = self.pending.get();
        self.pending.set(pending | what);
        if pending == 0 && self.queue.must_be_woken() {
            self.queue.wake_driver();
        }
    }

    /// Called when the Deferred of a trigger has fired: outside a turn, it wakes a loop whose
    /// shutdown may wait for it.
    pub(super) fn trigger_fired(&self) {
        if !self.queue.is_in_turn() && self.run.stage() == RunStage::Before {
            self.add_pending(pending::STOP);
        }
    }

    /// True when any of these bits is set.
    #[inline]
    pub(super) fn is_pending(&self, what: u8) -> bool {
        self.pending.get() & what != 0
    }

    /// Clears these bits; true when any of them was set.
    #[inline]
    pub(super) fn take_pending(&self, what: u8) -> bool {
        let pending = self.pending.get();
        self.pending.set(pending & !what);
        pending & what != 0
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    #[inline]
    pub(super) fn now(&self) -> Instant {
        if self.queue.is_in_turn() { self.time.get() } else { self.fresh_time() }
    }

    /// The clock's time, kept monotonic.
    pub(super) fn fresh_time(&self) -> Instant {
        self.time.get().max(self.world.now())
    }

    /// Step 2 of a turn: its time.
    #[inline]
    pub(super) fn begin_turn(&self) {
        self.time.set(self.fresh_time());
        self.queue.begin_turn();
    }

    /// Changes the timers. Wakes a sleeping loop if its next deadline becomes sooner.
    pub(super) fn with_timers<R>(&self, f: impl FnOnce(&mut Timers<TimerAction>) -> R) -> R {
        let mut timers = self.timers.borrow_mut();
        if !self.queue.must_be_woken() {
            return f(&mut timers);
        }
        let before = timers.next_deadline();
        let result = f(&mut timers);
        let after = timers.next_deadline();
        drop(timers);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.queue.wake_driver();
        }
        result
    }
}

/// A queued call into user code.
pub(super) enum Call {
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    /// The due calls of a connection.
    Due(Key),
    Run(Box<dyn FnOnce()>),
}

/// A request to an object that has started.
pub(super) enum LoopRequest {
    Port(Rc<PortCell>),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
    Datagrams(Rc<DatagramCell>),
    /// A waker of the connection's layers was woken.
    Layers(Key),
    HandOver(Box<HandOverRequest>),
    /// A connection has output that waits for the driver.
    Waiting(Key),
    SetLoadLimits(Box<LoadLimits>),
}

/// An object to be started in step 6.
pub(super) enum Start {
    Port(Rc<PortCell>),
    Datagrams(Rc<DatagramCell>),
    Connector(Rc<ConnectorCell>),
    Adoption(Rc<AdoptionCell>),
    /// A connection that another loop has accepted.
    HandedConnection(Box<HandedConnection>),
}

/// The action of a timer.
pub(super) enum TimerAction {
    Call(Box<dyn FnOnce()>),
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    Deadline(Key),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
}

impl Recorder for Records {
    fn serial(&self) -> u32 {
        self.serial
    }

    fn world(&self) -> &Rc<dyn World> {
        &self.world
    }

    fn spares(&self) -> &Rc<Spares> {
        &self.spares
    }

    fn made_at(&self) -> Instant {
        self.made_at
    }

    fn now(&self) -> Instant {
        Records::now(self)
    }

    fn fresh_time(&self) -> Instant {
        Records::fresh_time(self)
    }

    fn mark_dirty(&self, connection: Key) {
        Records::mark_dirty(self, connection);
    }

    fn wake_layers(&self, connection: Key) {
        self.request(LoopRequest::Layers(connection));
    }

    fn note_waiting(&self, connection: Key) -> bool {
        if self.counts_output.get() {
            self.request(LoopRequest::Waiting(connection));
        }
        self.counts_output.get()
    }

    fn keeps_connections(&self) -> bool {
        self.has_keeper.get()
    }

    fn visit_datagrams(&self, port: Rc<DatagramCell>) {
        self.request(LoopRequest::Datagrams(port));
    }

    fn queue_call(&self, (kind, of): (&'static str, &'static str), call: Box<dyn FnOnce()>) {
        self.enqueue(Call::Run(self.monitor_call(|| UserCall::by(kind, of), call)));
    }

    fn queue_tell(&self, place: Source, connection: &Rc<ConnectionCell>, tell: Box<dyn Tell>) {
        let tell = self.monitor_tell(place, tell);
        self.enqueue(Call::Tell(connection.clone(), tell));
    }

    fn time_call(
        &self,
        by: TimerOwner,
        delay: Duration,
        call: Box<dyn FnOnce()>,
    ) -> Option<TimerKey> {
        let (purpose, place) = by;
        let call = self.monitor_call(|| UserCall::at(purpose.kind(), place), call);
        self.add_timer(delay, TimerAction::Call(call), by)
    }

    fn time_tell(
        &self,
        place: Source,
        delay: Duration,
        connection: &Rc<ConnectionCell>,
        tell: Box<dyn Tell>,
    ) -> Option<TimerKey> {
        let tell = self.monitor_tell(place, tell);
        let by = (TimerPurpose::Connection(connection.key()), place);
        let timer = self.add_timer(delay, TimerAction::Tell(connection.clone(), tell), by)?;
        connection.add_timer(timer, &self.timers.borrow());
        Some(timer)
    }

    fn deadline(&self, timer: TimerKey) -> Option<Instant> {
        self.timers.borrow().deadline(timer)
    }

    fn move_call(&self, timer: TimerKey, deadline: Instant) -> bool {
        self.with_timers(|timers| timers.reset(timer, deadline))
    }

    fn cancel_call(&self, timer: TimerKey) -> bool {
        let removed = self.timers.borrow_mut().remove(timer);
        removed.is_some()
    }

    fn call_at_end(&self, call: Box<dyn FnOnce()>) -> Key {
        self.at_end.borrow_mut().insert(call)
    }

    fn cancel_call_at_end(&self, call: Key) {
        let cancelled = self.at_end.borrow_mut().remove(call);
        drop(cancelled);
    }

    fn is_dropped(&self) -> bool {
        Records::is_dropped(self)
    }

    fn monitor_producer(&self, of: &'static str, inner: Box<dyn Producer>) -> Box<dyn Producer> {
        match self.monitor.get() {
            None => inner,
            Some(monitor) => super::monitor::monitor_producer(monitor, of, inner),
        }
    }

    #[cfg(feature = "testing")]
    fn observes_layers(&self) -> bool {
        self.layer_observer.get().is_some()
    }

    #[cfg(feature = "testing")]
    fn report_layers(&self, connection: Key, above: LayerReport<'_>) {
        if let Some(observe) = self.layer_observer.get() {
            observe(connection, above);
        }
    }
}

impl Reactor {
    /// The records of its loop.
    #[inline]
    pub(super) fn records(&self) -> &Records {
        self.recorder().downcast_ref().expect("a loop's recorder is its records")
    }

    /// A handle whose requests are never applied, for tests of the modules below the loop.
    #[cfg(test)]
    pub(crate) fn without_a_loop() -> Reactor {
        use crate::driver::Commands;
        use crate::driver::memory::{Manner, Memory};
        let (driver, _) = Memory::new(Manner::Readiness, 0);
        let tasks = Tasks::new(driver.waker());
        Reactor::of(Records::new(driver.world(), tasks, &LoopOptions::default()))
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_layer_observer(&self, observe: impl Fn(Key, LayerReport<'_>) + 'static) {
        let first = self.records().layer_observer.set(Box::new(observe)).is_ok();
        debug_assert!(first, "one observer");
    }

    /// Queues the request that `build` makes from a ticket and a resolver, for the turn. Cancelling
    /// the Deferred records its ticket. Returns a failed Deferred if the loop was dropped.
    #[track_caller]
    pub(super) fn request<T: 'static, R: 'static>(
        &self,
        kind: &'static str,
        select: fn(&Records) -> &RefCell<DriverRequests<T>>,
        build: impl FnOnce(Ticket, Resolver<R>) -> T,
    ) -> Deferred<R> {
        let records = self.records();
        if records.is_dropped() {
            return Deferred::fail(loop_ended());
        }
        let ticket = select(records).borrow_mut().ticket();
        let weak = self.downgrade();
        let (deferred, resolver) = Deferred::with_canceller(move |_resolver| {
            if let Some(reactor) = weak.upgrade() {
                let records = reactor.records();
                select(records).borrow_mut().cancel(ticket);
                records.add_pending(pending::STARTS);
            }
        });
        fired_by(&deferred, FiredBy { kind, id: Some(ticket.0) });
        let request = build(ticket, resolver);
        select(records).borrow_mut().add(ticket, request);
        records.add_pending(pending::STARTS);
        deferred
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::iter::repeat;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::Records;
    use crate::reactor::tasks::Tasks;
    use crate::reactor::{Loop, LoopOptions, Reactor};
    use crate::task::{CooperativeTask, Cooperator};

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_request_between_turns_wakes_the_driver_only_if_something_may_sleep() {
        let records: [fn(&Reactor); 3] = [
            |reactor| reactor.snapshot().detach(),
            |reactor| drop(reactor.call_later(Duration::ZERO, || ())),
            |reactor| reactor.spawn(async { Ok(()) }).detach(),
        ];
        for record in records {
            for may_sleep in [false, true] {
                let (wakes, world) = (Arc::<Counting>::default(), Reactor::without_a_loop());
                let tasks = Tasks::new(wakes.clone().into());
                let all = Records::new(world.world().clone(), tasks, &LoopOptions::default());
                all.queue.set_may_sleep(may_sleep);
                record(&Reactor::of(all));
                assert_eq!(wakes.0.load(Ordering::Relaxed), usize::from(may_sleep));
            }
        }
    }

    #[test]
    fn a_cooperator_has_a_call_at_the_end_only_while_it_has_unfinished_tasks() {
        type End = fn(&mut Loop, &Cooperator, CooperativeTask);
        let ends: [(&str, End); 5] = [
            ("the task is stopped", |_, _, task| assert!(task.stop())),
            ("the cooperator is stopped", |_, all, _| all.stop()),
            ("a paused task is dropped", |l, _, task| {
                task.pause();
                l.turn(Some(Duration::ZERO)).expect("a turn");
            }),
            ("the run ends", |l, _, _| {
                l.begin(|_| Ok(())).expect("a run begins");
                l.end().expect("a run ends");
            }),
            ("the loop is dropped", |l, _, _| {
                *l = Loop::new().expect("a poll descriptor");
            }),
        ];
        for (name, end) in ends {
            let mut l = Loop::new().expect("a poll descriptor");
            let reactor = l.reactor();
            let cooperator = Cooperator::new(&reactor);
            for _ in 0..3 {
                let ended = cooperator.cooperate([()]).when_done();
                l.run_until(ended).expect("it ends");
                assert!(!reactor.records().has_calls_at_end(), "the task ended");
            }
            let task = cooperator.cooperate(repeat(()));
            let second = cooperator.cooperate(repeat(()));
            second.stop();
            assert_eq!(reactor.records().at_end.borrow().len(), 1, "one for each cooperator");
            end(&mut l, &cooperator, task);
            assert!(!reactor.records().has_calls_at_end(), "{name}");
        }
    }
}
