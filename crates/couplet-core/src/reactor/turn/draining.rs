//! Drains, in the turn.
//!
//! Contract: 105a, 105b, 105e.

use std::iter;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::table::{ConnectionEntry, Origin, Resource};
use crate::driver::{Commands, Key};
use crate::reactor::drain::{DrainCell, DrainOutcome, DrainStage, Drained, Dues, GroupDue};
use crate::reactor::port::{PortCell, PortState};
use crate::reactor::records::{Start, TimerAction};
use crate::timers::{TimerKey, after};
use crate::transport::connection::Life;

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

/// Drains in progress.
#[derive(Default)]
pub(super) struct Drains {
    list: Vec<Rc<DrainCell>>,
}

impl Drains {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    fn add(&mut self, drain: Rc<DrainCell>) {
        debug_assert!(matches!(drain.stage.get(), DrainStage::Finishing(_)), "a drain begins once");
        self.list.push(drain);
    }

    /// Removes the drains without remaining connections.
    fn take_finished(&mut self) -> Vec<Rc<DrainCell>> {
        self.list.extract_if(.., |drain| drain.left.borrow().is_empty()).collect()
    }
}

impl Core {
    /// Begins a drain; a second request means that it was cancelled.
    pub(super) fn apply_drain_request(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        match drain.stage.get() {
            DrainStage::Requested => self.begin_drain(io, drain),
            DrainStage::Finishing(_) => self.next_stage(io, drain),
            DrainStage::Closing => {}
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
        let (now, (_, over)) = (self.reactor.now(), drain.times.pace);
        let until = after(after(now, over), drain.times.finish);
        drain.stage.set(DrainStage::Finishing(until));
        drain.left.borrow_mut().extend(concerned.iter().map(|key| (*key, ())));
        drain.unasked.borrow_mut().extend(concerned);
        let patience = Some(after(now, drain.times.patience));
        drain.dues.set(Dues { patience, group: Some(GroupDue { planned: now, at: now }) });
        self.drains.add(drain.clone());
        // The first group is asked in the next turn, after the bytes that the system holds now.
        self.arm_finishing(drain, until);
        self.finish_drains();
    }

    /// Asks the next group of connections to finish, and plans the one after it.
    fn ask_group(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let (groups, over) = drain.times.pace;
        let connections = drain.left.borrow().len() + drain.drained.get().count();
        let size = connections.div_ceil(groups as usize).max(1);
        let next = || drain.unasked.borrow_mut().pop_front();
        let group: Vec<Key> = iter::from_fn(next).take(size).collect();
        let are_left = !drain.unasked.borrow().is_empty();
        let dues = drain.dues.get();
        let next = dues.group.filter(|_| are_left).map(|due| self.next_group(due, over / groups));
        drain.dues.set(Dues { group: next, ..dues });
        for key in group {
            self.with_life(io, key, |life, _| life.drain(drain.times.patience));
        }
    }

    /// The group after this one, `apart` later plus or minus a quarter. All groups are asked before
    /// their time is over.
    fn next_group(&self, before: GroupDue, apart: Duration) -> GroupDue {
        let share = (self.reactor.random() >> 32) as u32;
        let jitter = ((apart / 2).as_nanos() * u128::from(share)) >> 32;
        let jitter = Duration::from_nanos(u64::try_from(jitter).unwrap_or(u64::MAX));
        let planned = after(before.planned, apart);
        GroupDue { planned, at: after(before.planned, apart / 4 * 3 + jitter) }
    }

    /// Sets the timer for the next event of the first stage.
    fn arm_finishing(&mut self, drain: &Rc<DrainCell>, until: Instant) {
        let Dues { patience, group } = drain.dues.get();
        let group = group.map(|group| group.at);
        let due = [patience, group].into_iter().flatten().fold(until, Instant::min);
        self.arm_drain(drain, due);
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
        let starts = self.records.starts();
        let starting = starts.iter().filter_map(|start| match start {
            Start::Port(port) => Some(port.clone()),
            _ => None,
        });
        open.chain(starting).filter(|port| !port.accepts_while_draining.get()).collect()
    }

    fn arm_drain(&mut self, drain: &Rc<DrainCell>, due: Instant) {
        let timer = self.records.timers.borrow_mut().insert(due, TimerAction::Drain(drain.clone()));
        self.disarm_drain(drain.timer.replace(Some(timer)));
    }

    fn disarm_drain(&mut self, timer: Option<TimerKey>) {
        if let Some(timer) = timer {
            let timed = self.records.timers.borrow_mut().remove(timer);
            drop(timed);
        }
    }

    /// The time of a stage, or of silent peers, is over.
    #[inline(never)]
    pub(super) fn drain_timer_fired(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let _hold = self.records.hold("drain timer");
        let (now, Dues { patience, group }) = (self.reactor.now(), drain.dues.get());
        let asks = group.is_some_and(|due| due.at <= now);
        match drain.stage.get() {
            // Even without any time, connections are asked before they are closed.
            DrainStage::Finishing(until) if now < until || asks => {
                if patience.is_some_and(|due| due <= now) {
                    self.cut_silent_peers(io, drain);
                }
                if asks {
                    self.ask_group(io, drain);
                }
                if !drain.left.borrow().is_empty() {
                    self.arm_finishing(drain, until);
                }
            }
            _ => self.next_stage(io, drain),
        }
    }

    /// Ends the connections whose peers have been silent for too long since they were asked to
    /// finish, and plans the next look.
    fn cut_silent_peers(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let (now, patience) = (self.reactor.now(), drain.times.patience);
        let unasked = drain.unasked.borrow().front().copied();
        let is_asked = |key: &Key| unasked.is_none_or(|first| *key < first);
        let asked: Vec<Key> = drain.left.borrow().keys().copied().take_while(is_asked).collect();
        let mut next = after(now, patience);
        for key in asked {
            let Some(entry) = self.table.connection(key) else { continue };
            let Some(since) = entry.life.awaits_peer_since() else { continue };
            let due = after(since, patience);
            if now < due {
                next = next.min(due);
            } else {
                self.with_life(io, key, Life::cut);
            }
        }
        drain.dues.set(Dues { patience: Some(next), ..drain.dues.get() });
    }

    /// Moves the remaining connections to the next stage.
    fn next_stage(&mut self, io: &mut dyn Commands, drain: &Rc<DrainCell>) {
        let left: Vec<Key> = drain.left.borrow().keys().copied().collect();
        if left.is_empty() {
            // A drain without connections, cancelled before it began: it has already finished.
            return;
        }
        let closes = matches!(drain.stage.replace(DrainStage::Closing), DrainStage::Finishing(_));
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
        for drain in &self.drains.list {
            if drain.left.borrow_mut().remove(&key).is_none() {
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
        for drain in self.drains.take_finished() {
            self.disarm_drain(drain.timer.take());
            let drained = drain.drained.get();
            let Drained { finished, closed, aborted } = drained;
            tracing::info!(finished, closed, aborted, "drained");
            let resolver = drain.resolver.take();
            if let Some(resolver) = resolver {
                let _hold = self.records.hold("drain");
                resolver.callback(drained);
            }
        }
    }
}
