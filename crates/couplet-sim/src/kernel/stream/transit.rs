//! Packets in flight, acknowledgements and window updates.

use std::io;

use couplet_core::Address;
use couplet_core::driver::memory::Cut;

use super::super::{EndId, Kernel, SimEvent};
use super::capture::Segment;
use super::{EndStage, Fin, Flying, Health, Loss, Packet};
use crate::Host;
use crate::faults::Fault;

/// Maximum bytes in one packet.
const PACKET: usize = 64 * 1024;
/// Interval between zero-window probes, in nanoseconds.
const WINDOW_PROBE_INTERVAL: u64 = 5_000_000_000;

impl Kernel {
    /// Sends as much as the window allows.
    pub(super) fn transmit(&mut self, id: EndId) {
        loop {
            let Some(conn) = self.conn(id.conn) else { return };
            let most_unread = conn.buffers.receive;
            let unread = conn.end(1 - id.side).unread;
            let hosts = conn.hosts(id.side);
            let dead = conn.end(id.side).is_dead();
            let flow = conn.flow(id.side);
            // A dead end sends nothing, not even a requested FIN.
            if flow.is_stalled() || dead {
                return;
            }
            if flow.unsent.is_empty() {
                if flow.fin == Fin::Wanted {
                    flow.fin = Fin::Sent;
                    self.send_packet(id, Packet::Fin);
                }
                return;
            }
            let room = most_unread.saturating_sub(unread + flow.bytes_in_flight);
            if room == 0 {
                return self.schedule_window_probe(id);
            }
            let cut = self.link(hosts.0, hosts.1).cut;
            let Some(conn) = self.conn(id.conn) else { return };
            let flow = conn.flow(id.side);
            let piece = match cut {
                Cut::Most(n) => n.clamp(1, PACKET),
                Cut::Random(n) => 1 + flow.random.below(n.clamp(1, PACKET) as u64) as usize,
                _ => PACKET,
            };
            let n = piece.min(room).min(flow.unsent.len());
            let data = flow.unsent.take(n);
            flow.bytes_in_flight += n;
            flow.unacked += n;
            self.send_packet(id, Packet::Data(data));
        }
    }

    /// Schedules a zero-window probe if nothing is in flight. Without the probe, a sender blocked
    /// on the window would never notice that the other end has disappeared.
    pub(super) fn schedule_window_probe(&mut self, id: EndId) {
        if let Some(conn) = self.conn(id.conn)
            && conn.flow(id.side).flight.is_empty()
            && !std::mem::replace(&mut conn.flow(id.side).window_probe_pending, true)
        {
            self.after(WINDOW_PROBE_INTERVAL, SimEvent::WindowProbe(id));
        }
    }

    pub(in crate::kernel) fn send_window_probe(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = conn.hosts(id.side);
        let answers = !conn.end(1 - id.side).is_dead();
        let flow = conn.flow(id.side);
        flow.window_probe_pending = false;
        if flow.is_stalled() || flow.unsent.is_empty() {
            return;
        }
        if answers && self.can_reach(from, to) && self.can_reach(to, from) {
            if let Some(conn) = self.conn(id.conn) {
                conn.flow(id.side).loss = Loss::None;
            }
            self.transmit(id);
        } else {
            self.stall(id);
        }
    }

    /// Sends a packet behind those already in flight.
    pub(super) fn send_packet(&mut self, id: EndId, packet: Packet) {
        self.capture_segment(id, Segment::Packet(&packet));
        if let Some(conn) = self.conn(id.conn) {
            let flight = &mut conn.flow(id.side).flight;
            flight.push_back(Flying::new(packet));
            let last = flight.len() - 1;
            self.schedule_arrival(id, last);
        }
    }

    /// Draws the delay of the next trip between two hosts from the PRNG stream of the end `of`.
    pub(super) fn draw(&mut self, of: EndId, from: u32, to: u32) -> u64 {
        let route = self.route(from, to);
        self.conn(of.conn).map_or(0, |conn| route.draw_delay(&mut conn.flow(of.side).random))
    }

    /// Sends the packet at this index in flight, and schedules its arrival.
    pub(super) fn schedule_arrival(&mut self, id: EndId, index: usize) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = conn.hosts(id.side);
        let bytes = conn.flow(id.side).flight[index].packet.len();
        let is_local = self.machine(from) == self.machine(to);
        let departs = if is_local { self.now } else { self.departure(from, bytes) };
        let takes = self.draw(id, from, to);
        let Some(conn) = self.conn(id.conn) else { return };
        let flow = conn.flow(id.side);
        flow.last_arrival = flow.last_arrival.max(departs.saturating_add(takes));
        let (arrives, epoch) = (flow.last_arrival, flow.epoch);
        let flying = &mut flow.flight[index];
        (flying.departs, flying.takes, flying.arrives) = (departs, takes, arrives);
        self.at(arrives, SimEvent::Packet(id, epoch));
    }

    /// Lets the packets that wait to leave the host follow a change of its sending rate, which was
    /// `before`. Packets that have left are not affected.
    pub(in crate::kernel) fn follow_rate(&mut self, host: u32, before: Option<u64>) {
        let (now, rate) = (self.now, self.rate(host));
        // Without a limit, nothing waits.
        let Some(before) = before.filter(|before| rate != Some(*before)) else { return };
        let wait = |at: u64| {
            let left = u128::from(at - now) * u128::from(before);
            let wait = rate.map_or(0, |rate| left / u128::from(rate));
            now.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
        };
        let free = &mut self.host(host).uplink_free;
        *free = wait((*free).max(now));
        for id in self.ends_known_to(host) {
            let Some(conn) = self.conn(id.conn) else { continue };
            let flow = conn.flow(id.side);
            if flow.is_stalled() {
                continue;
            }
            let waiting = flow.flight.partition_point(|flying| flying.departs <= now);
            if waiting == flow.flight.len() {
                continue;
            }
            let epoch = flow.epoch;
            let mut arrives = if waiting > 0 { flow.flight[waiting - 1].arrives } else { now };
            let mut arrivals = Vec::new();
            for flying in flow.flight.range_mut(waiting..) {
                flying.departs = wait(flying.departs);
                arrives = arrives.max(flying.departs.saturating_add(flying.takes));
                flying.arrives = arrives;
                arrivals.push(arrives);
            }
            flow.last_arrival = arrives;
            for at in arrivals {
                self.at(at, SimEvent::Packet(id, epoch));
            }
        }
    }

    /// The first packet in flight from this end arrives at the other, unless it was rescheduled.
    pub(in crate::kernel) fn deliver_next_packet(&mut self, id: EndId, epoch: u32) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let flow = conn.flow(id.side);
        let is_due = flow.flight.front().is_some_and(|flying| flying.arrives == now);
        if flow.epoch != epoch || !is_due {
            return;
        }
        let (from, to) = conn.hosts(id.side);
        if !self.can_reach(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        match conn.flow(id.side).flight.pop_front().map(|flying| flying.packet) {
            None => {}
            Some(Packet::Open) if id.side == 0 => self.receive_open(id),
            Some(Packet::Confirm) => self.receive_confirm(id),
            Some(packet) => self.receive_packet(id, packet),
        }
        self.reap(id.conn);
    }

    /// A connect (SYN) arrives at a host.
    fn receive_open(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(id.conn) else { return };
        let (host, to) = (conn.end(1).host, conn.end(1).local.clone());
        let refuses = self.is_in_effect(&Fault::Refuse(Host(host)));
        let Some(port) = self.listener_for(host, &to).filter(|_| !refuses) else {
            return self.send_reset(id);
        };
        if !self.has_backlog_room(host, &port) {
            return self.resend(id, Packet::Open);
        }
        self.advance(id, EndStage::Answering);
        self.send_packet(other, Packet::Open);
    }

    /// The client's confirmation arrives at the server.
    fn receive_confirm(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(id.conn) else { return };
        let (host, to) = (conn.end(1).host, conn.end(1).local.clone());
        let knows = conn.end(1).stage == EndStage::Answering;
        let Some(port) = self.listener_for(host, &to).filter(|_| knows) else {
            self.break_end(other, io::ErrorKind::ConnectionReset);
            return self.send_reset(id);
        };
        if !self.has_backlog_room(host, &port) {
            return self.resend(id, Packet::Confirm);
        }
        self.advance(id, EndStage::Queued);
        self.host(host).ends.insert(other);
        self.enqueue(host, port, other);
    }

    /// Moves the server's end of a connect to its next stage.
    fn advance(&mut self, id: EndId, stage: EndStage) {
        let now = self.now;
        if let Some(conn) = self.conn(id.conn) {
            conn.flow(0).loss = Loss::None;
            conn.end(1).stage = stage;
            conn.end(1).health = Health::Alive;
            conn.end(1).heard = now;
        }
    }

    /// Schedules a retransmission of a packet that the host dropped.
    fn resend(&mut self, id: EndId, packet: Packet) {
        if let Some(conn) = self.conn(id.conn) {
            conn.flow(id.side).flight.push_front(Flying::new(packet));
        }
        self.stall(id);
    }

    pub(super) fn receive_packet(&mut self, id: EndId, packet: Packet) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let most_unread = conn.buffers.receive;
        let [first, second] = &mut conn.ends;
        let end = if id.side == 0 { second } else { first };
        end.heard = now;
        if end.is_dead() {
            // The receiving system does not know this connection.
            return self.send_reset(id);
        }
        let mut acks = 0;
        let mut broken = false;
        let mut answers = false;
        match packet {
            Packet::Open => {
                answers = end.stage == EndStage::Connecting;
                if answers {
                    end.stage = EndStage::Answered;
                }
                conn.flows[id.side as usize].loss = Loss::None;
            }
            Packet::Confirm => {}
            Packet::Fin => end.fin = true,
            Packet::Data(data) => {
                acks = data.len();
                if end.stage == EndStage::Closed {
                    broken = !matches!(end.local, Address::Pipe(_));
                } else {
                    end.unread += data.len();
                    end.inbox.push_back(data);
                }
            }
        }
        let overfull = end.unread > most_unread;
        let flow = conn.flow(id.side);
        flow.bytes_in_flight -= acks;
        flow.arrived += acks;
        if overfull {
            self.violate("a system holds more unread bytes than its window allows");
        }
        if broken {
            // Data arriving at a closed socket resets the connection.
            if let Some(end) = self.end(id.other()) {
                end.die();
            }
            if let Some(conn) = self.conn(id.conn) {
                conn.flow(1 - id.side).drop_unsent();
            }
            return self.send_reset(id);
        }
        self.notify(id.other());
        if answers {
            self.send_packet(id.other(), Packet::Confirm);
        }
        if acks > 0 {
            self.schedule_ack(id);
        }
    }

    /// Schedules an acknowledgement to this end.
    pub(super) fn schedule_ack(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = conn.hosts(id.side);
        let flow = conn.flow(id.side);
        if std::mem::replace(&mut flow.ack_pending, true) {
            return;
        }
        let epoch = flow.epoch;
        let takes = self.draw(id, from, to);
        self.after(takes, SimEvent::Ack(id, epoch));
    }

    pub(in crate::kernel) fn receive_ack(&mut self, id: EndId, epoch: u32) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let most = conn.buffers.send;
        let (to, from) = conn.hosts(id.side);
        if conn.flow(id.side).epoch != epoch {
            return;
        }
        conn.flow(id.side).ack_pending = false;
        if !self.can_reach(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        let flow = conn.flow(id.side);
        flow.unacked -= std::mem::take(&mut flow.arrived);
        flow.loss = Loss::None;
        let roomy = flow.buffered() <= most - most / 3;
        let end = conn.end(id.side);
        end.heard = now;
        end.probes = 0;
        if roomy && end.blocked {
            self.notify(id);
        }
        self.transmit(id);
        self.reap(id.conn);
    }

    pub(in crate::kernel) fn receive_window_update(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = conn.hosts(id.side);
        conn.flow(id.side).window_update_pending = false;
        // If the update is lost, the zero-window probe recovers.
        if self.can_reach(from, to) {
            self.transmit(id);
        }
    }
}
