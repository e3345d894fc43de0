//! The [`Reactor`], a handle that records requests for a loop, and [`Recorder`], the trait through
//! which it reaches the loop's records. Transports, factories and datagram ports know only this much
//! of a loop.
//!
//! A reactor is a value: a process may have several, each can run again after it was stopped, and
//! none is global. Twisted's `IReactorCore`, `IReactorTime`, `IReactorTCP`.

mod delayed;

use std::any::Any;
use std::fmt;
use std::io;
use std::panic::Location;
use std::path::Path;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

pub use delayed::DelayedCall;

use crate::datagrams::DatagramCell;
use crate::defer::Failure;
#[cfg(unix)]
use crate::driver::{Adopted, Command, Spawned};
use crate::driver::{Key, Spares, World};
use crate::panics::{Contained, contain_closure};
use crate::timers::{Moment, TimerKey};
use crate::transport::cell::{ConnectionCell, ConnectionPhase};
#[cfg(feature = "testing")]
use crate::transport::report::LayerReport;
use crate::transport::{Producer, Tell};

/// A location in user source code.
pub(crate) type Source = &'static Location<'static>;

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
    recorder: Rc<dyn Recorder>,
}

/// A loop as the objects that live in it see it: its world, its clock, and the requests that they
/// record for its turn.
pub(crate) trait Recorder: Any {
    /// The loop's number in this process.
    fn serial(&self) -> u32;
    fn world(&self) -> &Rc<dyn World>;
    fn spares(&self) -> &Rc<Spares>;
    /// When the loop was made: the origin of its [`Moment`]s.
    fn made_at(&self) -> Instant;
    /// The loop's clock: inside a turn, the time at which the turn began.
    fn now(&self) -> Instant;
    /// The clock's current time, kept monotonic.
    fn fresh_time(&self) -> Instant;

    /// The connection has requests or output.
    fn mark_dirty(&self, connection: Key);
    /// A waker of the connection's layers was woken.
    fn wake_layers(&self, connection: Key);
    /// The connection has output that waits for the driver. Returns false if the loop doesn't count it.
    fn note_waiting(&self, connection: Key) -> bool;
    /// Whether the loop has a keeper of connections.
    fn keeps_connections(&self) -> bool;
    /// The port has requests or output.
    fn visit_datagrams(&self, port: Rc<DatagramCell>);

    /// Queues a call into user code: for the stall detector, its kind and the type that it calls.
    fn queue_call(&self, doing: (&'static str, &'static str), call: Box<dyn FnOnce()>);
    fn queue_tell(&self, place: Source, connection: &Rc<ConnectionCell>, tell: Box<dyn Tell>);
    /// Makes the call after a delay, unless the loop is dropped.
    fn time_call(
        &self,
        by: TimerOwner,
        delay: Duration,
        call: Box<dyn FnOnce()>,
    ) -> Option<TimerKey>;
    fn time_tell(
        &self,
        place: Source,
        delay: Duration,
        connection: &Rc<ConnectionCell>,
        tell: Box<dyn Tell>,
    ) -> Option<TimerKey>;
    /// When a pending call is due.
    fn deadline(&self, timer: TimerKey) -> Option<Instant>;
    /// Moves a pending call; false if it is no longer pending.
    fn move_call(&self, timer: TimerKey, deadline: Instant) -> bool;
    /// Drops a pending call; false if it is no longer pending.
    fn cancel_call(&self, timer: TimerKey) -> bool;
    /// Makes the call when the run ends or the loop is dropped, with its pending work.
    fn call_at_end(&self, call: Box<dyn FnOnce()>) -> Key;
    /// Drops a call for the end that was not made.
    fn cancel_call_at_end(&self, call: Key);
    fn is_dropped(&self) -> bool;

    /// Wraps a producer of this type, so that the stall detector sees its calls.
    fn monitor_producer(&self, of: &'static str, inner: Box<dyn Producer>) -> Box<dyn Producer>;
    /// Whether the bytes between layers and protocols are observed.
    #[cfg(feature = "testing")]
    fn observes_layers(&self) -> bool;
    #[cfg(feature = "testing")]
    fn report_layers(&self, connection: Key, above: LayerReport<'_>);
}

/// The purpose of a timer, and the source location of its request.
pub(crate) type TimerOwner = (TimerPurpose, Source);

/// The purpose of a timer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerPurpose {
    Call,
    Sleep,
    Timeout,
    LoopingCall,
    Cooperator,
    Interval,
    /// A timed call of a connection, cancelled with it.
    Connection(Key),
}

/// A reactor that does not keep its records.
#[derive(Clone)]
pub(crate) struct WeakReactor(Weak<dyn Recorder>);

impl WeakReactor {
    pub(crate) fn upgrade(&self) -> Option<Reactor> {
        Some(Reactor { recorder: self.0.upgrade()? })
    }
}

impl Reactor {
    pub(crate) fn of(recorder: Rc<dyn Recorder>) -> Reactor {
        Reactor { recorder }
    }

    /// The recorder, for the modules that know its type.
    #[inline]
    pub(crate) fn recorder(&self) -> &dyn Any {
        &*self.recorder
    }

    pub(crate) fn downgrade(&self) -> WeakReactor {
        WeakReactor(Rc::downgrade(&self.recorder))
    }

    /// Whether `other` is a handle to the same loop.
    pub(crate) fn is(&self, other: &Reactor) -> bool {
        Rc::ptr_eq(&self.recorder, &other.recorder)
    }

    /// Starts a program in the reactor's world.
    #[cfg(unix)]
    pub(crate) fn start_program(&self, command: &Command) -> io::Result<Spawned> {
        self.world().spawn(command)
    }

    /// A descriptor that this program inherited, in a world that simulates inheritance.
    #[cfg(unix)]
    pub(crate) fn inherited(&self, number: i32) -> Option<io::Result<Adopted>> {
        self.world().inherited(number)
    }

    /// The loop's clock: inside a turn, the time at which the turn began.
    pub fn now(&self) -> Instant {
        self.recorder.now()
    }

    pub(crate) fn world(&self) -> &Rc<dyn World> {
        self.recorder.world()
    }

    /// The time of day, as the time since 1970. Virtual in a simulation.
    pub(crate) fn unix_time(&self) -> Duration {
        self.world().unix_time()
    }

    /// The current time of the clock, even inside a turn.
    pub(crate) fn fresh_time(&self) -> Instant {
        self.recorder.fresh_time()
    }

    /// Locks a file: see [`World::lock_file`].
    pub(crate) fn lock_file(&self, path: &Path) -> io::Result<Option<Box<dyn Any>>> {
        self.world().lock_file(path)
    }

    /// A random number from the loop's world; reproducible in a simulation.
    pub(crate) fn random(&self) -> u64 {
        self.world().random()
    }

    pub(crate) fn serial(&self) -> u32 {
        self.recorder.serial()
    }

    pub(crate) fn spares(&self) -> &Rc<Spares> {
        self.recorder.spares()
    }

    /// The instant in eight bytes.
    pub(crate) fn moment(&self, at: Instant) -> Moment {
        Moment::new(self.recorder.made_at(), at)
    }

    pub(crate) fn instant(&self, moment: Moment) -> Instant {
        moment.instant(self.recorder.made_at())
    }

    #[inline]
    pub(crate) fn mark_dirty(&self, connection: Key) {
        self.recorder.mark_dirty(connection);
    }

    /// Makes the turn call the layers of a connection, in this turn or the next.
    pub(crate) fn wake_layers(&self, connection: Key) {
        self.recorder.wake_layers(connection);
    }

    /// Has the turn count the output of a connection, which waits, if it is limited.
    pub(crate) fn note_waiting(&self, connection: Key) -> bool {
        self.recorder.note_waiting(connection)
    }

    /// Whether the loop has a keeper of connections.
    pub(crate) fn keeps_connections(&self) -> bool {
        self.recorder.keeps_connections()
    }

    /// Makes the turn process the requests of a port.
    pub(crate) fn visit_datagrams(&self, port: Rc<DatagramCell>) {
        self.recorder.visit_datagrams(port);
    }

    pub(crate) fn queue_call(
        &self,
        kind: &'static str,
        type_name: &'static str,
        call: impl FnOnce() + 'static,
    ) {
        self.recorder.queue_call((kind, type_name), contain_closure(call));
    }

    #[track_caller]
    pub(crate) fn tell(&self, cell: &Rc<ConnectionCell>, tell: Box<dyn Tell>) {
        self.recorder.queue_tell(Location::caller(), cell, tell);
    }

    #[track_caller]
    pub(crate) fn tell_later(
        &self,
        cell: &Rc<ConnectionCell>,
        delay: Duration,
        tell: Box<dyn Tell>,
    ) -> DelayedCall {
        if cell.phase() == ConnectionPhase::Lost {
            return DelayedCall::never();
        }
        let timer = self.recorder.time_tell(Location::caller(), delay, cell, tell);
        DelayedCall::of(self, timer)
    }

    /// Makes the call when the run ends or the loop is dropped, unless it is cancelled. Not pending
    /// work: the call does not keep a run alive, and is no leak.
    pub(crate) fn call_at_end(&self, call: impl FnOnce() + 'static) -> CallAtEnd {
        CallAtEnd(self.recorder.call_at_end(Box::new(call)))
    }

    pub(crate) fn cancel_call_at_end(&self, CallAtEnd(call): CallAtEnd) {
        self.recorder.cancel_call_at_end(call);
    }

    /// When a pending call is due.
    pub(crate) fn deadline(&self, timer: TimerKey) -> Option<Instant> {
        self.recorder.deadline(timer)
    }

    /// Whether the loop was dropped.
    pub(crate) fn is_dropped(&self) -> bool {
        self.recorder.is_dropped()
    }

    pub(crate) fn monitor_producer<P: Producer + 'static>(&self, inner: P) -> Box<dyn Producer> {
        let inner = Box::new(Contained::new(inner));
        self.recorder.monitor_producer(std::any::type_name::<P>(), inner)
    }

    #[cfg(feature = "testing")]
    pub(crate) fn observes_layers(&self) -> bool {
        self.recorder.observes_layers()
    }

    #[cfg(feature = "testing")]
    pub(crate) fn report_layers(&self, connection: Key, above: LayerReport<'_>) {
        self.recorder.report_layers(connection, above);
    }
}

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").field("serial", &self.serial()).finish_non_exhaustive()
    }
}

/// Names a call of [`Reactor::call_at_end`].
#[derive(Clone, Copy)]
pub(crate) struct CallAtEnd(Key);

/// The failure of an operation cut off by the end of its loop.
pub(crate) fn loop_ended() -> Failure {
    crate::defer::Cancelled::of("the loop has ended").into()
}
