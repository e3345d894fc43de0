//! [`Tap`]: a driver around the driver under test, which freezes the clock, so that deadlines are
//! exact without waiting, and counts the loop's commands and the driver's events.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZeroUsize;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use couplet::transport::ConnectedSocket;
use couplet::{
    Address, ConnectOptions, Datagram, DatagramOptions, DatagramSocket, Group, ListenOptions,
    SocketOption,
};
use couplet_core::driver::{
    Adopted, Bound, CloseMode, Commands, DatagramQueue, DatagramsSent, Driver, Event, Job, Key,
    ListeningSocket, LocalSocket, Membership, Outbox, Released, SocketCall, Ticket, World,
    WriteOutcome,
};

/// The commands and events of one key.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Calls of `write`, and the bytes they took from the outbox.
    pub writes: usize,
    pub written: usize,
    pub shut_writes: usize,
    pub closes: Vec<CloseMode>,
    pub receives: Vec<bool>,
    /// Bytes of all `Received`.
    pub received: usize,
    /// `Sent` events.
    pub sent: usize,
    /// Commands after the close, each a bug of the loop.
    pub late: usize,
}

/// The test's view of the tap, and its settings.
pub struct Tapped {
    inner: Rc<dyn World>,
    start: Instant,
    passed: Cell<Duration>,
    /// The real-time limit of a wait when there is nothing to do.
    pub nap: Cell<Duration>,
    /// The next wait returns without a look at the driver's events.
    pub is_blind: Cell<bool>,
    counts: RefCell<BTreeMap<Key, Counts>>,
    /// Each connect attempt: its time, address and key.
    pub connects: RefCell<Vec<(Duration, Address, Option<Key>)>>,
    /// Name lookups that the loop cancelled.
    pub forgotten: Cell<usize>,
    /// The `until` of each wait, since the start.
    pub waits: RefCell<Vec<Option<Duration>>>,
    /// Waits since the test's last single turn, to detect a run that never ends.
    pub waits_in_run: Cell<u32>,
    /// Called before each wait, to act for the peer during a run.
    pub on_wait: RefCell<Option<Box<dyn FnMut()>>>,
    /// Refuses to release sockets.
    pub keeps_sockets: Cell<bool>,
    /// For each of the next sends of datagrams, the number of them that it takes before it reports
    /// that the peer refused one.
    pub refused_sends: RefCell<VecDeque<usize>>,
    /// Errors of datagram ports.
    pub datagram_errors: Cell<usize>,
    /// The driver's own due time, in real time, when the loop last asked for it.
    driver_due: Cell<Option<Instant>>,
}

impl Tapped {
    /// Advances the clock.
    pub fn pass(&self, by: Duration) {
        self.passed.set(self.passed.get() + by);
    }

    /// Moves the clock back, which no real clock should do.
    pub fn go_back(&self, by: Duration) {
        self.passed.set(self.passed.get() - by);
    }

    /// The time passed since the start.
    pub fn passed(&self) -> Duration {
        self.passed.get()
    }

    /// Whether the driver's own due time has come.
    pub fn is_driver_due(&self) -> bool {
        self.driver_due.get().is_some_and(|due| due <= self.inner.now())
    }

    /// Calls the test's hook, as a wait does.
    pub fn call_on_wait(&self) {
        let hook = self.on_wait.borrow_mut().take();
        if let Some(mut hook) = hook {
            hook();
            self.on_wait.borrow_mut().get_or_insert(hook);
        }
    }

    pub fn counts(&self, key: Key) -> Counts {
        self.counts.borrow().get(&key).cloned().unwrap_or_default()
    }

    /// Records the deadline of a wait, and returns it relative to the start.
    pub fn note_wait(&self, until: Option<Instant>) -> Option<Duration> {
        let since = until.map(|until| until.saturating_duration_since(self.start));
        self.waits.borrow_mut().push(since);
        since
    }

    fn count(&self, key: Key, f: impl FnOnce(&mut Counts)) {
        f(self.counts.borrow_mut().entry(key).or_default());
    }

    fn command(&self, key: Key, f: impl FnOnce(&mut Counts)) {
        self.count(key, |counts| {
            counts.late += usize::from(!counts.closes.is_empty());
            f(counts);
        });
    }
}

/// Passes calls on to the inner driver, or its world.
macro_rules! forward {
    ($($(#[$on:meta])? $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => { $(
        $(#[$on])?
        fn $name(&self $(, $arg: $ty)*) $(-> $out)? {
            self.inner.$name($($arg),*)
        }
    )* };
}

/// As `forward`, for calls that change the driver.
macro_rules! forward_mut {
    ($($(#[$on:meta])? $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)?;)*) => { $(
        $(#[$on])?
        fn $name(&mut self $(, $arg: $ty)*) $(-> $out)? {
            self.inner.$name($($arg),*)
        }
    )* };
}

/// Without real time, a loop that asks for the stall detector has none.
impl World for Tapped {
    forward! {
        wall_clock() -> SystemTime;
        random() -> u64;
        is_real_time() -> bool;
        bind(address: &Address, options: &ListenOptions) -> io::Result<Bound>;
        bind_datagrams(address: &Address, options: &DatagramOptions) -> io::Result<Bound>;
        adopt(socket: ConnectedSocket) -> io::Result<Adopted>;
        #[cfg(unix)] adopt_pipe(pipe: couplet::transport::Pipe) -> io::Result<Adopted>;
        #[cfg(unix)] inherited(number: i32) -> Option<io::Result<Adopted>>;
        adopt_datagrams(socket: DatagramSocket, options: &DatagramOptions) -> io::Result<Bound>;
        adopt_port(socket: ListeningSocket) -> io::Result<Bound>;
        fed_port(host: &Address) -> io::Result<Bound>;
    }

    fn now(&self) -> Instant {
        self.start + self.passed.get()
    }
}

/// The wrapper around a driver.
pub struct Tap {
    inner: Box<dyn Driver>,
    tapped: Rc<Tapped>,
}

impl Tap {
    pub fn new(inner: Box<dyn Driver>) -> (Tap, Rc<Tapped>) {
        let world = inner.world();
        let tapped = Rc::new(Tapped {
            start: world.now(),
            inner: world,
            passed: Cell::default(),
            nap: Cell::default(),
            is_blind: Cell::default(),
            counts: RefCell::default(),
            connects: RefCell::default(),
            forgotten: Cell::default(),
            waits: RefCell::default(),
            waits_in_run: Cell::default(),
            on_wait: RefCell::default(),
            keeps_sockets: Cell::new(false),
            refused_sends: RefCell::default(),
            datagram_errors: Cell::default(),
            driver_due: Cell::default(),
        });
        let tap = Tap { inner, tapped: tapped.clone() };
        (tap, tapped)
    }
}

impl Driver for Tap {
    forward! {
        has_more() -> bool;
        full_batch() -> Option<NonZeroUsize>;
        datagram() -> Datagram<'_>;
        #[cfg(unix)] descriptor() -> Option<BorrowedFd<'_>>;
    }

    fn lent(&self, key: Key) -> &[u8] {
        self.inner.lent(key)
    }

    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let tapped = self.tapped.clone();
        tapped.waits_in_run.set(tapped.waits_in_run.get() + 1);
        assert!(tapped.waits_in_run.get() < 100_000, "the run does not end");
        let since = tapped.note_wait(until);
        tapped.call_on_wait();
        if tapped.is_blind.take() {
            return Ok(());
        }
        let nap = match since {
            Some(until) if until <= tapped.passed.get() => Duration::ZERO,
            _ => tapped.nap.get(),
        };
        self.inner.wait(Some(tapped.inner.now() + nap))
    }

    fn next(&mut self) -> Option<Event> {
        let event = self.inner.next()?;
        match &event {
            Event::Received(key) => {
                let bytes = self.inner.lent(*key).len();
                self.tapped.count(*key, |counts| counts.received += bytes);
            }
            Event::Sent(key, _) | Event::Room(key) => {
                self.tapped.count(*key, |counts| counts.sent += 1)
            }
            Event::DatagramError(..) => {
                self.tapped.datagram_errors.set(self.tapped.datagram_errors.get() + 1);
            }
            _ => {}
        }
        Some(event)
    }

    /// The driver's time is real, but the loop's is frozen: [`Tapped::is_driver_due`] compares the
    /// driver's.
    fn due(&self) -> Option<Instant> {
        self.tapped.driver_due.set(self.inner.due());
        None
    }
}

impl Commands for Tap {
    forward! {
        peer_has_ended(key: Key) -> bool;
        unsent(key: Key) -> Option<usize>;
        socket(key: Key) -> Option<LocalSocket>;
        port_counters(port: Key) -> couplet::reactor::PortCounters;
        peer_credentials(key: Key) -> Option<couplet::PeerCredentials>;
        waker() -> Waker;
    }

    forward_mut! {
        listen(bound: Bound) -> io::Result<Key>;
        set_reserved(port: Key, on: bool);
        adopt(adopted: Adopted) -> io::Result<Key>;
        with_socket(key: Key, call: SocketCall) -> Option<io::Result<()>>;
        resolve(ticket: Ticket, name: &str);
        run_blocking(ticket: Ticket, job: Job);
        forget_job(ticket: Ticket);
        watch_signals(on: bool) -> io::Result<()>;
    }

    fn world(&self) -> Rc<dyn World> {
        self.tapped.clone()
    }

    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let before = out.len();
        let outcome = self.inner.write(key, out);
        self.tapped.command(key, |counts| {
            counts.writes += 1;
            counts.written += before - out.len();
        });
        outcome
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        self.tapped.command(key, |counts| counts.writes += 1);
        let refused = self.tapped.refused_sends.borrow_mut().pop_front();
        if let Some(taken) = refused {
            out.pop(taken);
            return DatagramsSent::Failed(io::ErrorKind::ConnectionRefused.into());
        }
        self.inner.send_datagrams(key, out)
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        self.tapped.command(key, |_| {});
        self.inner.set_membership(key, group, change)
    }

    fn release(&mut self, key: Key) -> io::Result<Released> {
        if self.tapped.keeps_sockets.get() {
            return Err(io::Error::other("it is kept"));
        }
        self.inner.release(key)
    }

    fn can_release(&self, key: Key) -> bool {
        self.inner.can_release(key)
    }

    fn duplicate_port(&mut self, port: Key) -> io::Result<ListeningSocket> {
        self.inner.duplicate_port(port)
    }

    fn keep_socket_file(&mut self, port: Key, is_kept: bool) {
        self.inner.keep_socket_file(port, is_kept);
    }

    fn duplicate_datagrams(&mut self, port: Key) -> io::Result<DatagramSocket> {
        self.inner.duplicate_datagrams(port)
    }

    fn read_datagrams(&mut self, port: Key, on: bool) {
        self.tapped.command(port, |_| {});
        self.inner.read_datagrams(port, on);
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let attempt = self.inner.connect(to, options);
        let key = attempt.as_ref().ok().copied();
        let connect = (self.tapped.passed.get(), to.clone(), key);
        self.tapped.connects.borrow_mut().push(connect);
        attempt
    }

    fn receive(&mut self, key: Key, on: bool) {
        self.tapped.command(key, |counts| counts.receives.push(on));
        self.inner.receive(key, on);
    }

    fn shut_write(&mut self, key: Key) {
        self.tapped.command(key, |counts| counts.shut_writes += 1);
        self.inner.shut_write(key);
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        self.tapped.command(key, |counts| counts.closes.push(mode));
        self.inner.close(key, mode);
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        self.tapped.command(key, |_| {});
        self.inner.set_option(key, option)
    }

    fn forget(&mut self, ticket: Ticket) {
        self.tapped.forgotten.set(self.tapped.forgotten.get() + 1);
        self.inner.forget(ticket);
    }
}
