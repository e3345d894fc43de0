//! Packets in flight, acknowledgements and window updates.

use std::io;

use super::super::{EndId, Happening, Kernel};
use super::showing::Sent;
use super::{Fin, Packet, Stage};
use crate::address::Address;
use crate::driver::memory::Cut;
use crate::sim::Host;
use crate::sim::faults::Fault;

/// Maximum bytes in one packet.
const PACKET: usize = 64 * 1024;
/// Interval between zero-window probes, in nanoseconds.
const ASK_FOR_ROOM: u64 = 5_000_000_000;

impl Kernel {
    /// Sends as much as the window allows.
    pub(super) fn transmit(&mut self, id: EndId) {
        loop {
            let Some(conn) = self.conn(id.conn) else { return };
            let most_unread = conn.buffers.receive;
            let unread = conn.end(1 - id.side).unread;
            let hosts = conn.hosts(id.side);
            let dead = conn.end(id.side).dead;
            let way = conn.way(id.side);
            // A dead end sends nothing, not even a requested FIN.
            if way.stalled || dead {
                return;
            }
            if way.unsent.is_empty() {
                if way.fin == Fin::Wanted {
                    way.fin = Fin::Sent;
                    self.launch(id, Packet::Fin);
                }
                return;
            }
            let room = most_unread.saturating_sub(unread + way.flying);
            if room == 0 {
                return self.ask_for_room(id);
            }
            let cut = self.link(hosts.0, hosts.1).cut;
            let Some(conn) = self.conn(id.conn) else { return };
            let way = conn.way(id.side);
            let piece = match cut {
                Cut::Whole => PACKET,
                Cut::Most(n) => n.clamp(1, PACKET),
                Cut::Random(n) => 1 + way.random.below(n.clamp(1, PACKET) as u64) as usize,
            };
            let n = piece.min(room).min(way.unsent.len());
            let data = way.unsent.take(n);
            way.flying += n;
            way.unacked += n;
            self.launch(id, Packet::Data(data));
        }
    }

    /// Schedules a zero-window probe if nothing is in flight. Without the probe, a sender blocked
    /// on the window would never notice that the other end has disappeared.
    pub(super) fn ask_for_room(&mut self, id: EndId) {
        if let Some(conn) = self.conn(id.conn)
            && conn.way(id.side).flight.is_empty()
            && !std::mem::replace(&mut conn.way(id.side).asks_for_room, true)
        {
            self.after(ASK_FOR_ROOM, Happening::AskForRoom(id));
        }
    }

    pub(in crate::sim::kernel) fn asks_for_room(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = conn.hosts(id.side);
        let answers = !conn.end(1 - id.side).is_unknown();
        let way = conn.way(id.side);
        way.asks_for_room = false;
        if way.stalled || way.unsent.is_empty() {
            return;
        }
        if answers && self.passes(from, to) && self.passes(to, from) {
            if let Some(conn) = self.conn(id.conn) {
                conn.way(id.side).lost = None;
            }
            self.transmit(id);
        } else {
            self.stall(id);
        }
    }

    /// Sends a packet behind those already in flight.
    pub(super) fn launch(&mut self, id: EndId, packet: Packet) {
        let bytes = if let Packet::Data(data) = &packet { data.len() } else { 0 };
        self.show(id, Sent::Packet(&packet));
        if let Some(conn) = self.conn(id.conn) {
            conn.way(id.side).flight.push_back(packet);
            self.fly(id, bytes);
        }
    }

    /// Draws the delay of the next trip between two hosts from the PRNG stream of the end `of`.
    pub(super) fn draw(&mut self, of: EndId, from: u32, to: u32) -> u64 {
        let route = self.route(from, to);
        self.conn(of.conn).map_or(0, |conn| route.takes(&mut conn.way(of.side).random))
    }

    pub(super) fn fly(&mut self, id: EndId, bytes: usize) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = conn.hosts(id.side);
        let is_local = self.machine(from) == self.machine(to);
        let departs = if is_local { self.now } else { self.departure(from, bytes) };
        let takes = self.draw(id, from, to);
        let Some(conn) = self.conn(id.conn) else { return };
        let way = conn.way(id.side);
        way.last_arrival = way.last_arrival.max(departs.saturating_add(takes));
        let (at, epoch) = (way.last_arrival, way.epoch);
        self.at(at, Happening::Arrive(id, epoch));
    }

    /// Reschedules a host's packets in flight at the current rate, after a rate limit was lifted.
    pub(in crate::sim::kernel) fn hurry(&mut self, host: u32) {
        self.hosts[host as usize].uplink_free = self.now;
        for id in self.ends_known_to(host) {
            let now = self.now;
            let Some(conn) = self.conn(id.conn) else { continue };
            let way = conn.way(id.side);
            if way.stalled || way.flight.is_empty() {
                continue;
            }
            // The new epoch also invalidates acknowledgements in flight, so send them again.
            way.epoch += 1;
            way.last_arrival = now;
            let acks = std::mem::take(&mut way.ack_coming);
            let sizes: Vec<usize> = way.flight.iter().map(Packet::len).collect();
            for bytes in sizes {
                self.fly(id, bytes);
            }
            if acks {
                self.ack(id);
            }
        }
    }

    /// The first packet in flight from this end arrives at the other.
    pub(in crate::sim::kernel) fn arrive(&mut self, id: EndId, epoch: u32) {
        let Some(conn) = self.conn(id.conn) else { return };
        if conn.way(id.side).epoch != epoch {
            return;
        }
        let (from, to) = conn.hosts(id.side);
        if !self.passes(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        match conn.way(id.side).flight.pop_front() {
            None => {}
            Some(Packet::Open) if id.side == 0 => self.open_comes(id),
            Some(Packet::Confirm) => self.confirm_comes(id),
            Some(packet) => self.packet_comes(id, packet),
        }
        self.reap(id.conn);
    }

    /// A connect (SYN) arrives at a host.
    fn open_comes(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(id.conn) else { return };
        let (host, to) = (conn.end(1).host, conn.end(1).local.clone());
        let refuses = self.suffers(&Fault::Refuse(Host(host)));
        let Some(port) = self.listener_for(host, &to).filter(|_| !refuses) else {
            return self.send_reset(id);
        };
        if !self.has_room_for_one(host, &port) {
            return self.resend(id, Packet::Open);
        }
        self.advance(id, Stage::Answering);
        self.launch(other, Packet::Open);
    }

    /// The client's confirmation arrives at the server.
    fn confirm_comes(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(id.conn) else { return };
        let (host, to) = (conn.end(1).host, conn.end(1).local.clone());
        let knows = conn.end(1).stage == Stage::Answering;
        let Some(port) = self.listener_for(host, &to).filter(|_| knows) else {
            self.break_end(other, io::ErrorKind::ConnectionReset);
            return self.send_reset(id);
        };
        if !self.has_room_for_one(host, &port) {
            return self.resend(id, Packet::Confirm);
        }
        self.advance(id, Stage::Queued);
        self.host(host).ends.insert(other);
        self.enqueue(host, port, other);
    }

    /// Moves the server's end of a connect to its next stage.
    fn advance(&mut self, id: EndId, stage: Stage) {
        let now = self.now;
        if let Some(conn) = self.conn(id.conn) {
            conn.way(0).lost = None;
            conn.end(1).stage = stage;
            conn.end(1).dead = false;
            conn.end(1).heard = now;
        }
    }

    /// Schedules a retransmission of a packet that the host dropped.
    fn resend(&mut self, id: EndId, packet: Packet) {
        if let Some(conn) = self.conn(id.conn) {
            conn.way(id.side).flight.push_front(packet);
        }
        self.stall(id);
    }

    pub(super) fn packet_comes(&mut self, id: EndId, packet: Packet) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let most_unread = conn.buffers.receive;
        let [first, second] = &mut conn.ends;
        let end = if id.side == 0 { second } else { first };
        end.heard = now;
        if end.is_unknown() {
            // The receiving system does not know this connection.
            return self.send_reset(id);
        }
        let mut acks = 0;
        let mut broken = false;
        let mut answers = false;
        match packet {
            Packet::Open => {
                answers = end.stage == Stage::Connecting;
                if answers {
                    end.stage = Stage::Open;
                    end.answered = true;
                }
                conn.ways[id.side as usize].lost = None;
            }
            Packet::Confirm => {}
            Packet::Fin => end.fin = true,
            Packet::Data(data) => {
                acks = data.len();
                if end.stage == Stage::Closed {
                    broken = !matches!(end.local, Address::Pipe(_));
                } else {
                    end.unread += data.len();
                    end.inbox.push_back(data);
                }
            }
        }
        let overfull = end.unread > most_unread;
        let way = conn.way(id.side);
        way.flying -= acks;
        way.arrived += acks;
        if overfull {
            self.violate("a system holds more unread bytes than its window allows");
        }
        if broken {
            // Data arriving at a closed socket resets the connection.
            if let Some(end) = self.end(id.other()) {
                end.dead = true;
            }
            if let Some(conn) = self.conn(id.conn) {
                conn.way(1 - id.side).forget_unsent();
            }
            return self.send_reset(id);
        }
        self.notify(id.other());
        if answers {
            self.launch(id.other(), Packet::Confirm);
        }
        if acks > 0 {
            self.ack(id);
        }
    }

    /// Schedules an acknowledgement to this end.
    pub(super) fn ack(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = conn.hosts(id.side);
        let way = conn.way(id.side);
        if std::mem::replace(&mut way.ack_coming, true) {
            return;
        }
        let epoch = way.epoch;
        let takes = self.draw(id, from, to);
        self.after(takes, Happening::Acked(id, epoch));
    }

    pub(in crate::sim::kernel) fn acked(&mut self, id: EndId, epoch: u32) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let most = conn.buffers.send;
        let (to, from) = conn.hosts(id.side);
        if conn.way(id.side).epoch != epoch {
            return;
        }
        conn.way(id.side).ack_coming = false;
        if !self.passes(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        let way = conn.way(id.side);
        way.unacked -= std::mem::take(&mut way.arrived);
        way.lost = None;
        let roomy = way.held() <= most - most / 3;
        let end = conn.end(id.side);
        end.heard = now;
        end.probes = 0;
        if roomy && end.blocked {
            self.notify(id);
        }
        self.transmit(id);
        self.reap(id.conn);
    }

    pub(in crate::sim::kernel) fn window(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = conn.hosts(id.side);
        conn.way(id.side).window_coming = false;
        // If the update is lost, the zero-window probe recovers.
        if self.passes(from, to) {
            self.transmit(id);
        }
    }
}
