//! The [`Loop`]: it owns what handles record about, and its turn alone acts (law 1).
//!
//! A turn:
//!
//! 1. wait: not at all when something is recorded, woken or still readable, else until the next
//!    deadline;
//! 2. take the time, once, after the wait, and take over what was asked outside the turn;
//! 3. for each event: deliver it; then a *round*: take over what was asked of any connection,
//!    states at once and to the end, and make the calls into user code that stood in line when the
//!    round began; then write what this connection wrote;
//! 4. the calls from other threads, then the timed calls that are due;
//! 5. the tasks woken by now, each once;
//! 6. start listens, connects and jobs;
//! 7. one more round, then write everything else that was written.
//!
//! In a run, turns in which bytes come and answers leave, and nothing else, follow one another
//! inside of the driver (`Driver::wait_and_serve`): they have nothing to do in steps 4 to 7.
//!
//! A timed call or a task made in a turn waits for the next turn; a tell made while tells run
//! waits for the next round; while anything waits, step 1 does not sleep. So an answer leaves at
//! once, a thousand small writes leave in one call, and nothing that feeds itself starves the rest.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connecting::ConnectorCell;
use super::options::LoopOptions;
use super::port::PortState;
use super::shutdown::Stopping;
use super::table::{Place, Table};
use super::tasks::{Tasks, WakeQueue};
use super::timers::Mark;
use super::{Asking, Call, Reactor, RunState, Snapshot, Timed, waits};
use crate::defer::set_reporter;
use crate::driver::{Driver, Event, Key, Mio, Signal, Ticket};
use crate::protocol::Protocol;
use crate::transport::Tell;
use crate::transport::outbox::SPARE_TOTAL;
use crate::transport::panics::contain;
use crate::transport::wire::Wire;

/// What SIGUSR1 does with the snapshot that it asks for.
pub(super) type ShowSnapshot = Box<dyn FnMut(&Snapshot)>;

/// The loop: the driver, the connections, and the turn.
///
/// Programs call [`run`](crate::run); who owns the loop, or wants several, makes one here.
///
/// ```
/// use std::time::Duration;
///
/// let mut l = couplet::Loop::new()?;
/// let reactor = l.reactor();
/// let waking = reactor.sleep(Duration::from_millis(1));
/// l.run_until(waking)?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub struct Loop {
    pub(super) driver: Box<dyn Driver>,
    pub(super) reactor: Reactor,
    pub(super) table: Table,
    /// The time of this turn.
    pub(super) now: Instant,
    /// One call of `turn` may make many turns, up to one with more to do than to serve bytes.
    pub(super) runs_on: bool,
    /// Connections to write in step 7.
    to_write: Vec<Key>,
    pub(super) woken: Arc<WakeQueue>,
    dirty: Vec<Key>,
    pub(super) connectors: BTreeMap<u64, Rc<ConnectorCell>>,
    pub(super) next_connector: u64,
    /// Looked up by ticket only, never walked: its order has no effect.
    pub(super) resolving: HashMap<Ticket, Rc<ConnectorCell>>,
    pub(super) next_ticket: u64,
    pub(super) stopping: Stopping,
    pub(super) stopped_by: Option<Signal>,
    pub(super) at_once: bool,
    pub(super) shutdown_grace: Duration,
    pub(super) job_grace: Duration,
    pub(super) signals: bool,
    pub(super) on_snapshot: Option<ShowSnapshot>,
    /// Puts something around the protocol of each new connection.
    pub(super) wrap: Option<Wrap>,
}

type Wrap = Box<dyn Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol>>;

impl Loop {
    /// A loop over the default driver.
    ///
    /// # Errors
    ///
    /// When the system gives no poll descriptor.
    pub fn new() -> io::Result<Loop> {
        Loop::with_options(LoopOptions::default())
    }

    /// A loop over the default driver, with options.
    ///
    /// # Errors
    ///
    /// When the system gives no poll descriptor.
    pub fn with_options(options: LoopOptions) -> io::Result<Loop> {
        let driver = Mio::new(options.read_buffer)?;
        Ok(Loop::with_driver(Box::new(driver), options))
    }

    /// A loop over any driver.
    pub fn with_driver(driver: Box<dyn Driver>, options: LoopOptions) -> Loop {
        let world = driver.world();
        let now = world.now();
        report_to_the_log();
        let tasks = Tasks::new(driver.waker());
        let woken = tasks.queue();
        let reactor = Reactor::new(world, tasks);
        let table = Table::new(reactor.clone(), woken.clone(), now);
        Loop {
            driver,
            reactor,
            table,
            now,
            runs_on: false,
            to_write: Vec::new(),
            woken,
            dirty: Vec::new(),
            connectors: BTreeMap::new(),
            next_connector: 0,
            resolving: HashMap::new(),
            next_ticket: 0,
            stopping: Stopping::No,
            stopped_by: None,
            at_once: false,
            shutdown_grace: options.shutdown_grace,
            job_grace: options.job_grace,
            signals: options.signals,
            on_snapshot: None,
            wrap: None,
        }
    }

    /// A handle to this loop.
    pub fn reactor(&self) -> Reactor {
        self.reactor.clone()
    }

    /// Sets what is done with the snapshot that SIGUSR1 asks for; unless set, it is printed on
    /// stderr. Called by the turn, in runs that take signals.
    pub fn on_snapshot(&mut self, show: impl FnMut(&Snapshot) + 'static) {
        self.on_snapshot = Some(Box::new(show));
    }

    /// The signal that ended the last run, if one did.
    pub fn stopped_by(&self) -> Option<Signal> {
        self.stopped_by
    }

    /// One turn, which waits at most `at_most` for something to happen (`None`: as long as it
    /// takes). True while the run goes on; outside a run, always.
    ///
    /// # Errors
    ///
    /// When the driver's wait fails.
    pub fn turn(&mut self, at_most: Option<Duration>) -> io::Result<bool> {
        self.table.look_ahead();
        self.table.runs_on = self.runs_on && self.is_settled();
        let until = self.wait_until(self.table.deadline, at_most);
        let mut served = self.driver.wait_and_serve(until, &mut self.table)?;
        self.now = self.table.now;
        // What was asked outside the turn holds from the call on: before anything is delivered.
        if served.is_none() {
            self.take_over();
        }
        loop {
            match self.deliver(served.take()) {
                Delivered::To(current) => {
                    self.settle_one(current);
                    if self.reactor.records.waits(waits::ROUND) {
                        self.round();
                    }
                    self.flush(current);
                }
                Delivered::AndSettled => {}
                Delivered::Nothing => break,
            }
        }
        // What is asked for in this turn waits for the next: the deadline from before is enough.
        let goes_on = if self.table.is_due() {
            self.end_turn(Some(self.table.mark))
        } else {
            // Mostly nothing more is to be done.
            self.is_quiet() || self.end_turn(None)
        };
        self.reactor.records.now.set(None);
        Ok(goes_on)
    }

    /// Steps 4 to 7, and a shutdown; false when the run has ended.
    #[inline(never)]
    fn end_turn(&mut self, due: Option<Mark>) -> bool {
        if self.woken.door.is_any() {
            self.run_remote_calls();
        }
        if let Some(mark) = due {
            self.run_timed_calls(mark);
        }
        self.run_tasks();
        self.start_all();
        if self.reactor.records.waits(waits::ROUND) {
            self.round();
        }
        self.write_all();
        let goes_on = self.is_staying() || self.advance_shutdown();
        self.write_all();
        goes_on
    }

    /// Puts something around the protocol of each connection that is made from now on.
    pub(crate) fn wrap_protocols(
        &mut self,
        wrap: impl Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol> + 'static,
    ) {
        self.wrap = Some(Box::new(wrap));
    }

    /// When the next turn is due, if nothing comes before: a time that has passed where something
    /// waits.
    pub(crate) fn next_turn(&mut self) -> Option<Instant> {
        let deadline = self.reactor.records.timers.borrow_mut().next_deadline();
        self.wait_until(deadline, None)
    }

    /// A bound of the loop's own queues that was not kept.
    pub(crate) fn broken_bound(&self) -> Option<String> {
        let kept = self.reactor.records.spares.kept();
        (kept > SPARE_TOTAL).then(|| format!("the spare buffers hold {kept} bytes"))
    }

    /// The next turn has something to do, without a wait and without the driver.
    pub(crate) fn has_work(&mut self) -> bool {
        self.next_turn().is_some_and(|at| at <= self.reactor.now())
    }

    /// No shutdown is asked for or under way.
    #[inline]
    fn is_staying(&self) -> bool {
        self.is_settled() && !self.reactor.records.waits(waits::STOP)
    }

    #[inline]
    fn is_settled(&self) -> bool {
        matches!(self.stopping, Stopping::No) && !self.at_once
    }

    /// Nothing is left for the rest of a turn.
    #[inline]
    fn is_quiet(&self) -> bool {
        // A stop that was asked for waits too.
        !self.table.is_waiting() && self.to_write.is_empty() && self.is_settled()
    }

    /// Step 1: until when to wait.
    fn wait_until(&self, timers: Option<Instant>, at_most: Option<Duration>) -> Option<Instant> {
        if self.table.is_waiting() {
            return Some(self.now);
        }
        let mut until = timers;
        if let Stopping::Closing(end) | Stopping::Joining(end) = &self.stopping {
            until = Some(until.map_or(*end, |until| until.min(*end)));
        }
        if let Some(at_most) = at_most {
            let most = super::delayed::after(self.reactor.now(), at_most);
            until = Some(until.map_or(most, |until| until.min(most)));
        }
        until
    }

    /// Step 3. The way of nearly every event is that bytes come and an answer is sent; then an event
    /// that leaves more to do.
    #[inline]
    fn deliver(&mut self, served: Option<bool>) -> Delivered {
        let more = match served {
            Some(more) => more,
            None => self.driver.serve(&mut self.table),
        };
        match self.table.left.take() {
            Some(key) => Delivered::To(key),
            None if more => self.deliver_one(),
            None => Delivered::Nothing,
        }
    }

    /// One event of any kind.
    #[inline(never)]
    fn deliver_one(&mut self) -> Delivered {
        let now = self.now;
        let Some(event) = self.driver.next() else {
            return Delivered::Nothing;
        };
        Delivered::To(match event {
            Event::Received(key, data) => {
                let Some(entry) = self.table.connection(key) else {
                    return Delivered::AndSettled;
                };
                entry.life.wire().set_marked(true);
                entry.life.feed(data, now);
                key
            }
            Event::Sent(key, n) => {
                let Some(entry) = self.table.connection(key) else {
                    return Delivered::AndSettled;
                };
                entry.life.wire().set_marked(true);
                entry.life.sent(n, now);
                key
            }
            Event::Ended(key, error) => {
                self.ended(key, error);
                key
            }
            Event::Accepted { port, key, peer, host } => {
                self.accepted(port, key, peer, host);
                key
            }
            Event::Connected { key, host } => {
                if let Some(Place::Connecting(connector)) = self.table.place(key) {
                    let connector = connector.clone();
                    self.attempt_connected(key, &connector, host);
                }
                key
            }
            Event::Resolved(ticket, answer) => {
                self.name_resolved(ticket, answer);
                return Delivered::AndSettled;
            }
            Event::Ready(id, ready) => {
                #[cfg(unix)]
                self.watch_ready(id, ready);
                #[cfg(not(unix))]
                let _ = (id, ready);
                return Delivered::AndSettled;
            }
            Event::JobDone(ticket) => {
                self.job_done(ticket);
                return Delivered::AndSettled;
            }
            Event::Signal(signal) => {
                self.signalled(signal);
                return Delivered::AndSettled;
            }
        })
    }

    #[cold]
    fn ended(&mut self, key: Key, error: Option<io::Error>) {
        match self.table.place(key) {
            Some(Place::Connection(entry)) => {
                entry.life.wire().set_marked(true);
                entry.life.ended(error);
            }
            Some(Place::Connecting(connector)) => {
                let connector = connector.clone();
                let error = error.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into());
                self.attempt_ended(key, &connector, error);
            }
            Some(Place::Port(_) | Place::Empty) | None => {}
        }
    }

    /// Takes over what was asked, then makes the calls that stood in line when it began.
    #[inline(never)]
    pub(super) fn round(&mut self) {
        self.take_over();
        let in_line = self.reactor.records.line.borrow().len();
        for _ in 0..in_line {
            let call = self.reactor.records.line.borrow_mut().pop_front();
            match call {
                Some(Call::Due(key)) => {
                    let Some(entry) = self.table.connection(key) else { continue };
                    entry.in_line = false;
                    match entry.life.closed() {
                        None => self.run_due(key),
                        Some(how) => {
                            self.driver.close(key, how);
                            entry.life.lost();
                            self.connection_gone(key);
                        }
                    }
                }
                Some(Call::Tell(wire, tell)) => self.run_tell(wire, tell),
                Some(Call::Run(f)) => {
                    contain("call", f);
                }
                None => break,
            }
            self.take_over();
        }
    }

    /// States, at once and to the end. Of user code it calls only who waits for the end of a port
    /// or an attempt, or for a snapshot.
    #[inline(never)]
    fn take_over(&mut self) {
        self.reactor.records.take(waits::ROUND);
        std::mem::swap(&mut self.dirty, &mut self.reactor.records.dirty.borrow_mut());
        for at in 0..self.dirty.len() {
            let key = self.dirty[at];
            let Some(entry) = self.table.connection(key) else {
                continue;
            };
            entry.life.wire().set_marked(false);
            entry.life.take_over(self.now);
            if entry.life.is_full() {
                self.write_before_a_pause(key);
            }
            let Some(entry) = self.table.connection(key) else {
                continue;
            };
            if entry.life.has_due() {
                Self::line_up_due(&self.reactor, key, entry);
            }
            if entry.life.wire().has_output() && !std::mem::replace(&mut entry.to_write, true) {
                self.to_write.push(key);
            }
            if entry.life.has_orders() {
                self.carry_out(key);
            }
        }
        self.dirty.clear();
        self.take_over_ports();
        // The calls in line, and what was asked meanwhile, still wait.
        if !self.reactor.records.line.borrow().is_empty() {
            self.reactor.records.note(waits::ROUND);
        }
    }

    fn take_over_ports(&mut self) {
        // Those that stood there when it began: who is told of an end may ask again.
        let count = self.reactor.records.asking.borrow().len();
        for _ in 0..count {
            let asking = self.reactor.records.asking.borrow_mut().pop_front();
            match asking {
                None => break,
                Some(Asking::Port(port)) => self.port_asked(&port),
                Some(Asking::Connector(connector)) => self.connector_asked(&connector),
            }
        }
        if !self.reactor.records.snapshots.borrow().is_empty() {
            for resolver in self.reactor.records.snapshots.take() {
                resolver.callback(self.snapshot());
            }
        }
    }

    fn run_tell(&mut self, wire: Rc<Wire>, tell: Box<dyn Tell>) {
        match self.table.connection(wire.key()) {
            Some(entry) => entry.life.tell(tell),
            None => self.drop_call(Call::Tell(wire, tell)),
        }
    }

    /// A call that will not be made: who asked is told.
    pub(super) fn drop_call(&mut self, call: Call) {
        contain("drop of a call", move || {
            if let Call::Tell(wire, tell) = call {
                tell.lost(&wire.reason().unwrap_or(crate::error::Reason::Shutdown));
            }
        });
    }

    /// Step 4: the calls that are due and were asked for before this turn.
    fn run_timed_calls(&mut self, mark: Mark) {
        loop {
            let timed = self.reactor.records.timers.borrow_mut().pop_due(self.now, mark);
            match timed {
                None => break,
                Some(Timed::Call(f)) => {
                    contain("timed call", f);
                }
                Some(Timed::Tell(wire, tell)) => {
                    self.run_tell(wire, tell);
                }
                Some(Timed::Deadline(key)) => self.deadline_came(key),
                Some(Timed::Connector(connector)) => {
                    self.connector_timed(&connector, self.now);
                }
            }
        }
    }

    /// Step 6.
    fn start_all(&mut self) {
        if !self.reactor.records.take(waits::STARTS) {
            return;
        }
        self.start_jobs();
        let count = self.reactor.records.starts.borrow().len();
        for _ in 0..count {
            let start = self.reactor.records.starts.borrow_mut().pop_front();
            if let Some(start) = start {
                self.start_one(start);
            }
        }
    }

    pub(super) fn start_one(&mut self, start: Asking) {
        match start {
            Asking::Connector(connector) => self.start_connector(connector),
            Asking::Port(port) => self.start_port(&port),
        }
    }

    /// Step 7: everything else that was written, one call a connection.
    fn write_all(&mut self) {
        if self.to_write.is_empty() {
            return;
        }
        let mut keys = std::mem::take(&mut self.to_write);
        for key in keys.drain(..) {
            if let Some(entry) = self.table.connection(key) {
                entry.to_write = false;
                self.flush(key);
            }
        }
        // Nobody writes while this runs, so the list can be kept for the next turn.
        self.to_write = keys;
    }
}

/// Unhandled failures of this thread go to the log, or to stderr where nobody keeps one; unless the
/// program has chosen otherwise.
fn report_to_the_log() {
    let before = set_reporter(|unhandled| {
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!("{unhandled}");
        } else {
            eprintln!("{unhandled}");
        }
    });
    if before.is_chosen() {
        before.set();
    }
}

/// What [`Loop::deliver`] did.
enum Delivered {
    /// An event of this connection, which may have left something to settle.
    To(Key),
    /// Events that left nothing.
    AndSettled,
    Nothing,
}

impl Drop for Loop {
    /// What the loop held ends with it: connections are closed without a word to their protocols,
    /// and who waits for something hears of it.
    fn drop(&mut self) {
        for call in self.woken.door.close() {
            contain("drop of a call", move || drop(call));
        }
        self.drop_what_waits();
        #[cfg(unix)]
        self.end_watches();
        for connector in std::mem::take(&mut self.connectors).into_values() {
            Loop::abandon_connector(&connector);
        }
        let starts = std::mem::take(&mut *self.reactor.records.starts.borrow_mut());
        for start in starts {
            match start {
                Asking::Connector(connector) => Loop::abandon_connector(&connector),
                Asking::Port(port) => {
                    port.state.set(PortState::Stopped);
                    port.factory.clear();
                }
            }
        }
        for key in self.table.keys(|_| true) {
            match self.table.take(key) {
                Place::Port(port) => port.factory.clear(),
                Place::Connection(entry) => {
                    contain("drop of a protocol", move || entry.life.abandon());
                }
                Place::Connecting(_) | Place::Empty => {}
            }
        }
        self.reactor.records.asking.take();
        self.reactor.records.snapshots.take();
        self.drop_what_waits();
    }
}

impl fmt::Debug for Loop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loop")
            .field("connections", &self.table.connections())
            .field("running", &(self.reactor.records.run_state.get() != RunState::Idle))
            .finish_non_exhaustive()
    }
}
