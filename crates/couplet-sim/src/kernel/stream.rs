//! TCP streams: packets in order, windows, acknowledgements, close by FIN or reset, and
//! retransmission through outages.
//!
//! Unlike Linux, a closed end does not linger in FIN_WAIT2 or TIME_WAIT.
//!
//! This file holds a connection's state. `calls.rs` implements the calls of programs, `transit.rs`
//! packets in flight, and `loss.rs` loss, resets and silence. `ledger.rs` compares the bytes that
//! protocols write and receive above their layers, and `capture.rs` captures packets.

mod calls;
mod capture;
mod ledger;
mod loss;
mod transit;

use std::collections::VecDeque;
use std::io;

use couplet_core::Address;
use couplet_core::driver::{CloseMode, Key};
use couplet_core::layers::PcapTap;

use super::hosts::HostNotice;
use super::{EndId, Kernel, SimEvent};
use crate::random::RandomStream;
use crate::trace::Label;
use ledger::{Ledger, Stack};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndStage {
    /// The client's end, before it gets an answer.
    Connecting,
    /// The server's end: the SYN has arrived, and the SYN-ACK is not confirmed yet.
    Answering,
    /// In a port's accept queue.
    Queued,
    /// The client's end, answered. The outcome of the connect is not yet reported to the driver.
    Answered,
    Open,
    /// Closed by its program. Earlier writes are still sent.
    Closed,
    /// The system of this end has vanished.
    Vanished,
}

/// Whether an end can still send. Once it can't, it answers packets with a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Alive,
    /// The program has not yet got this error.
    Failed(io::ErrorKind),
    Dead,
}

/// One end of a connection, as held by its system.
pub(crate) struct End {
    pub(crate) host: u32,
    pub(crate) local: Address,
    pub(crate) stage: EndStage,
    /// The driver's key.
    pub(crate) key: Option<Key>,
    /// An event of this end is already queued for its driver.
    pub(crate) queued: bool,
    // A sender keeps to the window; a breach fails the world.
    inbox: VecDeque<Vec<u8>>,
    unread: usize,
    pub(crate) fin: bool,
    health: Health,
    /// The driver is waiting for send buffer space.
    pub(crate) blocked: bool,
    /// Time of the last packet from the other end.
    heard: u64,
    /// How a kill of the program closes this end.
    pub(super) close_on_kill: CloseMode,
    keep_alive: Option<u64>,
    /// When the next check of keep-alive is scheduled; later events are outdated.
    check_at: Option<u64>,
    probes: u32,
    /// A slow reader reads nothing before this time.
    pub(crate) reads_at: u64,
    /// The program's layers, if any.
    layers: Option<Stack>,
}

enum Packet {
    /// The first packet of each end: SYN and SYN-ACK.
    Open,
    /// The client's ACK of the answer: the connection enters the accept queue.
    Confirm,
    Data(Vec<u8>),
    Fin,
}

/// A packet in flight.
struct Flying {
    packet: Packet,
    /// When its last byte leaves the host.
    departs: u64,
    /// The delay of its trip, in nanoseconds.
    takes: u64,
    /// Not before the packets ahead of it.
    arrives: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fin {
    No,
    Wanted,
    Sent,
}

/// Recovery from the loss of packets, with the time of the first loss and the number of failed
/// tries since.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    None,
    /// Nothing is sent until the next retry.
    Stalled {
        since: u64,
        tries: u32,
    },
    /// The packets were sent again, and none is acknowledged.
    Retrying {
        since: u64,
        tries: u32,
    },
}

impl Loss {
    /// The time of the first loss and the number of failed tries, if a packet was lost.
    fn history(self) -> Option<(u64, u32)> {
        match self {
            Loss::None => None,
            Loss::Stalled { since, tries } | Loss::Retrying { since, tries } => {
                Some((since, tries))
            }
        }
    }

    /// Ends a stall.
    fn resume(&mut self) {
        if let Loss::Stalled { since, tries } = *self {
            *self = Loss::Retrying { since, tries };
        }
    }
}

/// Queued bytes. An offset marks the front, so that taking small pieces moves nothing.
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

/// The stream from one end to the other.
struct Flow {
    unsent: Unsent,
    flight: VecDeque<Flying>,
    bytes_in_flight: usize,
    /// Bytes taken from `unsent` and not yet acknowledged.
    unacked: usize,
    /// Bytes that arrived and are not yet acknowledged.
    arrived: usize,
    ack_pending: bool,
    window_update_pending: bool,
    window_probe_pending: bool,
    fin: Fin,
    last_arrival: u64,
    /// Bumped when packets are lost; arrivals and acknowledgements of older epochs are ignored.
    epoch: u32,
    loss: Loss,
    random: RandomStream,
    /// Bytes written that the peer's protocol has not received yet, for comparison.
    ledger: VecDeque<u8>,
    written: u64,
    above: Ledger,
}

/// Socket buffer sizes in bytes, for each direction of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Buffers {
    /// For bytes not yet acknowledged.
    pub(crate) send: usize,
    /// For bytes not yet read.
    pub(crate) receive: usize,
}

pub(crate) struct Conn {
    label: Label,
    buffers: Buffers,
    /// The key of its PRNG streams: client host, server host, and a counter per such pair.
    name: [u64; 3],
    ends: [End; 2],
    flows: [Flow; 2],
    /// Captures the packets of this connection.
    tap: Option<PcapTap>,
}

/// The result of a read.
pub(crate) enum Read {
    Bytes,
    Fin,
    Error(io::ErrorKind),
    Nothing,
}

impl End {
    fn new(host: u32, local: Address, stage: EndStage) -> End {
        End {
            host,
            local,
            stage,
            key: None,
            queued: false,
            inbox: VecDeque::new(),
            unread: 0,
            fin: false,
            health: if stage == EndStage::Vanished { Health::Dead } else { Health::Alive },
            blocked: false,
            heard: 0,
            close_on_kill: CloseMode::Normal,
            keep_alive: None,
            check_at: None,
            probes: 0,
            reads_at: 0,
            layers: None,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.stage, EndStage::Closed | EndStage::Vanished)
    }

    fn is_dead(&self) -> bool {
        self.health != Health::Alive
    }

    /// Ends the sending. An error that the program has not got remains.
    fn die(&mut self) {
        if !self.is_dead() {
            self.health = Health::Dead;
        }
    }

    /// The error that the program has not yet got.
    pub(crate) fn error(&self) -> Option<io::ErrorKind> {
        match self.health {
            Health::Failed(error) => Some(error),
            Health::Alive | Health::Dead => None,
        }
    }

    pub(crate) fn take_error(&mut self) -> Option<io::ErrorKind> {
        let error = self.error()?;
        self.health = Health::Dead;
        Some(error)
    }

    /// Whether the outcome of a connect is not yet reported to the driver, which reports it now.
    pub(crate) fn take_outcome(&mut self) -> bool {
        match self.stage {
            EndStage::Answered => {
                self.stage = EndStage::Open;
                true
            }
            EndStage::Connecting => self.error().is_some(),
            _ => false,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, EndStage::Answered | EndStage::Open)
    }

    fn has_event(&self) -> bool {
        self.unread > 0 || self.fin || self.error().is_some()
    }

    /// Whether received bytes are unread.
    pub(crate) fn is_readable(&self) -> bool {
        self.unread > 0
    }
}

impl Flow {
    fn new(random: RandomStream) -> Flow {
        Flow {
            unsent: Unsent::default(),
            flight: VecDeque::new(),
            bytes_in_flight: 0,
            unacked: 0,
            arrived: 0,
            ack_pending: false,
            window_update_pending: false,
            window_probe_pending: false,
            fin: Fin::No,
            last_arrival: 0,
            epoch: 0,
            loss: Loss::None,
            random,
            ledger: VecDeque::new(),
            written: 0,
            above: Ledger::default(),
        }
    }

    /// Whether the next packet to arrive is the first of its end.
    fn opens(&self) -> bool {
        self.flight.front().is_some_and(|flying| matches!(flying.packet, Packet::Open))
    }

    fn buffered(&self) -> usize {
        self.unsent.len() + self.unacked
    }

    /// Drops unsent bytes. Packets in flight may still arrive; lost ones are not retransmitted.
    fn drop_unsent(&mut self) {
        self.unsent = Unsent::default();
        if self.is_stalled() {
            self.drop_all();
        }
    }

    /// Drops the packets that have not left the host.
    fn drop_waiting(&mut self, now: u64) {
        let left = self.flight.partition_point(|flying| flying.departs <= now);
        self.flight.truncate(left);
    }

    fn drop_all(&mut self) {
        self.unsent = Unsent::default();
        self.loss.resume();
        self.flight.clear();
        self.bytes_in_flight = 0;
        self.epoch += 1;
    }

    fn is_stalled(&self) -> bool {
        matches!(self.loss, Loss::Stalled { .. })
    }

    fn is_done(&self) -> bool {
        self.unsent.is_empty() && self.flight.is_empty() && self.fin == Fin::Sent
    }
}

impl Conn {
    /// The host of this end, then the host of the other.
    fn hosts(&self, side: u8) -> (u32, u32) {
        (self.ends[side as usize].host, self.ends[1 - side as usize].host)
    }

    fn flow(&mut self, side: u8) -> &mut Flow {
        &mut self.flows[side as usize]
    }

    fn end(&mut self, side: u8) -> &mut End {
        &mut self.ends[side as usize]
    }

    /// Whether the connect was answered but the client can never confirm the answer.
    fn cannot_be_confirmed(&self) -> bool {
        let [client, server] = &self.ends;
        let quiet = self.flows.iter().all(|flow| flow.flight.is_empty());
        let unheard = quiet && (client.is_dead() || client.is_gone());
        server.stage == EndStage::Answering && (server.is_dead() || unheard)
    }
}

impl Kernel {
    fn conn(&mut self, id: Key) -> Option<&mut Conn> {
        self.conns.get_mut(id).map(|conn| &mut **conn)
    }

    /// Shrinks the window below the advertised one.
    #[cfg(test)]
    pub(super) fn narrow(&mut self, id: EndId, receive: usize) {
        if let Some(conn) = self.conn(id.conn) {
            conn.buffers.receive = receive;
        }
    }

    pub(crate) fn end(&mut self, id: EndId) -> Option<&mut End> {
        Some(self.conn(id.conn)?.end(id.side))
    }

    pub(super) fn set_stage(&mut self, id: EndId, stage: EndStage) {
        if let Some(end) = self.end(id) {
            end.stage = stage;
        }
    }

    pub(crate) fn label(&mut self, id: EndId) -> Label {
        self.conn(id.conn).map_or(Label { client: 0, ordinal: 0 }, |conn| conn.label)
    }

    /// The local and the peer address of an end.
    pub(crate) fn addresses(&mut self, id: EndId) -> Option<(Address, Address)> {
        let conn = self.conn(id.conn)?;
        Some((conn.end(id.side).local.clone(), conn.end(1 - id.side).local.clone()))
    }

    /// Whether any connection exists.
    pub(crate) fn has_connections(&self) -> bool {
        !self.conns.is_empty()
    }

    /// Describes each connection that the network still holds.
    pub(crate) fn held_connections(&self) -> Vec<String> {
        self.conns
            .iter()
            .map(|(_, conn)| {
                let Conn { label, ends, flows, .. } = &**conn;
                let client = &self.hosts[label.client as usize].name;
                let describe = |side: usize| {
                    let (end, flow) = (&ends[side], &flows[side]);
                    let flying = flow.flight.len();
                    // A socket of the test has no driver that waits for the outcome.
                    let stage = match end.stage {
                        EndStage::Answered => EndStage::Open,
                        stage => stage,
                    };
                    format!(
                        "{stage:?} with {} bytes unsent and {flying} packets in flight",
                        flow.unsent.len()
                    )
                };
                format!(
                    "the network holds {client}#{}: {}; {}",
                    label.ordinal,
                    describe(0),
                    describe(1)
                )
            })
            .collect()
    }

    /// Whether a driver has a key for this end.
    pub(super) fn held_by_program(&self, id: EndId) -> bool {
        self.conns.get(id.conn).is_some_and(|conn| conn.ends[id.side as usize].key.is_some())
    }

    /// The ends that a host's program holds, or that its ports have queued for accepting.
    pub(crate) fn ends_of(&self, host: u32) -> Vec<EndId> {
        self.hosts[host as usize].ends.iter().copied().collect()
    }

    /// The ends that a host's system knows, including those already closed by its program.
    pub(super) fn ends_known_to(&self, host: u32) -> Vec<EndId> {
        let mut ends = Vec::new();
        for (key, conn) in self.conns.iter() {
            for side in 0..2u8 {
                let end = &conn.ends[side as usize];
                if end.host == host && end.stage != EndStage::Vanished {
                    ends.push(EndId { conn: key, side });
                }
            }
        }
        ends
    }

    /// Queues this end for its driver.
    pub(super) fn notify(&mut self, id: EndId) {
        let Some(end) = self.end(id) else { return };
        if end.key.is_none() || end.queued {
            return;
        }
        end.queued = true;
        let host = end.host;
        self.queue_notice(host, HostNotice::End(id));
    }

    /// Queues this end for its driver in this round, if it has an event to report.
    pub(crate) fn queue_if_ready(&mut self, id: EndId) {
        if self.end(id).is_some_and(|end| end.has_event()) {
            self.notify(id);
        }
    }

    /// Queues this end for its driver in the next round.
    pub(crate) fn queue_for_next_round(&mut self, id: EndId) {
        if let Some(end) = self.end(id) {
            end.queued = true;
            let host = end.host;
            self.host(host).later.push(HostNotice::End(id));
        }
    }

    /// Schedules the next read of a slow reader that has just read this many bytes.
    pub(crate) fn schedule_read(&mut self, id: EndId, bytes: u64, rate: u64) {
        let at = self.now + bytes.saturating_mul(1_000_000_000) / rate;
        if let Some(end) = self.end(id) {
            end.reads_at = at;
            self.at(at, SimEvent::SlowRead(id));
        }
    }

    /// Frees a connection that neither program holds and that has nothing left to send.
    fn reap(&mut self, id: Key) {
        let Some(conn) = self.conn(id) else { return };
        if conn.cannot_be_confirmed() {
            conn.end(1).stage = EndStage::Vanished;
            conn.end(1).die();
        }
        let is_over = |side: usize| {
            let flow = &conn.flows[side];
            conn.ends[side].is_gone()
                && (flow.is_done() || (conn.ends[side].is_dead() && flow.flight.is_empty()))
        };
        if is_over(0) && is_over(1) {
            self.conns.remove(id);
        }
    }
}

impl Flying {
    /// A packet that is not scheduled yet.
    fn new(packet: Packet) -> Flying {
        Flying { packet, departs: 0, takes: 0, arrives: 0 }
    }
}

impl Packet {
    fn len(&self) -> usize {
        if let Packet::Data(data) = self { data.len() } else { 0 }
    }
}
