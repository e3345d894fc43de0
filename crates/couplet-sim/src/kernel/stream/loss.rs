//! Loss, resets and silence.
//!
//! Lost packets are retransmitted with exponential backoff. As on Linux, an end without an answer
//! gives up after about 15 minutes, and a connect after about two.

use std::io;

use couplet_core::Address;

use super::super::{EndId, Kernel, SimEvent};
use super::capture::Segment;
use super::{EndStage, Fin, Health, Loss};
use crate::Host;
use crate::random::{Purpose, RandomStream};

/// Delay before the first retransmission, in nanoseconds; it doubles each time.
const RETRY: u64 = 200_000_000;
/// [`RETRY`] for the first packet of each end.
const RETRY_OPEN: u64 = 1_000_000_000;
const LONGEST_RETRY: u64 = 120_000_000_000;
/// Time without an answer after which an end gives up, in nanoseconds.
const GIVE_UP: u64 = 924_000_000_000;
/// [`GIVE_UP`] for the first packet of each end.
const GIVE_UP_OPEN: u64 = 127_000_000_000;
/// Number of unanswered keep-alive probes after which the connection is given up.
const PROBES: u32 = 9;
/// Interval between keep-alive probes, in nanoseconds.
const PROBE_AGAIN: u64 = 75_000_000_000;

impl Kernel {
    /// Schedules a retransmission after a packet from this end was lost.
    pub(super) fn stall(&mut self, id: EndId) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let dead = conn.end(id.side).is_dead();
        let flow = conn.flow(id.side);
        flow.epoch += 1;
        flow.ack_pending = false;
        if dead {
            // A dead end retransmits nothing.
            flow.drop_all();
            return self.reap(id.conn);
        }
        let opens = flow.opens();
        let (since, tries) = flow.loss.history().unwrap_or((now, 0));
        flow.loss = Loss::Stalled { since, tries: tries + 1 };
        let first = if opens { RETRY_OPEN } else { RETRY };
        let pause = (first << tries.min(20)).min(LONGEST_RETRY);
        let limit = if opens { GIVE_UP_OPEN } else { GIVE_UP };
        // Give up exactly at the limit, not at the first try after it.
        let pause = pause.min((since + limit).saturating_sub(now));
        let epoch = flow.epoch;
        self.after(pause, SimEvent::Retransmit(id, epoch));
    }

    pub(in crate::kernel) fn retransmit(&mut self, id: EndId, epoch: u32) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = conn.hosts(id.side);
        let flow = conn.flow(id.side);
        let Some((since, _)) = flow.loss.history() else { return };
        if flow.epoch != epoch {
            return;
        }
        let opens = flow.opens();
        if now - since >= if opens { GIVE_UP_OPEN } else { GIVE_UP } {
            if opens && id.side == 1 {
                // The client has waited just as long for this answer.
                self.break_end(id.other(), io::ErrorKind::TimedOut);
            }
            return self.break_end(id, io::ErrorKind::TimedOut);
        }
        if !self.can_reach(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        if conn.end(1 - id.side).is_dead() && !(opens && id.side == 0) {
            return self.send_reset(id);
        }
        let flow = conn.flow(id.side);
        flow.loss.resume();
        let (flying, acks) = (flow.flight.len(), flow.arrived > 0);
        (0..flying).for_each(|index| self.schedule_arrival(id, index));
        if acks {
            self.schedule_ack(id);
        }
        self.transmit(id);
    }

    /// A reset arrives at this end.
    pub(in crate::kernel) fn receive_reset(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = conn.hosts(id.side);
        if !self.can_reach(from, to) {
            // The reset is lost. An end that is still sending provokes another; a silent end never
            // notices.
            let now = self.now;
            let Some(conn) = self.conn(id.conn) else { return };
            let connecting = conn.end(id.side).stage == EndStage::Connecting;
            let is_dead = conn.end(id.side).is_dead();
            let flow = conn.flow(id.side);
            if is_dead || !(connecting || flow.buffered() > 0 || !flow.flight.is_empty()) {
                return;
            }
            if flow.loss == Loss::None {
                flow.loss = Loss::Retrying { since: now, tries: 0 };
            }
            let since = flow.loss.history().map_or(now, |(since, _)| since);
            if now - since >= if connecting { GIVE_UP_OPEN } else { GIVE_UP } {
                return self.break_end(id, io::ErrorKind::TimedOut);
            }
            return self.after(RETRY_OPEN, SimEvent::Reset(id));
        }
        let Some(conn) = self.conn(id.conn) else { return };
        let half_closed = conn.end(id.side).fin && conn.flow(id.side).fin == Fin::No;
        let kind = match conn.end(id.side).stage {
            EndStage::Connecting => io::ErrorKind::ConnectionRefused,
            // Linux reports EPIPE in CLOSE_WAIT.
            _ if half_closed => io::ErrorKind::BrokenPipe,
            _ => io::ErrorKind::ConnectionReset,
        };
        self.break_end(id, kind);
    }

    /// Breaks the connection for this end.
    pub(super) fn break_end(&mut self, id: EndId, kind: io::ErrorKind) {
        let Some(conn) = self.conn(id.conn) else { return };
        conn.flow(id.side).drop_all();
        let end = conn.end(id.side);
        match end.is_gone() || end.is_dead() {
            true => end.die(),
            false => end.health = Health::Failed(kind),
        }
        self.notify(id);
        self.reap(id.conn);
    }

    /// The system of this end has vanished.
    pub(in crate::kernel) fn vanish(&mut self, id: EndId) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let flow = conn.flow(id.side);
        flow.drop_unsent();
        flow.drop_waiting(now);
        let end = conn.end(id.side);
        end.stage = EndStage::Vanished;
        end.die();
        end.key = None;
        end.inbox.clear();
        end.unread = 0;
        let host = end.host;
        // An unassigned address has no entry in `hosts`.
        if let Some(state) = self.hosts.get_mut(host as usize) {
            state.ends.remove(&id);
        }
        self.reap(id.conn);
    }

    /// The keep-alive timer of this end fires.
    pub(in crate::kernel) fn check_keep_alive(&mut self, id: EndId) {
        let now = self.now;
        let Some(end) = self.end(id) else { return };
        if end.check_at != Some(now) {
            return;
        }
        end.check_at = None;
        if let Some(next) = self.probe_if_idle(id)
            && let Some(end) = self.end(id)
        {
            end.check_at = Some(next);
            self.at(next, SimEvent::KeepAlive(id));
        }
    }

    /// Sends a probe if the end has been idle for long enough; returns the time of the next check.
    fn probe_if_idle(&mut self, id: EndId) -> Option<u64> {
        let now = self.now;
        let conn = self.conn(id.conn)?;
        let (from, to) = conn.hosts(id.side);
        let unknown = conn.end(1 - id.side).is_dead();
        // Unacknowledged bytes probe the peer too, with their own time limit.
        let has_unacked = conn.flow(id.side).buffered() > 0;
        let end = conn.end(id.side);
        let idle = end.keep_alive.filter(|_| !end.is_dead() && !end.is_gone())?;
        if end.probes == 0 && end.heard + idle > now {
            return Some(end.heard + idle);
        }
        let passes = self.can_reach(from, to) && self.can_reach(to, from);
        if passes && unknown {
            self.send_reset(id);
            return None;
        }
        let end = self.end(id)?;
        if passes || has_unacked {
            (end.heard, end.probes) = (now, 0);
            return Some(now + idle);
        }
        end.probes += 1;
        if end.probes > PROBES {
            self.break_end(id, io::ErrorKind::TimedOut);
            return None;
        }
        Some(now + PROBE_AGAIN)
    }

    /// Resets one in `one_in` of a host's connections, at both ends.
    pub(in crate::kernel) fn reset_some(&mut self, host: Host, one_in: u32) {
        for end in self.ends_of(host.0) {
            let Some(conn) = self.conn(end.conn) else { continue };
            if matches!(conn.end(0).local, Address::Pipe(_)) {
                continue;
            }
            let [a, b, n] = conn.name;
            // Keyed by time and identity, not by position: other connections must not matter.
            let key = [self.now, u64::from(host.0), a, b, n];
            let mut draw = RandomStream::new(self.seed, Purpose::Victims, &key);
            if draw.below(u64::from(one_in.max(1))) == 0 {
                self.capture_segment(end, Segment::Reset);
                self.capture_segment(end.other(), Segment::Reset);
                self.break_end(end, io::ErrorKind::ConnectionReset);
                self.break_end(end.other(), io::ErrorKind::ConnectionReset);
            }
        }
    }
}
