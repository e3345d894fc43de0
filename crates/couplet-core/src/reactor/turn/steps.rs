//! The steps of a turn.
//!
//! Contract: 2a, 3, 15c, 20a, 51e, 57a, 86a–89, 96.

use std::io;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::connections::transmit;
use super::core::Core;
use super::table::{Opening, Resource};
use crate::driver::recorded::RingWriter;
use crate::driver::{CloseMode, Commands, Driver, Event, Key, LocalEnd};
use crate::error::ConnectError;
use crate::panics::contain;
use crate::reactor::records::{Call, LoopRequest, Start, TimerAction, pending};
use crate::timers::{Seq, after};
use crate::transport::Tell;
use crate::transport::cell::{ConnectionCell, mode};
use crate::transport::connection::{Effects, Life};

/// Above this lateness of a timed call, the turn looks for input again before it makes the call. More
/// than a wait is late on its own.
const LATE: Duration = Duration::from_millis(10);

/// How many turns to run.
#[derive(Clone, Copy)]
pub(super) enum Turns {
    /// One turn, which waits at most this long (`None`: no limit).
    One(Option<Duration>),
    /// Until the run ends, or [`hooks::interrupt`](crate::hooks::interrupt) was called.
    Many,
}

/// A turn that was suspended in its step 3.
pub(super) struct Suspended {
    seq: Seq,
    /// The connection of the last event, whose requests and output are due.
    key: Option<Key>,
}

/// The continuation after a turn.
enum AfterTurn {
    /// Steps 1 and 3 once more, without a wait.
    LookAgain,
    /// Another turn, which waits at most until then.
    Wait(Option<Instant>),
    Return {
        continues: bool,
    },
}

/// A driver and the turn compiled for it. Implemented for every driver, so that none can have its
/// own turn (law 4).
pub(super) trait Engine: Driver {
    /// Runs turns; returns false once the run has ended.
    fn turn(&mut self, core: &mut Core, turns: Turns) -> io::Result<bool>;
}

impl<D: Driver> Engine for D {
    /// The driver's primitives are inlined, so that one function makes all system calls of a busy
    /// loop: a return across a system call is mispredicted, and on processors whose kernels guard
    /// their returns the kernel's own code pays for it.
    #[inline(never)]
    fn turn(&mut self, core: &mut Core, turns: Turns) -> io::Result<bool> {
        let mut seq = match core.suspended.take() {
            None => core.await_turn(self, core.next_wait(turns))?,
            Some(suspended) => match core.resume(self, suspended) {
                Some(seq) => seq,
                None => return Ok(true),
            },
        };
        loop {
            while let Some(event) = self.next() {
                let key = match event {
                    Event::Received(key) => {
                        // The event needs no drop, and skipping the drop saves a busy loop 50
                        // instructions.
                        std::mem::forget(event);
                        let Some(key) = core.received(self, key) else { continue };
                        Some(key)
                    }
                    event => core.handle_event(self, event),
                };
                if key.is_some() && core.records.is_pending(pending::ROUND) {
                    core.round(self);
                }
                core.reply(self, key);
                if core.suspends(seq, key) {
                    return Ok(true);
                }
            }
            seq = match core.end_turn(self, seq, turns) {
                AfterTurn::LookAgain => {
                    core.look_again(self)?;
                    seq
                }
                AfterTurn::Wait(until) => core.await_turn(self, until)?,
                AfterTurn::Return { continues } => {
                    core.leave();
                    return Ok(continues);
                }
            };
        }
    }
}

impl Core {
    /// The program that turns the loop has the thread until the next turn.
    #[inline(never)]
    fn leave(&self) {
        if let Some(ring) = self.records.ring() {
            ring.leave();
        }
    }

    // Steps 1 and 2.

    /// Waits for the next turn, and begins it.
    #[inline(always)]
    fn await_turn<D: Driver>(&mut self, driver: &mut D, until: Option<Instant>) -> io::Result<Seq> {
        self.hooks.wait(driver, until, &self.records.queue)?;
        Ok(self.begin_turn(driver))
    }

    /// Step 1 in the middle of a turn: polls.
    #[cold]
    #[inline(never)]
    fn look_again<D: Driver>(&mut self, driver: &mut D) -> io::Result<()> {
        self.hooks.wait(driver, Some(self.records.turn_time()), &self.records.queue)
    }

    /// The deadline of the next wait; a time in the past if work is pending.
    #[inline(always)]
    pub(super) fn next_wait(&self, turns: Turns) -> Option<Instant> {
        let records = &self.records;
        if self.is_pending() {
            return Some(records.turn_time());
        }
        let until = records.timers.borrow_mut().next_deadline();
        match turns {
            Turns::Many | Turns::One(None) if !records.run.is_timed() => until,
            _ => self.next_wait_bounded(until, turns),
        }
    }

    #[cold]
    fn next_wait_bounded(&self, until: Option<Instant>, turns: Turns) -> Option<Instant> {
        let now = self.reactor.now();
        let stage = self.records.run.deadline(now);
        let at_most = match turns {
            Turns::One(Some(at_most)) => Some(after(now, at_most)),
            Turns::One(None) | Turns::Many => None,
        };
        until.into_iter().chain(stage).chain(at_most).min()
    }

    /// Step 2. Only timed calls requested before the returned [`Seq`] may run in this turn.
    #[inline(always)]
    fn begin_turn(&mut self, io: &mut dyn Commands) -> Seq {
        let records = &self.records;
        let is_in_turn = records.queue.is_in_turn();
        debug_assert_eq!(is_in_turn, self.suspended.is_some(), "a turn inside a turn");
        records.begin_turn();
        let seq = records.timers.borrow().seq();
        if records.is_pending(pending::TASKS) {
            records.tasks.borrow_mut().begin_turn();
        }
        // Requests made outside a turn take effect before anything is delivered.
        if records.is_pending(pending::ROUND) {
            self.apply_recorded(io);
        }
        seq
    }

    /// Whether recorded requests or woken tasks are pending.
    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        let records = &self.records;
        records.is_pending(u8::MAX) || records.queue.inbox.has_items()
    }

    /// True when no shutdown is requested or in progress.
    #[inline]
    fn keeps_running(&self) -> bool {
        let records = &self.records;
        records.run.is_settled() && !records.is_pending(pending::STOP)
    }

    /// The time of this turn; after the run, of the last one.
    #[inline(always)]
    pub(super) fn now(&self) -> Instant {
        self.records.turn_time()
    }

    // Step 3.

    /// Delivers received bytes. Law 4: the only way in, on every driver. Usually the protocol
    /// replies, requests nothing else, and the reply is sent here; otherwise returns the connection
    /// for the remaining work of step 3.
    #[inline(always)]
    fn received<D: Driver>(&mut self, driver: &mut D, key: Key) -> Option<Key> {
        let now = self.now();
        let entry = self.table.connection(key)?;
        // Clean again afterwards, even if the dirty list has it: a round is pending then anyway.
        entry.life.cell().set_dirty(true);
        let effects = entry.life.feed(driver.lent(key), now);
        entry.life.cell().set_dirty(false);
        let is_pending = self.records.is_pending(pending::EVENT);
        if !effects.is_at_most(Effects::OUTPUT) || is_pending {
            let holds = self.batching.holds() && driver.has_more();
            let is_work_left = match effects {
                Effects::NOTHING => true,
                Effects::BELOW if holds => true,
                Effects::BELOW => self.send_below(driver, key),
                _ => self.received_more(driver, key, effects, holds),
            };
            return is_work_left.then_some(key);
        }
        if effects.has(Effects::OUTPUT) {
            if self.batching.holds() && driver.has_more() {
                return Some(key);
            }
            let written = transmit(driver, key, &mut entry.life.cell().outbox());
            let effects = entry.life.wrote(written, now);
            if effects != Effects::NOTHING {
                self.apply_effects(driver, key, effects);
            }
        }
        None
    }

    /// The end of step 3 for one event: the output of its connection.
    #[inline(always)]
    fn reply<D: Driver>(&mut self, driver: &mut D, key: Option<Key>) {
        let Some(key) = key else { return };
        if self.records.is_pending(pending::SUSPEND) {
            // `resume` calls this again.
            return;
        }
        if self.batching.holds() && driver.has_more() {
            self.answer(driver, key);
        } else {
            self.send(driver, key);
        }
    }

    /// Suspends the turn after an event of connection `key`, if that is requested.
    #[inline(always)]
    fn suspends(&mut self, seq: Seq, key: Option<Key>) -> bool {
        let is_suspended = self.records.take_pending(pending::SUSPEND);
        if is_suspended {
            // The connection's requests need no entry in the dirty list: they are applied first.
            if let Some(entry) = key.and_then(|key| self.table.connection(key)) {
                entry.life.cell().set_dirty(true);
            }
            self.suspended = Some(Suspended { seq, key });
        }
        is_suspended
    }

    /// Resumes a suspended turn: applies the requests that the connection has recorded since,
    /// and completes its event. `None` if that suspends the turn again.
    #[inline(never)]
    fn resume<D: Driver>(&mut self, driver: &mut D, suspended: Suspended) -> Option<Seq> {
        let (Suspended { seq, key }, now) = (suspended, self.now());
        if let Some(key) = key
            && let Some(entry) = self.table.connection(key)
        {
            let effects = entry.life.apply(now);
            entry.life.cell().set_dirty(false);
            let holds = self.batching.holds() && driver.has_more();
            let is_pending = self.records.is_pending(pending::EVENT);
            // Usually a reply and nothing else.
            if holds || is_pending || !effects.is_at_most(Effects::OUTPUT) {
                self.apply_all_effects(driver, key, effects);
            }
        }
        if key.is_some() && self.records.is_pending(pending::ROUND) {
            self.round(driver);
        }
        self.reply(driver, key);
        (!self.suspends(seq, key)).then_some(seq)
    }

    /// Completes [`received`](Self::received) if there is more to do than send output without
    /// layers. Returns true if work of step 3 remains.
    #[inline(never)]
    fn received_more(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        effects: Effects,
        holds: bool,
    ) -> bool {
        let is_pending = self.records.is_pending(pending::EVENT);
        if is_pending || holds || !effects.is_at_most(Effects::OUTPUT.and(Effects::LAYERED)) {
            self.apply_all_effects(io, key, effects);
            return true;
        }
        if effects.has(Effects::OUTPUT) {
            self.send_through_layers(io, key);
        }
        false
    }

    /// Handles any event except bytes; returns its connection for the remaining work of step 3.
    #[inline(never)]
    fn handle_event<D: Driver>(&mut self, driver: &mut D, event: Event) -> Option<Key> {
        let io: &mut dyn Commands = driver;
        match event {
            Event::Received(_) => unreachable!("`received` handles bytes"),
            #[cfg(unix)]
            Event::Descriptor(key, descriptor) => {
                self.with_life(io, key, |life, now| life.descriptor(descriptor, now));
                return Some(key);
            }
            Event::Sent(key, n) => {
                self.with_life(io, key, |life, now| life.sent(n, now));
                return Some(key);
            }
            Event::PeerEnded(key) => {
                self.with_life(io, key, Life::peer_ended);
                return Some(key);
            }
            Event::Room(key) => {
                self.with_life(io, key, Life::has_room);
                return Some(key);
            }
            Event::Ended(key) => {
                self.with_life(io, key, Life::ended);
                return Some(key);
            }
            Event::Failed(key, error) => {
                self.failed(io, key, error);
                return Some(key);
            }
            Event::WriteFailed(key, error) => {
                self.with_life(io, key, |life, now| life.write_failed(error, now));
                return Some(key);
            }
            Event::Accepted { port, key, peer, host } => {
                self.accepted(io, port, key, peer, host);
                return Some(key);
            }
            Event::Connected { key, host } => {
                let _hold = self.records.hold("connect");
                let (connector, peer) = self.connecting.attempt_connected(io, key)?;
                let ends = (peer, LocalEnd::for_connection(host, io, key));
                self.establish(io, key, ends, Opening::Connector(connector));
                self.count_load(io);
                return Some(key);
            }
            Event::Resolved(ticket, answer) => self.name_resolved(io, ticket, answer),
            Event::Ready(id, ready) => {
                #[cfg(unix)]
                self.watch_ready(id, ready);
                #[cfg(not(unix))]
                let _ = (id, ready);
            }
            Event::JobDone(ticket) => self.job_done(ticket),
            Event::Signal(signal) => self.signal_received(driver, signal),
            Event::Datagram { key, more } => return self.datagram_received(driver, key, more),
            Event::DatagramError(key, error) => {
                self.datagrams_failed(key, error);
                return Some(key);
            }
        }
        None
    }

    /// An error ended a connection or an attempt to connect.
    fn failed(&mut self, io: &mut dyn Commands, key: Key, error: io::Error) {
        if self.table.connection(key).is_some() {
            self.with_life(io, key, |life, _| life.failed(error));
        } else {
            let _hold = self.records.hold("connect");
            self.connecting.attempt_ended(io, key, error);
        }
    }

    /// Applies recorded requests, then makes the calls that were queued when the round began.
    #[inline(never)]
    pub(super) fn round(&mut self, io: &mut dyn Commands) {
        self.apply_recorded(io);
        if !self.records.take_pending(pending::CALLS) {
            return;
        }
        let queued = self.records.queued_calls();
        for _ in 0..queued {
            match self.records.next_call() {
                Some(Call::Due(key)) => {
                    let now = self.now();
                    let Some(entry) = self.table.connection(key) else { continue };
                    entry.queued = false;
                    match entry.life.closed() {
                        None => self.with_life(io, key, Life::run_due),
                        Some(mode) => {
                            // The socket stays open while `connection_lost` may query it.
                            entry.life.lost(now);
                            entry.log_end(now);
                            if mode == CloseMode::Normal && entry.life.cell().has_mode(mode::SHARED)
                            {
                                io.shut_write(key);
                            }
                            io.close(key, mode);
                            self.remove_connection(io, key);
                        }
                    }
                }
                Some(Call::Tell(cell, tell)) => self.run_tell(io, cell, tell),
                Some(Call::Run(f)) => {
                    contain("call", f);
                }
                None => break,
            }
            self.apply_recorded(io);
        }
    }

    /// Applies recorded requests: all state changes happen now. The only user code that runs here
    /// are callbacks of Deferreds: for the end of a port or a connect attempt, and for a snapshot.
    #[inline(never)]
    fn apply_recorded(&mut self, io: &mut dyn Commands) {
        if self.records.take_pending(pending::DIRTY) {
            self.apply_dirty(io);
        }
        if self.records.take_pending(pending::REQUESTS) {
            self.apply_requests(io);
        }
    }

    fn apply_dirty(&mut self, io: &mut dyn Commands) {
        let mut dirty = self.records.take_dirty();
        if let Some(ring) = self.records.ring().cloned() {
            self.note_output(&ring, &dirty);
        }
        for key in dirty.drain(..) {
            if let Some(entry) = self.table.connection(key) {
                entry.life.cell().set_dirty(false);
                self.with_life(io, key, |life, now| life.apply(now));
            }
        }
        self.records.recycle_dirty(dirty);
    }

    /// Writes to the ring which connections have output that was recorded outside their callbacks.
    #[cold]
    fn note_output(&mut self, ring: &RingWriter, dirty: &[Key]) {
        for key in dirty {
            let Some(entry) = self.table.connection(*key) else { continue };
            let unsent = entry.life.cell().buffered();
            if unsent > 0 {
                ring.recorded(*key, unsent);
            }
        }
    }

    #[inline(never)]
    fn apply_requests(&mut self, io: &mut dyn Commands) {
        let _hold = self.records.hold("request");
        // Only the requests queued now: callbacks may add more.
        for _ in 0..self.records.recorded_requests() {
            match self.records.next_request() {
                None => break,
                Some(LoopRequest::Port(port)) => self.apply_port_requests(io, &port),
                Some(LoopRequest::Connector(connector)) => {
                    if connector.can_be_stopped() {
                        self.connect_failed(io, &connector, ConnectError::Stopped);
                    }
                }
                Some(LoopRequest::Drain(drain)) => self.apply_drain_request(io, &drain),
                Some(LoopRequest::Datagrams(port)) => self.apply_datagram_requests(io, &port),
                Some(LoopRequest::Layers(key)) => {
                    self.with_life(io, key, |life, now| life.layers_woken(now));
                }
                Some(LoopRequest::HandOver(request)) => self.hand_over(io, *request),
                Some(LoopRequest::Waiting(key)) => self.add_waiting(key),
                Some(LoopRequest::SetLoadLimits(limits)) => self.set_load_limits(io, *limits),
            }
        }
        for resolver in self.records.take_snapshot_requests() {
            resolver.callback(self.snapshot(io));
        }
        if let Some(ticks) = self.records.take_frame_request() {
            self.take_frame(io, ticks);
        }
    }

    pub(super) fn run_tell(
        &mut self,
        io: &mut dyn Commands,
        cell: Rc<ConnectionCell>,
        tell: Box<dyn Tell>,
    ) {
        let key = cell.key();
        if self.table.connection(key).is_some() {
            self.with_life(io, key, |life, now| life.tell(tell, now));
        } else {
            self.drop_call(Call::Tell(cell, tell));
        }
    }

    /// Drops a queued call; its Deferred fails with the connection's reason.
    pub(super) fn drop_call(&mut self, call: Call) {
        contain("drop of a call", move || {
            if let Call::Tell(cell, tell) = call {
                tell.lost(&cell.reason().unwrap_or(crate::error::Reason::Shutdown));
            }
        });
    }

    // Steps 4 to 7.

    /// Ends a turn. Usually no work is left, and the next turn waits for the same deadline.
    #[inline(always)]
    fn end_turn<D: Driver>(&mut self, driver: &mut D, seq: Seq, turns: Turns) -> AfterTurn {
        let deadline = self.records.timers.borrow_mut().next_deadline();
        let due = deadline.filter(|deadline| *deadline <= self.records.turn_time());
        if let Some(due) = due
            && self.must_look_again(due, driver.full_batch())
        {
            return AfterTurn::LookAgain;
        }
        let (records, is_due) = (&self.records, due.is_some());
        let is_quiet = !is_due
            && !self.is_pending()
            && !self.table.has_writes()
            && records.run.is_settled()
            && !self.load.is_counting()
            && !self.keeping.is_due();
        let continues = is_quiet || self.end_busy_turn(driver, is_due.then_some(seq));
        self.batching.turn_ended();
        let records = &self.records;
        records.queue.end_turn();
        if !continues || matches!(turns, Turns::One(_)) || records.take_interrupt() {
            self.last_turn = seq;
            return AfterTurn::Return { continues };
        }
        AfterTurn::Wait(if is_quiet { deadline } else { self.next_wait(turns) })
    }

    /// Whether a timed call that is `due` might overtake input at hand: the last wait was full, or it
    /// ended late, and input may have arrived since, as in a process that was stopped.
    #[cold]
    #[inline(never)]
    fn must_look_again(&mut self, due: Instant, full_batch: Option<NonZeroUsize>) -> bool {
        let is_late = self.now().saturating_duration_since(due) > LATE;
        // Full waits report all sockets in turn, so after this many each has had its events.
        let most = full_batch.map_or(0, |events| self.table.connections() / events + 1);
        let again = self.looks < most || self.looks == 0 && is_late;
        self.looks = if again { self.looks + 1 } else { 0 };
        again
    }

    #[inline(never)]
    fn end_busy_turn(&mut self, io: &mut dyn Commands, due: Option<Seq>) -> bool {
        if self.records.queue.inbox.has_items() {
            self.run_remote_calls(io);
        }
        if let Some(before) = due {
            self.run_timed_calls(io, before);
        }
        self.run_tasks();
        self.start_all(io);
        if self.records.is_pending(pending::ROUND) {
            self.round(io);
        }
        self.write_all(io);
        self.relieve(io);
        let continues = self.keeps_running() || self.advance_shutdown(io);
        self.write_all(io);
        self.keep_all(io);
        self.records.take_pending(pending::SUSPEND);
        #[cfg(debug_assertions)]
        self.check();
        continues
    }

    /// Makes the timed calls that are due by now; false when the run has ended.
    pub(super) fn make_timed_calls(&mut self, io: &mut dyn Commands) -> bool {
        let deadline = self.records.timers.borrow_mut().next_deadline();
        let now = self.records.fresh_time();
        if deadline.is_none_or(|deadline| deadline > now) || self.may_overtake_input(now) {
            return true;
        }
        self.turn_without_events(io, true)
    }

    /// Whether a timed call was due long before `now`, and the last turn could have postponed it with
    /// more input. The next turn reads the input at hand, without a wait, before it makes the call.
    pub(super) fn may_overtake_input(&self, now: Instant) -> bool {
        let late = now.checked_sub(LATE);
        late.is_some_and(|late| self.records.timers.borrow_mut().has_due(late, self.last_turn))
    }

    /// Applies all recorded requests, and sends their output; false when the run has ended.
    pub(super) fn flush(&mut self, io: &mut dyn Commands) -> bool {
        if let Some(key) = self.suspended.as_mut().and_then(|suspended| suspended.key.take()) {
            // The connection's dirty flag is set already.
            self.records.mark_dirty(key);
        }
        !self.is_pending() || self.turn_without_events(io, false)
    }

    /// A turn without its steps 1 and 3. Makes timed calls if they are `due`.
    fn turn_without_events(&mut self, io: &mut dyn Commands, due: bool) -> bool {
        let seq = self.begin_turn(io);
        let continues = self.end_busy_turn(io, due.then_some(seq));
        if self.suspended.is_none() {
            self.records.queue.end_turn();
        }
        continues
    }

    /// Asserts the invariants at the end of a turn. A large table is not walked in every turn.
    #[cfg(debug_assertions)]
    fn check(&self) {
        self.table.check();
        if self.table.connections() > 64 {
            return;
        }
        self.connecting.check();
        let timers = self.records.timers.borrow();
        for (key, resource) in self.table.iter() {
            let Resource::Connection(entry) = resource else { continue };
            let is_queued = self.records.is_due(key);
            assert_eq!(
                entry.queued, is_queued,
                "{key:?}: `queued` disagrees with the queued calls"
            );
            let armed = entry.timer.map(|timer| {
                timers.deadline(timer).unwrap_or_else(|| panic!("{key:?}: its timer has fired"))
            });
            if let Some(deadline) = entry.life.deadline() {
                assert!(armed.is_some_and(|at| at <= deadline), "{key:?} would miss a deadline");
            }
        }
    }

    /// Step 4: makes the due calls requested before `seq`.
    fn run_timed_calls(&mut self, io: &mut dyn Commands, seq: Seq) {
        let now = self.reactor.now();
        if let Some(ring) = self.records.ring() {
            let due = self.records.timers.borrow_mut().next_deadline();
            ring.late(due.map_or(Duration::ZERO, |due| now.saturating_duration_since(due)));
        }
        loop {
            let mut timers = self.records.timers.borrow_mut();
            let timed = match &mut self.order {
                None => timers.pop_due(now, seq),
                Some(pick) => timers.pop_any_due(now, seq, pick),
            };
            drop(timers);
            match timed {
                None => break,
                Some(TimerAction::Call(f)) => {
                    contain("timed call", f);
                }
                Some(TimerAction::Tell(cell, tell)) => self.run_tell(io, cell, tell),
                Some(TimerAction::Deadline(key)) => self.deadline_passed(io, key),
                Some(TimerAction::Connector(connector)) => {
                    let _hold = self.records.hold("connector timer");
                    self.connecting.timer_fired(io, &connector, now);
                }
                Some(TimerAction::Drain(drain)) => self.drain_timer_fired(io, &drain),
            }
        }
    }

    /// Step 6.
    fn start_all(&mut self, io: &mut dyn Commands) {
        if !self.records.take_pending(pending::STARTS) {
            return;
        }
        self.start_jobs(io);
        self.start_lookups(io);
        for _ in 0..self.records.recorded_starts() {
            if let Some(start) = self.records.next_start() {
                self.start_one(io, start);
            }
        }
    }

    #[inline(never)]
    pub(super) fn start_one(&mut self, io: &mut dyn Commands, start: Start) {
        let _hold = self.records.hold("start");
        match start {
            Start::Connector(connector) => self.connecting.start(io, connector),
            Start::Port(port) => self.start_port(io, &port),
            Start::Datagrams(port) => self.start_datagrams(io, &port),
            Start::Adoption(adoption) => self.start_adoption(io, &adoption),
            Start::HandedConnection(handed) => self.start_handed(io, handed),
        }
    }

    /// Step 7: sends all other output, one call for each connection.
    pub(super) fn write_all(&mut self, io: &mut dyn Commands) {
        let mut keys = self.table.take_writes();
        for key in keys.drain(..) {
            match self.table.resource(key) {
                Some(Resource::Connection(entry)) => {
                    entry.to_write = false;
                    self.send(io, key);
                }
                Some(Resource::Datagrams(port)) => {
                    let port = port.clone();
                    self.send_all_datagrams(io, &port);
                }
                _ => {}
            }
        }
        // No protocol is called here, so no writes occur, and the list keeps its capacity.
        self.table.recycle_writes(keys);
    }

    // For the simulator and the testing kit.

    /// Describes a queue of the loop that exceeds its bound, if any.
    #[cfg(feature = "testing")]
    pub(super) fn exceeded_bound(&self) -> Option<String> {
        let kept = self.records.spares.retained();
        (kept > crate::outbox::SPARE_TOTAL).then(|| format!("the spare buffers hold {kept} bytes"))
    }
}
