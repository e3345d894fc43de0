//! The [`Reactor`], a handle that records requests, and the [`Loop`], which owns the connections
//! and carries the requests out in its turn.
//!
//! A reactor is a value: a process may have several, each can run again after it was stopped, and
//! none is global. Twisted's `IReactorCore`, `IReactorTime`, `IReactorTCP`.

mod adopting;
mod connector;
mod datagrams;
mod delayed;
mod dependents;
mod drain;
mod inbox;
mod jobs;
mod leaks;
mod names;
mod options;
mod port;
mod remote;
mod requests;
mod sharing;
mod snapshot;
mod spawning;
mod stage;
mod stalls;
mod tasks;
pub(crate) mod timers;
mod turn;
#[cfg(unix)]
mod watch;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::panic::Location;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::datagrams::DatagramCell;
use crate::defer::{Deferred, Failure, Resolver};
use crate::driver::{Adopted, Key, Spares, Stalls, UserCall, World};
#[cfg(unix)]
use crate::driver::{Command, Spawned};
use crate::panics::Contained;
use crate::slots::Slots;
use crate::transport::Tell;
use crate::transport::cell::{ConnectionCell, Phase};
#[cfg(feature = "testing")]
use crate::transport::connection::LayerReport;

use adopting::AdoptionCell;
use connector::ConnectorCell;
pub use connector::{ConnectTarget, Connector, ConnectorState, NotDisconnected};
pub use delayed::DelayedCall;
pub(crate) use dependents::{Dependent, DependentId};
use drain::DrainCell;
pub use drain::Drained;
#[cfg(feature = "testing")]
pub(crate) use leaks::{Leak, numbered};
pub(crate) use leaks::{Source, TimerPurpose};
pub use options::{Answers, Drain, LoopOptions};
pub use port::Port;
use port::PortCell;
pub use remote::{LoopGone, Remote, WouldWaitForItself};
use sharing::HandedConnection;
pub(crate) use sharing::SharedSocket;
pub use snapshot::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PortSnapshot, Snapshot,
};
pub use stage::Shutdown;
use stage::Stage;
pub(crate) use tasks::{TaskId, TaskRef};
use tasks::{Tasks, WakeQueue};
use timers::Timers;
pub use turn::{Cluster, Loop, Members, NoSuchLoop, Stopped, cluster, react, run, run_until};
#[cfg(unix)]
pub use watch::{NotWatching, Watch};

/// The primitives that [`inbox`] uses; its test substitutes others.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
    pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
}

/// A handle to a loop: listens, connects, calls later, spawns. Cheap to clone and to keep.
///
/// The handle records requests and the loop's turn carries them out; only binding a port happens
/// immediately, so that it can return the error. Dropping a handle changes nothing.
///
/// ```
/// use couplet::{Protocol, Transport};
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// couplet::run(|reactor| {
///     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
///     println!("listening on {}", port.host());
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone)]
pub struct Reactor {
    records: Rc<Records>,
}

/// Requests recorded by handles and not yet applied by the turn.
pub(crate) struct Records {
    /// The loop's number in this process.
    serial: u32,
    world: Rc<dyn World>,
    spares: Rc<Spares>,
    /// The time of this turn, or of the last one.
    time: Cell<Instant>,
    /// Calls and woken tasks from other threads, and the way to wake the loop.
    queue: Arc<WakeQueue>,
    /// The lists below that hold work for the turn; bits of [`pending`].
    pending: Cell<u8>,
    /// [`Turns::Many`](turn::Turns) must return after this turn.
    must_return: Cell<bool>,
    /// The dirty list: connections with requests or output.
    // Bound: each connection twice: `ConnectionCell::dirty` lets it in once, and once more after
    // bytes.
    dirty: RefCell<Vec<Key>>,
    /// Calls into user code, first in, first out.
    // Unbounded: one per `tell`, `ask` and `call_soon` call, and one for each connection with calls
    // due; a round runs those present when it begins.
    calls: RefCell<VecDeque<Call>>,
    /// Ports, connectors, drains and layers with a request.
    // Unbounded: one for each call of a port or connector handle since the last round.
    requests: RefCell<VecDeque<LoopRequest>>,
    /// Listens and connects for step 6.
    // Unbounded: one per `listen` and `connect` call since the last turn.
    starts: RefCell<VecDeque<Start>>,
    timers: RefCell<Timers<TimerAction>>,
    tasks: RefCell<Tasks>,
    /// The task being polled, and the address of its waker.
    polled: Cell<Option<(TaskId, *const ())>>,
    jobs: jobs::Jobs,
    names: RefCell<requests::DriverRequests<names::Lookup>>,
    #[cfg(unix)]
    watches: RefCell<watch::Watches>,
    dependents: RefCell<dependents::Dependents>,
    // Unbounded: one per `snapshot` call since the last round.
    snapshots: RefCell<Vec<Resolver<Snapshot>>>,
    /// Called when the loop is dropped, to release the threads in [`Remote::block_on_reactor`].
    // Bound: one for each thread that waits in `Remote::block_on_reactor`.
    blocked: RefCell<Slots<Box<dyn FnOnce()>>>,
    /// Resolvers of pending snapshots of all loops of a cluster.
    // Unbounded: one per `Members::snapshot` call that has no answer yet.
    cluster_snapshots: RefCell<Slots<Resolver<Snapshot>>>,
    /// The ports that listen on sockets shared with other loops.
    // Bound: one for each port that the user made.
    shared_ports: RefCell<Slots<Rc<PortCell>>>,
    run: stage::Run,
    /// Source locations of requests; only in a loop under test.
    places: RefCell<Option<Box<leaks::Places>>>,
    /// Records calls for the stall detector, if it is on.
    stalls: OnceCell<Stalls>,
    /// Observes the bytes between layers and protocols, in a simulated loop.
    #[cfg(feature = "testing")]
    layer_observer: OnceCell<LayerObserver>,
}

/// Observes the bytes between layers and protocols.
#[cfg(feature = "testing")]
type LayerObserver = Box<dyn Fn(Key, LayerReport<'_>)>;

/// Pending work for the turn; a set of bits. While one is set, the loop does not sleep.
mod pending {
    /// Connections have requests or output.
    pub(super) const DIRTY: u8 = 1;
    /// Ports, connectors, drains, layers or snapshots have requests.
    pub(super) const REQUESTS: u8 = 2;
    /// Calls are queued.
    pub(super) const CALLS: u8 = 4;
    /// A round has work to do.
    pub(super) const ROUND: u8 = DIRTY | REQUESTS | CALLS;
    /// Tasks were spawned or cancelled.
    pub(super) const TASKS: u8 = 8;
    /// Listens, connects, adoptions, jobs or lookups must start.
    pub(super) const STARTS: u8 = 16;
    /// The run must end.
    pub(super) const STOP: u8 = 32;
}

impl Records {
    /// Records work for the turn. Outside a turn, also wakes the loop, which may be asleep in a
    /// foreign loop's wait.
    #[inline]
    fn add_pending(&self, what: u8) {
        let pending = self.pending.get();
        self.pending.set(pending | what);
        if pending == 0 && !self.queue.is_in_turn() {
            self.queue.wake_driver();
        }
    }

    /// True when any of these bits is set.
    #[inline]
    fn is_pending(&self, what: u8) -> bool {
        self.pending.get() & what != 0
    }

    /// Clears these bits; true when any of them was set.
    #[inline]
    fn take_pending(&self, what: u8) -> bool {
        let pending = self.pending.get();
        self.pending.set(pending & !what);
        pending & what != 0
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    #[inline]
    fn now(&self) -> Instant {
        if self.queue.is_in_turn() { self.time.get() } else { self.fresh_time() }
    }

    /// The clock's time, kept monotonic.
    fn fresh_time(&self) -> Instant {
        self.time.get().max(self.world.now())
    }

    /// Step 2 of a turn: its time.
    #[inline]
    fn begin_turn(&self) {
        self.time.set(self.fresh_time());
        self.queue.begin_turn();
    }

    /// Changes the timers. Outside a turn, wakes a sleeping loop if its next deadline becomes
    /// sooner.
    fn with_timers<R>(&self, f: impl FnOnce(&mut Timers<TimerAction>) -> R) -> R {
        let mut timers = self.timers.borrow_mut();
        if self.queue.is_in_turn() {
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
enum Call {
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    /// The due calls of a connection.
    Due(Key),
    Run(Box<dyn FnOnce()>),
}

/// A request to an object that has started.
enum LoopRequest {
    Port(Rc<PortCell>),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
    Datagrams(Rc<DatagramCell>),
    /// A waker of the connection's layers was woken.
    Layers(Key),
}

/// An object to be started in step 6.
enum Start {
    Port(Rc<PortCell>),
    Datagrams(Rc<DatagramCell>),
    Connector(Rc<ConnectorCell>),
    Adoption(Rc<AdoptionCell>),
    /// A connection that another loop has accepted.
    HandedConnection(Box<HandedConnection>),
}

/// The action of a timer.
enum TimerAction {
    Call(Box<dyn FnOnce()>),
    Tell(Rc<ConnectionCell>, Box<dyn Tell>),
    Deadline(Key),
    Connector(Rc<ConnectorCell>),
    Drain(Rc<DrainCell>),
}

impl Reactor {
    fn new(world: Rc<dyn World>, tasks: Tasks, options: &LoopOptions) -> Reactor {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let now = world.now();
        let timers = Timers::new(now);
        let serial = world.serial().unwrap_or_else(|| SERIAL.fetch_add(1, Ordering::Relaxed));
        Reactor {
            records: Rc::new(Records {
                serial,
                world,
                spares: Rc::default(),
                time: Cell::new(now),
                queue: tasks.queue(),
                pending: Cell::new(0),
                must_return: Cell::new(false),
                dirty: RefCell::default(),
                calls: RefCell::default(),
                requests: RefCell::default(),
                starts: RefCell::default(),
                timers: RefCell::new(timers),
                tasks: RefCell::new(tasks),
                polled: Cell::new(None),
                jobs: jobs::Jobs::default(),
                names: RefCell::default(),
                #[cfg(unix)]
                watches: RefCell::default(),
                dependents: RefCell::default(),
                snapshots: RefCell::default(),
                blocked: RefCell::new(Slots::new()),
                cluster_snapshots: RefCell::new(Slots::new()),
                shared_ports: RefCell::new(Slots::new()),
                run: stage::Run::new(options),
                places: RefCell::default(),
                stalls: OnceCell::new(),
                #[cfg(feature = "testing")]
                layer_observer: OnceCell::new(),
            }),
        }
    }

    /// A handle whose requests are never applied, for tests of the modules below the loop.
    #[cfg(test)]
    pub(crate) fn without_a_loop() -> Reactor {
        use crate::driver::Commands;
        use crate::driver::memory::{Manner, Memory};
        let (driver, _) = Memory::new(Manner::Readiness, 0);
        Reactor::new(driver.world(), Tasks::new(driver.waker()), &LoopOptions::default())
    }

    /// Starts a program in the reactor's world.
    #[cfg(unix)]
    pub(crate) fn start_program(&self, command: &Command) -> io::Result<Spawned> {
        self.records.world.spawn(command)
    }

    /// A descriptor that this program inherited, in a world that simulates inheritance.
    #[cfg(unix)]
    pub(crate) fn inherited(&self, number: i32) -> Option<io::Result<Adopted>> {
        self.records.world.inherited(number)
    }

    /// The open, active and pending objects of the loop, as of the next turn. Printable.
    pub fn snapshot(&self) -> Deferred<Snapshot> {
        let (deferred, resolver) = Deferred::new();
        self.records.snapshots.borrow_mut().push(resolver);
        self.records.add_pending(pending::REQUESTS);
        deferred
    }

    /// Registers a call for when the reactor stops; see [`Shutdown`]. Twisted's
    /// `addSystemEventTrigger`.
    #[track_caller]
    pub fn on(&self, when: Shutdown, f: impl FnOnce() -> Deferred<()> + 'static) {
        let (f, place) = (Contained::new(f), Location::caller());
        self.records.run.add_trigger(when, place, Box::new(move || f.take()()));
    }

    /// Ends the run: at the end of this turn the ports close, and connections flush written bytes
    /// (for at most [`LoopOptions::shutdown_grace`]) and are lost with
    /// [`Reason::Shutdown`](crate::Reason::Shutdown). Does nothing outside a run or when called
    /// again.
    pub fn stop(&self) {
        if self.records.run.stage() == Stage::Running {
            self.records.add_pending(pending::STOP);
        }
    }

    /// True from when ports and connections begin to close until the end of the run; still false
    /// during [`Shutdown::Before`].
    pub fn is_stopping(&self) -> bool {
        self.records.run.is_stopping()
    }

    fn is_dropped(&self) -> bool {
        self.records.run.stage() == Stage::Dropped
    }

    /// Whether `other` is a handle to the same loop.
    pub(crate) fn is(&self, other: &Reactor) -> bool {
        Rc::ptr_eq(&self.records, &other.records)
    }

    /// Makes [`Loop::turn_until`](crate::Loop::turn_until) return at the end of this turn, or
    /// outside a turn, of the next one, which does not wait. Does not end a run.
    pub fn interrupt(&self) {
        self.records.must_return.set(true);
    }

    /// Adapts the loop to a fork of the process. Call it in both processes right after the fork,
    /// with `is_child` true in the child; a callback may call it. Both processes have the
    /// connections, and both loops continue.
    ///
    /// Only programs that fork without executing another program need it, such as runtimes of other
    /// languages. The loop's threads, for jobs and name lookups, stay in the parent.
    ///
    /// # Errors
    ///
    /// In the child: the system's error, or [`Unsupported`](io::ErrorKind::Unsupported) unless the
    /// system is Linux. The child must not run the loop then.
    pub fn forked(&self, is_child: bool) -> io::Result<()> {
        self.records.world.forked(is_child)
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    pub fn now(&self) -> Instant {
        self.records.now()
    }

    pub(crate) fn world(&self) -> &Rc<dyn World> {
        &self.records.world
    }

    /// The time of day, as the time since 1970. Virtual in a simulation.
    pub fn unix_time(&self) -> Duration {
        self.records.world.unix_time()
    }

    /// The current time of the clock, even inside a turn.
    pub(crate) fn fresh_time(&self) -> Instant {
        self.records.fresh_time()
    }

    /// Locks a file: see [`World::lock_file`].
    pub(crate) fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        self.records.world.lock_file(path)
    }

    /// A random number from the loop's world; reproducible in a simulation.
    pub fn random(&self) -> u64 {
        self.records.world.random()
    }

    // Requests from other modules.

    pub(crate) fn serial(&self) -> u32 {
        self.records.serial
    }

    pub(crate) fn spares(&self) -> &Rc<Spares> {
        &self.records.spares
    }

    #[cfg(feature = "testing")]
    pub(crate) fn set_layer_observer(&self, observe: impl Fn(Key, LayerReport<'_>) + 'static) {
        let first = self.records.layer_observer.set(Box::new(observe)).is_ok();
        debug_assert!(first, "one observer");
    }

    #[cfg(feature = "testing")]
    pub(crate) fn observes_layers(&self) -> bool {
        self.records.layer_observer.get().is_some()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn report_layers(&self, key: Key, above: LayerReport<'_>) {
        if let Some(observe) = self.records.layer_observer.get() {
            observe(key, above);
        }
    }

    pub(crate) fn mark_dirty(&self, key: Key) {
        self.records.dirty.borrow_mut().push(key);
        self.records.add_pending(pending::DIRTY);
    }

    pub(crate) fn queue_call(
        &self,
        kind: &'static str,
        type_name: &'static str,
        call: impl FnOnce() + 'static,
    ) {
        self.enqueue(Call::Run(self.records.monitor_call(|| UserCall::by(kind, type_name), call)));
    }

    fn enqueue(&self, call: Call) {
        self.records.calls.borrow_mut().push_back(call);
        self.records.add_pending(pending::CALLS);
    }

    #[track_caller]
    pub(crate) fn tell(&self, cell: &Rc<ConnectionCell>, tell: Box<dyn Tell>) {
        let tell = self.records.monitor_tell(Location::caller(), tell);
        self.enqueue(Call::Tell(cell.clone(), tell));
    }

    #[track_caller]
    pub(crate) fn tell_later(
        &self,
        cell: &Rc<ConnectionCell>,
        delay: Duration,
        tell: Box<dyn Tell>,
    ) -> DelayedCall {
        if cell.phase() == Phase::Lost {
            return DelayedCall::never();
        }
        let tell = self.records.monitor_tell(Location::caller(), tell);
        let call = DelayedCall::new(self, delay, TimerAction::Tell(cell.clone(), tell));
        if let Some(timer) = call.timer() {
            cell.add_timer(timer, &self.records.timers.borrow());
            let purpose = TimerPurpose::Connection(cell.key());
            self.records.note_timer(timer, purpose, Location::caller());
        }
        call
    }

    /// Makes the turn call the layers of a connection, in this turn or the next.
    pub(crate) fn wake_layers(&self, key: Key) {
        self.record_request(LoopRequest::Layers(key));
    }

    fn record_request(&self, request: LoopRequest) {
        if self.is_dropped() {
            return;
        }
        self.records.requests.borrow_mut().push_back(request);
        self.records.add_pending(pending::REQUESTS);
    }

    fn start(&self, start: Start) {
        self.records.starts.borrow_mut().push_back(start);
        self.records.add_pending(pending::STARTS);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("serial", &self.records.serial).finish_non_exhaustive()
    }
}

/// The failure of an operation cut off by the end of its loop.
fn loop_ended() -> Failure {
    crate::defer::Cancelled::of("the loop has ended").into()
}
