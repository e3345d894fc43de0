//! Streams as a system's TCP carries them: packets in order, windows, acknowledgements, a close
//! by FIN or reset, and patience with a network that loses everything for a while.
//!
//! What is lost on its way is sent again with growing pauses; who gets no answer for a quarter of
//! an hour gives up (a connect after two minutes), as Linux does. Closing with unread input resets,
//! and what comes for a socket that is gone is answered by a reset.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::hosts::{NO_DESCRIPTORS, Told};
use super::{ConnId, EndId, Happening, Kernel};
use crate::driver::memory::Cut;
use crate::driver::{How, Key, Outbox};
use crate::sim::Host;
use crate::sim::faults::Fault;
use crate::sim::random::{Purpose, Stream, nanos};
use crate::sim::trace::{Label, What};

/// The most that one packet carries.
const PACKET: usize = 64 * 1024;
/// The first pause before something is sent again; each next one is twice as long.
const RETRY: u64 = 200_000_000;
/// The same for the first packet of a connection.
const RETRY_OPEN: u64 = 1_000_000_000;
const LONGEST_RETRY: u64 = 120_000_000_000;
/// Who gets no answer for so long gives up.
const PATIENCE: u64 = 924_000_000_000;
const PATIENCE_OPEN: u64 = 127_000_000_000;
/// How often, and how long after one another, a keep-alive asks before it gives up.
const PROBES: u32 = 9;
const PROBE_AGAIN: u64 = 75_000_000_000;
/// How often who waits for room asks for it.
const ASK_FOR_ROOM: u64 = 5_000_000_000;
/// No host at all.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Stage {
    /// Made by a connect that has no answer yet.
    Connecting,
    /// Waits in the queue of a port.
    Queued,
    Open,
    /// Its program has closed it. What was written before still goes.
    Closed,
    /// Its system has gone.
    Vanished,
}

/// One end, as its system holds it.
pub(in crate::sim) struct End {
    pub(in crate::sim) host: u32,
    pub(in crate::sim) local: SocketAddr,
    pub(in crate::sim) stage: Stage,
    /// What its driver knows it by.
    pub(in crate::sim) key: Option<Key>,
    /// It stands in the list of what its driver is to look at.
    pub(in crate::sim) told: bool,
    inbox: VecDeque<Vec<u8>>,
    unread: usize,
    pub(in crate::sim) fin: bool,
    pub(in crate::sim) error: Option<io::ErrorKind>,
    /// Its connect has an answer that was not told yet.
    pub(in crate::sim) answered: bool,
    /// Its driver waits for room.
    pub(in crate::sim) blocked: bool,
    /// Nothing comes from it any more.
    dead: bool,
    /// When something of the other end was heard.
    heard: u64,
    keep_alive: Option<u64>,
    probe_coming: bool,
    probes: u32,
    /// A slow reader reads nothing before this.
    pub(in crate::sim) reads_at: u64,
}

enum Packet {
    Open,
    Data(Vec<u8>),
    Fin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    No,
    Wanted,
    Sent,
}

/// Bytes that wait, taken from the front: by an offset, so that small pieces move nothing.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    gone: usize,
}

impl Unsent {
    fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        if self.gone == 0 && n == self.bytes.len() {
            return std::mem::take(&mut self.bytes);
        }
        let taken = self.bytes[self.gone..self.gone + n].to_vec();
        self.gone += n;
        if self.is_empty() {
            *self = Unsent::default();
        } else if self.gone > self.len() {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        taken
    }
}

/// What one end sends.
struct Way {
    unsent: Unsent,
    flight: VecDeque<Packet>,
    /// Bytes in flight.
    flying: usize,
    /// Bytes that have left `unsent` and are not acknowledged.
    unacked: usize,
    /// Bytes that have arrived and are not acknowledged.
    arrived: usize,
    ack_coming: bool,
    window_coming: bool,
    asks_for_room: bool,
    fin: Fin,
    last_arrival: u64,
    /// What was sent before something was lost is sent again.
    epoch: u32,
    /// Something was lost, and nothing is sent before the next try.
    stalled: bool,
    /// Since when nothing was acknowledged, and how often it was tried again.
    lost: Option<(u64, u32)>,
    random: Stream,
    /// What was written and the other end's protocol has not seen: to compare.
    ledger: VecDeque<u8>,
    written: u64,
}

pub(in crate::sim) struct Conn {
    label: Label,
    /// What its choices are drawn by: from, to, and the how-manieth between the two.
    name: [u64; 3],
    ends: [End; 2],
    ways: [Way; 2],
}

/// What a read found.
pub(in crate::sim) enum Read {
    Bytes,
    Fin,
    Error(io::ErrorKind),
    Nothing,
}

impl End {
    fn new(host: u32, local: SocketAddr, stage: Stage) -> End {
        End {
            host,
            local,
            stage,
            key: None,
            told: false,
            inbox: VecDeque::new(),
            unread: 0,
            fin: false,
            error: None,
            answered: false,
            blocked: false,
            dead: stage == Stage::Vanished,
            heard: 0,
            keep_alive: None,
            probe_coming: false,
            probes: 0,
            reads_at: 0,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.stage, Stage::Closed | Stage::Vanished)
    }

    /// Its system knows nothing of the connection, and answers by a reset.
    fn is_unknown(&self) -> bool {
        self.dead || self.stage == Stage::Vanished
    }

    fn has_something(&self) -> bool {
        self.unread > 0 || self.fin || self.error.is_some()
    }

    /// Bytes wait.
    pub(in crate::sim) fn is_readable(&self) -> bool {
        self.unread > 0
    }
}

impl Way {
    fn new(random: Stream) -> Way {
        Way {
            unsent: Unsent::default(),
            flight: VecDeque::new(),
            flying: 0,
            unacked: 0,
            arrived: 0,
            ack_coming: false,
            window_coming: false,
            asks_for_room: false,
            fin: Fin::No,
            last_arrival: 0,
            epoch: 0,
            stalled: false,
            lost: None,
            random,
            ledger: VecDeque::new(),
            written: 0,
        }
    }

    fn held(&self) -> usize {
        self.unsent.len() + self.unacked
    }

    /// Nothing of it will be sent any more; what flies may arrive, and what was lost is lost.
    fn forget_unsent(&mut self) {
        self.unsent = Unsent::default();
        if self.stalled {
            self.forget_all();
        }
    }

    fn forget_all(&mut self) {
        self.unsent = Unsent::default();
        self.stalled = false;
        self.flight.clear();
        self.flying = 0;
        self.epoch += 1;
    }

    fn is_done(&self) -> bool {
        self.unsent.is_empty() && self.flight.is_empty() && self.fin == Fin::Sent
    }
}

impl Conn {
    fn way(&mut self, side: u8) -> &mut Way {
        &mut self.ways[side as usize]
    }

    fn end(&mut self, side: u8) -> &mut End {
        &mut self.ends[side as usize]
    }
}

impl Kernel {
    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        match &mut self.conns[id.slot as usize] {
            (generation, Some(conn)) if *generation == id.generation => Some(conn),
            _ => None,
        }
    }

    pub(in crate::sim) fn end(&mut self, id: EndId) -> Option<&mut End> {
        Some(self.conn(id.conn)?.end(id.side))
    }

    pub(super) fn set_stage(&mut self, id: EndId, stage: Stage) {
        if let Some(end) = self.end(id) {
            end.stage = stage;
        }
    }

    pub(in crate::sim) fn label(&mut self, id: EndId) -> Label {
        self.conn(id.conn).map_or(Label { client: 0, ordinal: 0 }, |conn| conn.label)
    }

    /// The addresses of an end: its own and the other's.
    pub(in crate::sim) fn addresses(&mut self, id: EndId) -> Option<(SocketAddr, SocketAddr)> {
        let conn = self.conn(id.conn)?;
        Some((conn.end(id.side).local, conn.end(1 - id.side).local))
    }

    /// The connections that there are.
    pub(in crate::sim) fn connections(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    /// What the network still holds; a text for each connection.
    pub(in crate::sim) fn held_connections(&self) -> Vec<String> {
        let conns = self.conns.iter().filter_map(|(_, conn)| conn.as_deref());
        conns
            .map(|Conn { label, ends, ways, .. }| {
                let client = &self.hosts[label.client as usize].name;
                let of = |side: usize| {
                    let (end, way) = (&ends[side], &ways[side]);
                    let (stage, flying) = (end.stage, way.flight.len());
                    format!(
                        "{stage:?} with {} bytes unsent and {flying} packets on their way",
                        way.unsent.len()
                    )
                };
                format!("the network holds {client}#{}: {}; {}", label.ordinal, of(0), of(1))
            })
            .collect()
    }

    /// The ends that a host's program holds.
    pub(in crate::sim) fn ends_of(&self, host: u32) -> Vec<EndId> {
        self.ends_where(|end| end.host == host && !end.is_gone())
    }

    /// The ends that a host's system knows: also of what its program has closed.
    pub(super) fn ends_known_to(&self, host: u32) -> Vec<EndId> {
        self.ends_where(|end| end.host == host && end.stage != Stage::Vanished)
    }

    fn ends_where(&self, is_meant: impl Fn(&End) -> bool) -> Vec<EndId> {
        let mut ends = Vec::new();
        for (slot, (generation, conn)) in self.conns.iter().enumerate() {
            let Some(conn) = conn else { continue };
            for side in 0..2u8 {
                if is_meant(&conn.ends[side as usize]) {
                    let conn = ConnId { slot: slot as u32, generation: *generation };
                    ends.push(EndId { conn, side });
                }
            }
        }
        ends
    }

    // What a program asks.

    pub(in crate::sim) fn connect(
        &mut self,
        from: u32,
        to: SocketAddr,
        bind: Option<SocketAddr>,
    ) -> io::Result<EndId> {
        if !self.has_descriptors(from) {
            return Err(io::Error::from_raw_os_error(NO_DESCRIPTORS));
        }
        let host = match self.host_of(from, to) {
            Some(host) => host,
            None if is_ours(to.ip()) => NOBODY,
            None => return Err(io::ErrorKind::NetworkUnreachable.into()),
        };
        let state = &self.hosts[from as usize];
        let ip = match (to.ip().is_loopback(), to.is_ipv6()) {
            (true, _) => to.ip(),
            (false, true) => state.v6.into(),
            (false, false) => state.v4.into(),
        };
        let local = match bind {
            Some(bind) if bind.port() != 0 => bind,
            other => SocketAddr::new(other.map_or(ip, |bind| bind.ip()), self.free_port(from)),
        };
        let state = self.host(from);
        state.tried += 1;
        let label = Label { client: from, ordinal: state.tried };
        let to_it = state.tried_to.entry(host).or_default();
        *to_it += 1;
        let name @ [a, b, n] = [u64::from(from), u64::from(host), u64::from(*to_it)];
        let way = |side: u64| Way::new(Stream::new(self.seed, Purpose::Way, &[a, b, n, side]));
        let conn = Conn {
            label,
            name,
            ends: [End::new(from, local, Stage::Connecting), End::new(host, to, Stage::Vanished)],
            ways: [way(0), way(1)],
        };
        let id = EndId { conn: self.insert(conn), side: 0 };
        self.note(from, What::Tries(label, to));
        self.launch(id, Packet::Open);
        Ok(id)
    }

    fn insert(&mut self, conn: Conn) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push((0, None));
            (self.conns.len() - 1) as u32
        });
        let entry = &mut self.conns[slot as usize];
        entry.0 += 1;
        entry.1 = Some(Box::new(conn));
        ConnId { slot, generation: entry.0 }
    }

    /// Takes what fits of the outbox; true when that is all of it.
    pub(in crate::sim) fn write(&mut self, id: EndId, out: &mut Outbox) -> bool {
        let mut sent = 0;
        while !out.is_empty() {
            let n = self.put(id, out.first());
            if n == 0 {
                break;
            }
            out.advance(n);
            sent += n;
        }
        // Where the connection is broken reading tells.
        if let Some(end) = self.end(id) {
            end.blocked = !out.is_empty();
        }
        self.sends(id, sent);
        out.is_empty()
    }

    /// Takes what fits of these bytes, and how many those are.
    pub(in crate::sim) fn send(&mut self, id: EndId, data: &[u8]) -> io::Result<usize> {
        let conn = self.conn(id.conn).ok_or(io::ErrorKind::NotConnected)?;
        if conn.end(id.side).dead {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if conn.way(id.side).fin != Fin::No {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.put(id, data);
        self.sends(id, n);
        Ok(n)
    }

    fn put(&mut self, id: EndId, data: &[u8]) -> usize {
        let most = self.send_buffer;
        let Some(conn) = self.conn(id.conn) else { return 0 };
        if conn.end(id.side).dead || conn.way(id.side).fin != Fin::No {
            return 0;
        }
        let way = conn.way(id.side);
        let n = data.len().min(most.saturating_sub(way.held()));
        way.unsent.bytes.extend_from_slice(&data[..n]);
        way.ledger.extend(&data[..n]);
        way.written += n as u64;
        n
    }

    fn sends(&mut self, id: EndId, n: usize) {
        if n > 0
            && let Some(conn) = self.conn(id.conn)
        {
            let (label, host) = (conn.label, conn.end(id.side).host);
            self.note(host, What::Sent(label, n));
            self.transmit(id);
        }
    }

    /// Reads at most so many bytes into `into`, or tells of an end behind them.
    pub(in crate::sim) fn read(&mut self, id: EndId, most: usize, into: &mut Vec<u8>) -> Read {
        let Some(end) = self.end(id) else { return Read::Nothing };
        if end.unread > 0 {
            into.clear();
            while into.len() < most
                && let Some(mut piece) = end.inbox.pop_front()
            {
                let room = most - into.len();
                if piece.len() > room {
                    end.inbox.push_front(piece.split_off(room));
                }
                if into.is_empty() { *into = piece } else { into.extend_from_slice(&piece) }
            }
            end.unread -= into.len();
            self.window_opens(id);
            return Read::Bytes;
        }
        if let Some(error) = end.error.take() {
            return Read::Error(error);
        }
        if end.fin { Read::Fin } else { Read::Nothing }
    }

    /// What was read makes room for who waits for it.
    fn window_opens(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(other.conn) else { return };
        let (to, from) = (conn.end(other.side).host, conn.end(id.side).host);
        let way = conn.way(other.side);
        if way.window_coming || (way.unsent.is_empty() && way.fin != Fin::Wanted) {
            return;
        }
        way.window_coming = true;
        let mut random = way.random.clone();
        let takes = self.way(from, to, &mut random);
        if let Some(conn) = self.conn(other.conn) {
            conn.way(other.side).random = random;
        }
        self.after(takes, Happening::Window(other));
    }

    pub(in crate::sim) fn shut_write(&mut self, id: EndId) {
        if let Some(conn) = self.conn(id.conn)
            && conn.way(id.side).fin == Fin::No
        {
            conn.way(id.side).fin = Fin::Wanted;
            self.transmit(id);
        }
    }

    /// Closes as `close(2)` does.
    pub(in crate::sim) fn close(&mut self, id: EndId, how: How) {
        let Some(end) = self.end(id) else { return };
        if end.is_gone() {
            return;
        }
        let aborts = how == How::Reset || end.unread > 0 || end.stage == Stage::Connecting;
        end.stage = Stage::Closed;
        end.key = None;
        end.inbox = VecDeque::new();
        let dead = end.dead;
        if aborts && !dead {
            self.abort(id);
        } else if !dead {
            self.shut_write(id);
        }
        self.reap(id.conn);
    }

    /// Nothing more comes from this end but a reset.
    fn abort(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let end = conn.end(id.side);
        end.dead = true;
        let opens = end.stage == Stage::Closed && conn.end(1 - id.side).stage == Stage::Vanished;
        conn.way(id.side).forget_unsent();
        if opens {
            // Who would be told was not asked yet.
            conn.way(id.side).forget_all();
        } else {
            self.send_reset(id.other());
        }
    }

    /// A reset goes to this end, behind what flies to it.
    fn send_reset(&mut self, to: EndId) {
        let from = to.other();
        let Some(conn) = self.conn(to.conn) else { return };
        let hosts = (conn.end(from.side).host, conn.end(to.side).host);
        let way = conn.way(from.side);
        let (mut random, last) = (way.random.clone(), way.last_arrival);
        let takes = self.way(hosts.0, hosts.1, &mut random);
        let at = (self.now + takes).max(last);
        if let Some(conn) = self.conn(to.conn) {
            let way = conn.way(from.side);
            way.random = random;
            way.last_arrival = at;
        }
        self.at(at, Happening::Reset(to));
    }

    pub(in crate::sim) fn keep_alive(&mut self, id: EndId, idle: Option<Duration>) {
        let now = self.now;
        let Some(end) = self.end(id) else { return };
        end.keep_alive = idle.map(nanos);
        end.heard = end.heard.max(now);
        if let Some(idle) = end.keep_alive
            && !std::mem::replace(&mut end.probe_coming, true)
        {
            self.after(idle, Happening::Probe(id));
        }
    }

    /// Bytes that were written and are not acknowledged.
    pub(in crate::sim) fn unsent(&mut self, id: EndId) -> usize {
        self.conn(id.conn).map_or(0, |conn| conn.way(id.side).held())
    }

    /// Bytes that an end has written in all, while its program holds it.
    pub(in crate::sim) fn written(&mut self, id: EndId) -> Option<u64> {
        let conn = self.conn(id.conn)?;
        conn.end(id.side).key?;
        Some(conn.way(id.side).written)
    }

    /// Compares what a protocol was given with what the other end has written.
    pub(in crate::sim) fn was_given(&mut self, id: EndId, data: &[u8]) -> bool {
        let Some(conn) = self.conn(id.conn) else { return false };
        let ledger = &mut conn.way(1 - id.side).ledger;
        let equal = ledger.len() >= data.len() && ledger.iter().zip(data).all(|(a, b)| a == b);
        ledger.drain(..data.len().min(ledger.len()));
        equal
    }

    /// A protocol was given all that the other end has written.
    pub(in crate::sim) fn was_given_all(&mut self, id: EndId) -> bool {
        self.conn(id.conn).is_none_or(|conn| conn.way(1 - id.side).ledger.is_empty())
    }

    // What happens on the way.

    /// Sends what the window has room for.
    fn transmit(&mut self, id: EndId) {
        let most_unread = self.receive_buffer;
        loop {
            let Some(conn) = self.conn(id.conn) else { return };
            let unread = conn.end(1 - id.side).unread;
            let hosts = (conn.end(id.side).host, conn.end(1 - id.side).host);
            let dead = conn.end(id.side).dead;
            let way = conn.way(id.side);
            // Who is gone sends nothing: not even the FIN that was asked for.
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

    /// Who waits for room while nothing is on its way asks now and then: else nobody would notice
    /// that the other end has gone.
    fn ask_for_room(&mut self, id: EndId) {
        if let Some(conn) = self.conn(id.conn)
            && conn.way(id.side).flight.is_empty()
            && !std::mem::replace(&mut conn.way(id.side).asks_for_room, true)
        {
            self.after(ASK_FOR_ROOM, Happening::AskForRoom(id));
        }
    }

    pub(super) fn asks_for_room(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        let answers = !conn.end(1 - id.side).is_unknown();
        let way = conn.way(id.side);
        way.asks_for_room = false;
        if way.stalled || way.unsent.is_empty() {
            return;
        }
        if answers && self.passes(from, to) && self.passes(to, from) {
            self.transmit(id);
        } else {
            self.stall(id);
        }
    }

    /// Puts a packet on its way, behind those before it.
    fn launch(&mut self, id: EndId, packet: Packet) {
        let bytes = if let Packet::Data(data) = &packet { data.len() } else { 0 };
        if let Some(conn) = self.conn(id.conn) {
            conn.way(id.side).flight.push_back(packet);
            self.fly(id, bytes);
        }
    }

    fn fly(&mut self, id: EndId, bytes: usize) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        let mut random = conn.way(id.side).random.clone();
        let departs = if from == to { self.now } else { self.departure(from, bytes) };
        let takes = self.way(from, to, &mut random);
        let Some(conn) = self.conn(id.conn) else { return };
        let way = conn.way(id.side);
        way.random = random;
        way.last_arrival = way.last_arrival.max(departs.saturating_add(takes));
        let (at, epoch) = (way.last_arrival, way.epoch);
        self.at(at, Happening::Arrive(id, epoch));
    }

    /// The first packet in flight comes to the other end.
    pub(super) fn arrive(&mut self, id: EndId, epoch: u32) {
        let Some(conn) = self.conn(id.conn) else { return };
        if conn.way(id.side).epoch != epoch {
            return;
        }
        let (from, to) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        if !self.passes(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        match conn.way(id.side).flight.pop_front() {
            None => {}
            Some(Packet::Open) if id.side == 0 => self.open_comes(id),
            Some(packet) => self.packet_comes(id, packet),
        }
        self.reap(id.conn);
    }

    /// A connect comes to a host.
    fn open_comes(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(id.conn) else { return };
        let (host, to) = (conn.end(1).host, conn.end(1).local);
        let refuses = self.lasting().any(|fault| matches!(fault, Fault::Refuse(h) if h.0 == host));
        let Some(port) = self.listener_for(host, to).filter(|_| !refuses) else {
            return self.send_reset(id);
        };
        if !self.enqueue(host, port, other) {
            if let Some(conn) = self.conn(id.conn) {
                conn.way(0).flight.push_front(Packet::Open);
            }
            return self.stall(id);
        }
        let now = self.now;
        if let Some(conn) = self.conn(id.conn) {
            conn.way(0).lost = None;
            conn.end(1).stage = Stage::Queued;
            conn.end(1).dead = false;
            conn.end(1).heard = now;
        }
        self.launch(other, Packet::Open);
    }

    fn packet_comes(&mut self, id: EndId, packet: Packet) {
        let now = self.now;
        let most_unread = self.receive_buffer;
        let Some(conn) = self.conn(id.conn) else { return };
        let [first, second] = &mut conn.ends;
        let end = if id.side == 0 { second } else { first };
        end.heard = now;
        if end.is_unknown() {
            // Nobody knows of this connection there.
            return self.send_reset(id);
        }
        let mut acks = 0;
        let mut broken = false;
        match packet {
            Packet::Open => {
                if end.stage == Stage::Connecting {
                    end.stage = Stage::Open;
                    end.answered = true;
                }
                conn.ways[id.side as usize].lost = None;
            }
            Packet::Fin => end.fin = true,
            Packet::Data(data) => {
                acks = data.len();
                if end.stage == Stage::Closed {
                    broken = true;
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
            // What comes for a closed socket resets the connection.
            if let Some(end) = self.end(id.other()) {
                end.dead = true;
            }
            if let Some(conn) = self.conn(id.conn) {
                conn.way(1 - id.side).forget_unsent();
            }
            return self.send_reset(id);
        }
        self.notify(id.other());
        if acks > 0 {
            self.ack(id);
        }
    }

    /// An acknowledgement goes back to this end.
    fn ack(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        let way = conn.way(id.side);
        if std::mem::replace(&mut way.ack_coming, true) {
            return;
        }
        let epoch = way.epoch;
        let mut random = way.random.clone();
        let takes = self.way(from, to, &mut random);
        if let Some(conn) = self.conn(id.conn) {
            conn.way(id.side).random = random;
        }
        self.after(takes, Happening::Acked(id, epoch));
    }

    pub(super) fn acked(&mut self, id: EndId, epoch: u32) {
        let (now, most) = (self.now, self.send_buffer);
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = (conn.end(id.side).host, conn.end(1 - id.side).host);
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

    pub(super) fn window(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        conn.way(id.side).window_coming = false;
        // Who does not hear of it asks by itself.
        if self.passes(from, to) {
            self.transmit(id);
        }
    }

    /// Something of this end was lost: it is sent again after a pause.
    fn stall(&mut self, id: EndId) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let dead = conn.end(id.side).dead;
        let way = conn.way(id.side);
        way.epoch += 1;
        way.ack_coming = false;
        if dead {
            // Nobody is there to send it again.
            way.forget_all();
            return self.reap(id.conn);
        }
        let opens = matches!(way.flight.front(), Some(Packet::Open));
        let (since, tries) = way.lost.unwrap_or((now, 0));
        way.lost = Some((since, tries + 1));
        way.stalled = true;
        let first = if opens { RETRY_OPEN } else { RETRY };
        let pause = (first << tries.min(20)).min(LONGEST_RETRY);
        let patience = if opens { PATIENCE_OPEN } else { PATIENCE };
        // Who gives up does so at the end of its patience, not at its next try.
        let pause = pause.min((since + patience).saturating_sub(now));
        let epoch = way.epoch;
        self.after(pause, Happening::Retry(id, epoch));
    }

    pub(super) fn retry(&mut self, id: EndId, epoch: u32) {
        let now = self.now;
        let Some(conn) = self.conn(id.conn) else { return };
        let (from, to) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        let way = conn.way(id.side);
        let Some((since, _)) = way.lost else { return };
        if way.epoch != epoch {
            return;
        }
        let opens = matches!(way.flight.front(), Some(Packet::Open));
        if now - since >= if opens { PATIENCE_OPEN } else { PATIENCE } {
            if opens && id.side == 1 {
                // Its connect has waited for this answer as long.
                self.break_end(id.other(), io::ErrorKind::TimedOut);
            }
            return self.break_end(id, io::ErrorKind::TimedOut);
        }
        if !self.passes(from, to) {
            return self.stall(id);
        }
        let Some(conn) = self.conn(id.conn) else { return };
        if conn.end(1 - id.side).is_unknown() && !(opens && id.side == 0) {
            return self.send_reset(id);
        }
        let way = conn.way(id.side);
        way.stalled = false;
        let sizes: Vec<usize> = way.flight.iter().map(Packet::len).collect();
        let acks = way.arrived > 0;
        for bytes in sizes {
            self.fly(id, bytes);
        }
        if acks {
            self.ack(id);
        }
        self.transmit(id);
    }

    /// A reset comes to this end.
    pub(super) fn reset_comes(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let (to, from) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        if !self.passes(from, to) {
            // Who still sends asks for another one; who is silent never hears of it.
            let Some(conn) = self.conn(id.conn) else { return };
            let way = conn.way(id.side);
            let sends = way.held() > 0 || !way.flight.is_empty();
            if (sends || conn.end(id.side).stage == Stage::Connecting) && !conn.end(id.side).dead {
                self.after(RETRY_OPEN, Happening::Reset(id));
            }
            return;
        }
        let Some(end) = self.end(id) else { return };
        let kind = match end.stage {
            Stage::Connecting => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::ConnectionReset,
        };
        self.break_end(id, kind);
    }

    /// This end's connection is broken.
    fn break_end(&mut self, id: EndId, kind: io::ErrorKind) {
        let Some(conn) = self.conn(id.conn) else { return };
        conn.way(id.side).forget_all();
        let end = conn.end(id.side);
        if !end.is_gone() && !end.dead {
            end.error = Some(kind);
            end.answered |= end.stage == Stage::Connecting;
        }
        end.dead = true;
        self.notify(id);
        self.reap(id.conn);
    }

    /// The system of this end has gone.
    pub(super) fn vanish(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        conn.way(id.side).forget_unsent();
        let end = conn.end(id.side);
        end.stage = Stage::Vanished;
        end.dead = true;
        end.key = None;
        end.inbox.clear();
        end.unread = 0;
        self.reap(id.conn);
    }

    /// Asks a silent end whether it is still there.
    pub(super) fn probe(&mut self, id: EndId) {
        let Some(end) = self.end(id) else { return };
        end.probe_coming = false;
        if let Some(next) = self.probes(id)
            && let Some(end) = self.end(id)
        {
            end.probe_coming = true;
            self.at(next, Happening::Probe(id));
        }
    }

    /// Probes once; when it is to be done again.
    fn probes(&mut self, id: EndId) -> Option<u64> {
        let now = self.now;
        let conn = self.conn(id.conn)?;
        let (from, to) = (conn.end(id.side).host, conn.end(1 - id.side).host);
        let unknown = conn.end(1 - id.side).is_unknown();
        // Bytes on their way ask as well, and have a patience of their own.
        let asks_anyway = conn.way(id.side).held() > 0;
        let end = conn.end(id.side);
        let idle = end.keep_alive.filter(|_| !end.dead && !end.is_gone())?;
        if end.probes == 0 && end.heard + idle > now {
            return Some(end.heard + idle);
        }
        let passes = self.passes(from, to) && self.passes(to, from);
        if passes && unknown {
            self.send_reset(id);
            return None;
        }
        let end = self.end(id)?;
        if passes || asks_anyway {
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

    /// Resets one in so many of the connections of a host, at both ends.
    pub(super) fn reset_some(&mut self, host: Host, one_in: u32) {
        for end in self.ends_of(host.0) {
            let Some(conn) = self.conn(end.conn) else { continue };
            let [a, b, n] = conn.name;
            // By the time and not by the place in the list: that of others decides nothing here.
            let key = [self.now, u64::from(host.0), a, b, n];
            let mut draw = Stream::new(self.seed, Purpose::Victims, &key);
            if draw.below(u64::from(one_in.max(1))) == 0 {
                self.break_end(end, io::ErrorKind::ConnectionReset);
                self.break_end(end.other(), io::ErrorKind::ConnectionReset);
            }
        }
    }

    /// The driver of this end has something to look at.
    pub(super) fn notify(&mut self, id: EndId) {
        let Some(end) = self.end(id) else { return };
        if end.key.is_none() || end.told {
            return;
        }
        end.told = true;
        let host = end.host;
        self.tell(host, Told::End(id));
    }

    /// Its driver looks at it again in this round, where there is something.
    pub(in crate::sim) fn look_at(&mut self, id: EndId) {
        if self.end(id).is_some_and(|end| end.has_something()) {
            self.notify(id);
        }
    }

    /// Its driver looks at it in the next round.
    pub(in crate::sim) fn look_later(&mut self, id: EndId) {
        if let Some(end) = self.end(id) {
            end.told = true;
            let host = end.host;
            self.host(host).later.push(Told::End(id));
        }
    }

    /// A slow reader has read so many bytes.
    pub(in crate::sim) fn reads_again(&mut self, id: EndId, bytes: u64, rate: u64) {
        let at = self.now + bytes.saturating_mul(1_000_000_000) / rate;
        if let Some(end) = self.end(id) {
            end.reads_at = at;
            self.at(at, Happening::ReadAgain(id));
        }
    }

    /// Forgets a connection that neither program holds and that has nothing more to send.
    fn reap(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let is_over = |side: usize| {
            let way = &conn.ways[side];
            conn.ends[side].is_gone()
                && (way.is_done() || (conn.ends[side].dead && way.flight.is_empty()))
        };
        if is_over(0) && is_over(1) {
            self.conns[id.slot as usize].1 = None;
            self.free.push(id.slot);
        }
    }
}

impl Packet {
    fn len(&self) -> usize {
        if let Packet::Data(data) = self { data.len() } else { 0 }
    }
}

/// An address of the simulated network, whether or not somebody has it.
fn is_ours(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.segments()[0] == 0xfd00,
    }
}
