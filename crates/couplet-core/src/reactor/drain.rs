//! Draining, so that a server ends without cutting off its clients: the ports close, the
//! connections are asked to finish, and the remaining ones are closed and finally aborted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use super::options::Drain;
use super::port::{PortCell, PortState};
use super::table::{ConnectionEntry, Origin, Resource};
use super::timers::{TimerKey, after};
use super::turn::Core;
use super::{LoopRequest, Port, Reactor, Start, TimerAction, loop_ended};
use crate::defer::{Deferred, Resolver};
use crate::driver::{Commands, Key};
use crate::transport::connection::Life;

/// How the connections of a drain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that ended on their own in time.
    pub finished: usize,
    /// Connections that were closed and flushed their written bytes.
    pub closed: usize,
    /// Connections that were reset: they did not flush in time, or asked to be
    /// [reset unless closed](crate::Transport::set_reset_unless_closed).
    pub aborted: usize,
}

/// A drain in progress.
pub(super) struct DrainCell {
    /// The port to drain; `None` for all.
    port: Option<Rc<PortCell>>,
    times: Drain,
    stage: Cell<Stage>,
    /// Connections that have not ended.
    // Bound: the connections of its ports that are open when it begins.
    left: RefCell<BTreeSet<Key>>,
    drained: Cell<Drained>,
    timer: Cell<Option<TimerKey>>,
    resolver: RefCell<Option<Resolver<Drained>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Recorded; the turn will begin it.
    Requested,
    /// Connections finish on their own, until this time.
    Finishing(Instant),
    /// Unfinished connections were closed.
    Closing,
}

/// How a connection ends, for the counts of all drains that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainOutcome {
    Finished,
    Closed,
    Aborted,
}

impl Port {
    /// Stops listening, asks the connections accepted by this port to finish
    /// ([`Protocol::draining`](crate::Protocol::draining)), and fires when all of them have ended.
    /// Connections that do not finish in time are closed, as by
    /// [`lose_connection`](crate::Transport::lose_connection) but with the reason
    /// [`Shutdown`](crate::Reason::Shutdown), and finally aborted.
    ///
    /// Cancelling it ends the first stage immediately.
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
        self.cell.reactor.request_drain(Some(self.cell.clone()), times.into())
    }
}

impl Reactor {
    /// Drains all ports, as [`Port::drain`] does one, including the connections of ports that were
    /// already stopped, and [adopted](Self::adopt) connections. Outgoing connections stay: a server
    /// may need them to finish.
    ///
    /// Nothing else is stopped. To drain before a stop, let the stop wait for the drain:
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
        self.request_drain(None, times.into())
    }

    fn request_drain(&self, port: Option<Rc<PortCell>>, times: Drain) -> Deferred<Drained> {
        let cell = Rc::new(DrainCell {
            port,
            times,
            stage: Cell::new(Stage::Requested),
            left: RefCell::default(),
            drained: Cell::default(),
            timer: Cell::new(None),
            resolver: RefCell::new(None),
        });
        let (reactor, hastened) = (self.clone(), Rc::downgrade(&cell));
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            if let Some(cell) = hastened.upgrade() {
                reactor.record_request(LoopRequest::Drain(cell));
            }
        });
        *cell.resolver.borrow_mut() = Some(resolver);
        self.record_request(LoopRequest::Drain(cell));
        deferred
    }
}

impl DrainCell {
    fn covers(&self, entry: &ConnectionEntry) -> bool {
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
    /// The loop ended first.
    fn drop(&mut self) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(loop_ended());
        }
    }
}

impl Core {
    /// Begins a drain; a second request means that it was cancelled.
    pub(super) fn apply_drain_request(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        match drain.stage.get() {
            Stage::Requested => self.begin_drain(io, drain),
            Stage::Finishing(_) => self.next_stage(io, drain),
            Stage::Closing => {}
        }
    }

    fn begin_drain(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        for port in self.ports_of(drain) {
            if matches!(port.state.get(), PortState::Starting | PortState::Listening) {
                port.state.set(PortState::Stopping);
            }
            self.apply_port_requests(io, &port);
        }
        let concerned = self.table.keys(
            |resource| matches!(resource, Resource::Connection(entry) if drain.covers(entry)),
        );
        tracing::info!(connections = concerned.len(), "draining");
        let now = self.reactor.now();
        drain.stage.set(Stage::Finishing(after(now, drain.times.finish)));
        drain.left.borrow_mut().extend(&concerned);
        self.arm_drain(drain, after(now, drain.times.finish.min(drain.times.patience)));
        self.drains.push(drain.clone());
        for key in concerned {
            self.with_life(io, key, |life, _| life.drain(drain.times.patience));
        }
        self.finish_drains();
    }

    /// The ports that a drain closes, including those that have not started.
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
            self.reactor.records.timers.borrow_mut().insert(due, TimerAction::Drain(drain.clone()));
        self.disarm_drain(drain.timer.replace(Some(timer)));
    }

    fn disarm_drain(&mut self, timer: Option<TimerKey>) {
        if let Some(timer) = timer {
            let timed = self.reactor.records.timers.borrow_mut().remove(timer);
            drop(timed);
        }
    }

    /// The time of a stage, or of silent peers, is over.
    #[inline(never)]
    pub(super) fn drain_timer_fired(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let _hold = self.reactor.records.hold("drain timer");
        match drain.stage.get() {
            Stage::Finishing(until) if self.reactor.now() < until => {
                self.cut_silent_peers(io, drain, until);
            }
            _ => self.next_stage(io, drain),
        }
    }

    /// Ends the connections whose peers have been silent for too long, and sets a timer for the
    /// next.
    fn cut_silent_peers(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>, until: Instant) {
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
                        self.set_drain_outcome(key, Life::is_cut_by_reset);
                    }
                    self.with_life(io, key, Life::cut);
                }
            }
        }
        if !drain.left.borrow().is_empty() {
            self.arm_drain(drain, next.min(until));
        }
    }

    /// Moves the remaining connections to the next stage.
    fn next_stage(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let left: Vec<Key> = drain.left.borrow().iter().copied().collect();
        if left.is_empty() {
            // A drain without connections, cancelled before it began: it has already finished.
            return;
        }
        let closes = matches!(drain.stage.replace(Stage::Closing), Stage::Finishing(_));
        if closes {
            self.arm_drain(drain, after(self.reactor.now(), drain.times.close));
        }
        for key in left {
            if closes {
                self.set_drain_outcome(key, Life::shuts_down_by_reset);
                self.with_life(io, key, Life::end_drain);
            } else {
                // If only the peer's FIN is missing, the connection counts as closed.
                self.set_drain_outcome(key, Life::is_cut_by_reset);
                self.with_life(io, key, Life::cut);
            }
        }
    }

    /// Sets the drain outcome of a connection about to be ended; `by_reset` returns whether that
    /// resets it.
    pub(super) fn set_drain_outcome(&mut self, key: Key, by_reset: fn(&Life) -> bool) {
        let Some(entry) = self.table.connection(key).filter(|entry| entry.life.closed().is_none())
        else {
            return;
        };
        entry.drain_outcome = match by_reset(&entry.life) {
            true => DrainOutcome::Aborted,
            false => DrainOutcome::Closed,
        };
    }

    /// A connection has ended: counts it in every drain that waits for it.
    pub(super) fn count_in_drains(&mut self, key: Key, drain_outcome: DrainOutcome) {
        for drain in &self.drains {
            if !drain.left.borrow_mut().remove(&key) {
                continue;
            }
            let mut drained = drain.drained.get();
            match drain_outcome {
                DrainOutcome::Finished => drained.finished += 1,
                DrainOutcome::Closed => drained.closed += 1,
                DrainOutcome::Aborted => drained.aborted += 1,
            }
            drain.drained.set(drained);
        }
        self.finish_drains();
    }

    /// Ends drains without remaining connections.
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
