//! Draining, for a server that is to end without cutting anybody off: its ports close, its
//! connections are asked to finish, and those that do not are closed, and at last aborted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::delayed::after;
use super::port::{PortCell, PortState};
use super::table::{ConnectionEntry, Origin, Resource};
use super::timers::TimerKey;
use super::turn::Core;
use super::{Asking, Port, Reactor, Start, Timed, loop_ended};
use crate::defer::{Deferred, Resolver};
use crate::driver::{Commands, Key};
use crate::transport::connection::Life;

/// How long each stage of a drain may take. A [`Duration`] converts into one: that of the first
/// stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drain {
    /// How long connections have to [finish](crate::Protocol::draining) by themselves.
    pub finish: Duration,
    /// How long those that did not may flush what they have written, once they are closed: 500 ms
    /// unless set. What is still open then is aborted.
    pub close: Duration,
    /// How long the first stage waits for a peer from which nothing but its part is missing: it has not
    /// completed its handshake since the drain began, or has not answered the end of our stream with the
    /// end of its own. 1 s unless set.
    pub patience: Duration,
}

impl Drain {
    /// A drain that closes what has not finished within this time.
    pub fn within(finish: Duration) -> Drain {
        Drain { finish, close: Duration::from_millis(500), patience: Duration::from_secs(1) }
    }

    /// Sets how long closed connections may flush.
    #[must_use]
    pub fn close(mut self, close: Duration) -> Self {
        self.close = close;
        self
    }

    /// Sets how long a silent peer may keep the drain from its end.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl From<Duration> for Drain {
    fn from(finish: Duration) -> Drain {
        Drain::within(finish)
    }
}

/// What became of the connections of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Those that ended by themselves in time.
    pub finished: usize,
    /// Those that were closed, and flushed what they had written.
    pub closed: usize,
    /// Those that were reset: they did not flush in time, or are to be
    /// [reset unless closed](crate::Transport::set_reset_unless_closed).
    pub aborted: usize,
}

/// A drain in progress.
pub(super) struct DrainCell {
    /// That of one port; `None` for all.
    port: Option<Rc<PortCell>>,
    times: Drain,
    stage: Cell<Stage>,
    /// The connections that have not ended.
    left: RefCell<BTreeSet<Key>>,
    drained: Cell<Drained>,
    timer: Cell<Option<TimerKey>>,
    resolver: RefCell<Option<Resolver<Drained>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Recorded, for the turn to begin.
    Asked,
    /// Connections finish by themselves, until then.
    Finishing(Instant),
    /// They were closed.
    Closing,
}

/// What becomes of a connection, for the counts of all drains that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Finished,
    Closed,
    Aborted,
}

impl Port {
    /// Stops listening, asks the connections that this port has accepted to finish
    /// ([`Protocol::draining`](crate::Protocol::draining)), and fires when all of them have ended:
    /// those that do not finish in time are closed, as by
    /// [`lose_connection`](crate::Transport::lose_connection) but with the reason
    /// [`Shutdown`](crate::Reason::Shutdown), and at last aborted.
    ///
    /// Cancelling it ends the first stage at once.
    ///
    /// ```
    /// # use couplet::{Protocol, Transport};
    /// # struct Echo;
    /// # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// use std::time::Duration;
    ///
    /// couplet::run_until(|reactor| {
    ///     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo).expect("a free port");
    ///     port.drain(Duration::from_secs(5)).map(|drained| println!("{drained:?}"))
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn drain(&self, times: impl Into<Drain>) -> Deferred<Drained> {
        self.cell.reactor.ask_drain(Some(self.cell.clone()), times.into())
    }
}

impl Reactor {
    /// Drains all ports, as [`Port::drain`] does one, with the connections of ports that were stopped
    /// before, and with those that were [adopted](Self::adopt). Connections that we made stay: a
    /// server may need them to finish.
    ///
    /// It stops nothing else. To drain before a stop, let the stop wait for it:
    ///
    /// ```
    /// use couplet::Shutdown;
    /// use std::time::Duration;
    ///
    /// couplet::run(|reactor| {
    ///     let draining = reactor.clone();
    ///     reactor.on(Shutdown::Before, move || draining.drain(Duration::from_secs(5)).map(|_| ()));
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// [`LoopOptions::drain`](super::LoopOptions::drain) does so when a SIGTERM arrives.
    pub fn drain(&self, times: impl Into<Drain>) -> Deferred<Drained> {
        self.ask_drain(None, times.into())
    }

    fn ask_drain(&self, port: Option<Rc<PortCell>>, times: Drain) -> Deferred<Drained> {
        let cell = Rc::new(DrainCell {
            port,
            times,
            stage: Cell::new(Stage::Asked),
            left: RefCell::default(),
            drained: Cell::default(),
            timer: Cell::new(None),
            resolver: RefCell::new(None),
        });
        let (reactor, hastened) = (self.clone(), Rc::downgrade(&cell));
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            if let Some(cell) = hastened.upgrade() {
                reactor.ask(Asking::Drain(cell));
            }
        });
        *cell.resolver.borrow_mut() = Some(resolver);
        self.ask(Asking::Drain(cell));
        deferred
    }
}

impl DrainCell {
    fn concerns(&self, entry: &ConnectionEntry) -> bool {
        match (&self.port, &entry.origin) {
            (_, Origin::Connecting | Origin::Connector(_)) => false,
            (Some(port), Origin::Port(by)) => Rc::ptr_eq(port, by),
            (Some(port), Origin::Shared(by)) => Rc::ptr_eq(port, &by.0),
            (Some(_), Origin::Adopted(_)) => false,
            (None, Origin::Port(_) | Origin::Shared(..) | Origin::Adopted(_)) => true,
        }
    }
}

impl Drop for DrainCell {
    /// The loop has ended first.
    fn drop(&mut self) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(loop_ended());
        }
    }
}

impl Core {
    /// Begins a drain; asked a second time, it was cancelled.
    pub(super) fn drain_asked(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        match drain.stage.get() {
            Stage::Asked => self.begin_drain(io, drain),
            Stage::Finishing(_) => self.next_stage(io, drain),
            Stage::Closing => {}
        }
    }

    fn begin_drain(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        for port in self.ports_of(drain) {
            if matches!(port.state.get(), PortState::Starting | PortState::Listening) {
                port.state.set(PortState::Stopping);
            }
            self.port_asked(io, &port);
        }
        let concerned = self.table.keys(
            |resource| matches!(resource, Resource::Connection(entry) if drain.concerns(entry)),
        );
        tracing::info!(connections = concerned.len(), "draining");
        let now = self.reactor.now();
        drain.stage.set(Stage::Finishing(after(now, drain.times.finish)));
        drain.left.borrow_mut().extend(&concerned);
        self.arm_drain(drain, after(now, drain.times.finish.min(drain.times.patience)));
        self.drains.push(drain.clone());
        for key in concerned {
            self.visit(io, key, |life, _| life.drain());
        }
        self.finish_drains();
    }

    /// The ports that a drain closes, also those that have not started.
    fn ports_of(&self, drain: &DrainCell) -> Vec<Rc<PortCell>> {
        if let Some(port) = &drain.port {
            return vec![port.clone()];
        }
        let open = self.table.iter().filter_map(|(_, resource)| match resource {
            Resource::Port(port) => Some(port.clone()),
            _ => None,
        });
        let starts = self.reactor.records.starts.borrow();
        let starting = starts.iter().filter_map(|start| match start {
            Start::Port(port) => Some(port.clone()),
            _ => None,
        });
        open.chain(starting).collect()
    }

    fn arm_drain(&mut self, drain: &Rc<DrainCell>, due: Instant) {
        let timer =
            self.reactor.records.timers.borrow_mut().insert(due, Timed::Drain(drain.clone()));
        self.disarm_drain(drain.timer.replace(Some(timer)));
    }

    fn disarm_drain(&mut self, timer: Option<TimerKey>) {
        if let Some(timer) = timer {
            let timed = self.reactor.records.timers.borrow_mut().remove(timer);
            drop(timed);
        }
    }

    /// The time of a stage is up, or that of silent peers.
    #[inline(never)]
    pub(super) fn drain_is_due(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let _hold = self.reactor.records.hold("timer of a drain");
        match drain.stage.get() {
            Stage::Finishing(until) if self.reactor.now() < until => {
                self.cut_silent(io, drain, until);
            }
            _ => self.next_stage(io, drain),
        }
    }

    /// Ends the connections whose peers have been silent for too long, and looks again when the next
    /// will have been.
    fn cut_silent(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>, until: Instant) {
        let (now, patience) = (self.reactor.now(), drain.times.patience);
        let left: Vec<Key> = drain.left.borrow().iter().copied().collect();
        let mut next = after(now, patience);
        for key in left {
            let Some(entry) = self.table.connection(key) else { continue };
            let is_opening = entry.opening.is_some();
            match entry.life.awaits_peer_since().map(|since| after(since, patience)) {
                Some(due) if now < due => next = next.min(due),
                None if !is_opening => {}
                _ => {
                    if is_opening {
                        self.note_fate(key, false);
                    }
                    self.visit(io, key, Life::cut);
                }
            }
        }
        if !drain.left.borrow().is_empty() {
            self.arm_drain(drain, next.min(until));
        }
    }

    /// What is left goes on to the next stage.
    fn next_stage(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let left: Vec<Key> = drain.left.borrow().iter().copied().collect();
        if left.is_empty() {
            // Cancelled before it began, it was over at once.
            return;
        }
        let closes = matches!(drain.stage.replace(Stage::Closing), Stage::Finishing(_));
        if closes {
            self.arm_drain(drain, after(self.reactor.now(), drain.times.close));
        }
        for key in left {
            self.note_fate(key, closes);
            self.visit(io, key, if closes { Life::drain_over } else { Life::cut });
        }
    }

    /// The loop closes a connection that has not ended by itself, or else cuts it.
    pub(super) fn note_fate(&mut self, key: Key, closes: bool) {
        let Some(entry) = self.table.connection(key).filter(|entry| entry.life.closed().is_none())
        else {
            return;
        };
        let is_reset = match closes {
            true => entry.life.shuts_down_by_reset(),
            // Where only the peer's FIN is missing, it was a close.
            false => entry.life.is_cut_by_reset(),
        };
        entry.fate = if is_reset { Fate::Aborted } else { Fate::Closed };
    }

    /// A connection has ended.
    pub(super) fn ended_in_drains(&mut self, key: Key, fate: Fate) {
        for drain in &self.drains {
            if !drain.left.borrow_mut().remove(&key) {
                continue;
            }
            let mut drained = drain.drained.get();
            match fate {
                Fate::Finished => drained.finished += 1,
                Fate::Closed => drained.closed += 1,
                Fate::Aborted => drained.aborted += 1,
            }
            drain.drained.set(drained);
        }
        self.finish_drains();
    }

    /// Ends the drains that have nothing left.
    fn finish_drains(&mut self) {
        let is_over = |drain: &Rc<DrainCell>| drain.left.borrow().is_empty();
        let over: Vec<_> = self.drains.extract_if(.., |drain| is_over(drain)).collect();
        for drain in over {
            self.disarm_drain(drain.timer.take());
            let drained = drain.drained.get();
            let Drained { finished, closed, aborted } = drained;
            tracing::info!(finished, closed, aborted, "drained");
            let resolver = drain.resolver.take();
            if let Some(resolver) = resolver {
                let _hold = self.reactor.records.hold("drain");
                resolver.callback(drained);
            }
        }
    }
}
