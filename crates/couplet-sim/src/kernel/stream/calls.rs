//! The calls that programs make on a stream: connect, write, read, close.
//!
//! Closing with unread input sends a reset; so does data arriving at a closed socket.
//!
//! Contract: 32a, 154c.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use couplet_core::driver::{CloseMode, Key, Outbox};
use couplet_core::hooks::simulator::local_bind_error;
use couplet_core::{Address, UnixAddress};

use super::super::hosts::no_descriptors;
use super::super::{EndId, Kernel, SimEvent};
use super::capture::Segment;
use super::{Conn, End, EndStage, Fin, Flow, Packet, Read};
use crate::random::{Purpose, RandomStream, nanos};
use crate::trace::{Label, TraceEvent};

/// The host of an unassigned address.
const NOBODY: u32 = u32::MAX;

impl Kernel {
    pub(crate) fn connect(
        &mut self,
        from: u32,
        to: Address,
        bind: Option<SocketAddr>,
    ) -> io::Result<EndId> {
        if !self.has_descriptors(from) {
            return Err(no_descriptors());
        }
        let (host, local) = match &to {
            Address::Tcp(to) | Address::Udp(to) => self.route_to(from, *to, bind)?,
            Address::Unix(_) => (from, UnixAddress::Unnamed.into()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let state = self.host(from);
        state.attempts += 1;
        let label = Label { client: from, ordinal: state.attempts };
        let to_it = state.attempts_to.entry(host).or_default();
        *to_it += 1;
        let name @ [a, b, n] = [u64::from(from), u64::from(host), u64::from(*to_it)];
        let flow =
            |side: u64| Flow::new(RandomStream::new(self.seed, Purpose::Flow, &[a, b, n, side]));
        let tap = self.capture.as_ref().map(|capture| capture.tap(&local, &to, true));
        let conn = Conn {
            label,
            buffers: self.buffers,
            name,
            ends: [
                End::new(from, local, EndStage::Connecting),
                End::new(host, to.clone(), EndStage::Vanished),
            ],
            flows: [flow(0), flow(1)],
            tap,
        };
        let id = EndId { conn: self.conns.insert(Box::new(conn)), side: 0 };
        self.host(from).ends.insert(id);
        self.note(from, TraceEvent::Tries(label, to));
        self.send_packet(id, Packet::Open);
        Ok(id)
    }

    /// Opens a pipe between the programs of two hosts on one machine. Returns the first host's end.
    #[cfg(unix)]
    pub(in crate::kernel) fn open_pipe(&mut self, from: u32, to: u32, name: &Address) -> EndId {
        let state = self.host(from);
        state.attempts += 1;
        let label = Label { client: from, ordinal: state.attempts };
        let to_it = state.attempts_to.entry(to).or_default();
        *to_it += 1;
        let key @ [a, b, n] = [u64::from(from), u64::from(to), u64::from(*to_it)];
        let flow =
            |side: u64| Flow::new(RandomStream::new(self.seed, Purpose::Flow, &[a, b, n, side]));
        let end = |host: u32| End::new(host, name.clone(), EndStage::Open);
        let conn = Conn {
            label,
            buffers: self.buffers,
            name: key,
            ends: [end(from), end(to)],
            flows: [flow(0), flow(1)],
            tap: None,
        };
        let id = EndId { conn: self.conns.insert(Box::new(conn)), side: 0 };
        self.host(from).ends.insert(id);
        self.host(to).ends.insert(id.other());
        self.note(from, TraceEvent::Tries(label, name.clone()));
        id
    }

    /// The host that owns this address, and the local address for a connection to it.
    fn route_to(
        &mut self,
        from: u32,
        to: SocketAddr,
        bind: Option<SocketAddr>,
    ) -> io::Result<(u32, Address)> {
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
        let bound = bind.map_or(ip, |bind| bind.ip());
        if !state.has_address(bound) {
            let error = io::Error::from(io::ErrorKind::AddrNotAvailable);
            let Some(bind) = bind else { return Err(error) };
            return Err(local_bind_error(bind.into(), error));
        }
        let port = bind.map(|bind| bind.port()).filter(|port| *port != 0);
        let port = port.unwrap_or_else(|| self.free_port(from));
        Ok((host, SocketAddr::new(if bound.is_unspecified() { ip } else { bound }, port).into()))
    }

    /// Takes as much of the outbox as fits; returns true if nothing is left.
    pub(crate) fn write(&mut self, id: EndId, out: &mut Outbox) -> bool {
        let mut sent = 0;
        while !out.is_empty() && out.load() {
            let n = self.put(id, out.first());
            if n == 0 {
                break;
            }
            out.advance(n);
            sent += n;
        }
        // A broken connection is reported through reading.
        if let Some(end) = self.end(id) {
            end.blocked = !out.is_empty();
        }
        self.transmit_written(id, sent);
        out.is_empty()
    }

    /// Takes as many of these bytes as fit, and returns the count.
    pub(crate) fn send(&mut self, id: EndId, data: &[u8]) -> io::Result<usize> {
        let conn = self.conn(id.conn).ok_or(io::ErrorKind::NotConnected)?;
        if conn.end(id.side).is_dead() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if conn.flow(id.side).fin != Fin::No {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.put(id, data);
        self.transmit_written(id, n);
        Ok(n)
    }

    pub(super) fn put(&mut self, id: EndId, data: &[u8]) -> usize {
        let Some(conn) = self.conn(id.conn) else { return 0 };
        let most = conn.buffers.send;
        if conn.end(id.side).is_dead() || conn.flow(id.side).fin != Fin::No {
            return 0;
        }
        let flow = conn.flow(id.side);
        let n = data.len().min(most.saturating_sub(flow.buffered()));
        flow.unsent.bytes.extend_from_slice(&data[..n]);
        flow.written += n as u64;
        conn.note_below(id.side, &data[..n]);
        n
    }

    pub(super) fn transmit_written(&mut self, id: EndId, n: usize) {
        if n > 0
            && let Some(conn) = self.conn(id.conn)
        {
            let (label, host) = (conn.label, conn.end(id.side).host);
            self.note(host, TraceEvent::Sent(label, n));
            self.transmit(id);
        }
    }

    /// Reads up to `most` bytes into `into`; once no bytes are left, returns the error or the FIN.
    pub(crate) fn read(&mut self, id: EndId, most: usize, into: &mut Vec<u8>) -> Read {
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
            self.schedule_window_update(id);
            return Read::Bytes;
        }
        if let Some(error) = end.take_error() {
            return Read::Error(error);
        }
        if end.fin { Read::Fin } else { Read::Nothing }
    }

    /// Schedules a window update after a read has freed buffer space, if the sender has more to
    /// send.
    pub(super) fn schedule_window_update(&mut self, id: EndId) {
        let other = id.other();
        let Some(conn) = self.conn(other.conn) else { return };
        let (to, from) = conn.hosts(other.side);
        let flow = conn.flow(other.side);
        if flow.window_update_pending || (flow.unsent.is_empty() && flow.fin != Fin::Wanted) {
            return;
        }
        flow.window_update_pending = true;
        let takes = self.draw(other, from, to);
        self.after(takes, SimEvent::WindowUpdate(other));
    }

    pub(crate) fn shut_write(&mut self, id: EndId) {
        self.set_close_on_kill(id, CloseMode::Normal);
        if let Some(conn) = self.conn(id.conn)
            && conn.flow(id.side).fin == Fin::No
        {
            conn.flow(id.side).fin = Fin::Wanted;
            self.transmit(id);
        }
    }

    /// Sets how a kill of the program closes this end.
    pub(crate) fn set_close_on_kill(&mut self, id: EndId, mode: CloseMode) {
        if let Some(end) = self.end(id) {
            end.close_on_kill = mode;
        }
    }

    /// Closes like `close(2)`.
    pub(crate) fn close(&mut self, id: EndId, how: CloseMode) {
        let Some(end) = self.end(id) else { return };
        if end.is_gone() {
            return;
        }
        // A UNIX socket sends a reset only when it closes with unread input.
        let resets = how == CloseMode::Reset && end.local.unix().is_none();
        let is_pipe = matches!(end.local, Address::Pipe(_));
        let is_unread = end.unread > 0;
        // A pipe cannot be reset.
        let aborts = (resets || is_unread || end.stage == EndStage::Connecting) && !is_pipe;
        end.stage = EndStage::Closed;
        end.key = None;
        end.inbox = VecDeque::new();
        if is_pipe {
            end.unread = 0;
        }
        let (dead, host) = (end.is_dead(), end.host);
        self.host(host).ends.remove(&id);
        if is_pipe {
            self.discard_pipe_output(id.other());
        }
        if aborts && !dead {
            self.abort(id);
        } else if !dead {
            self.shut_write(id);
        }
        self.reap(id.conn);
    }

    /// No program holds this end from now on. The system keeps it open.
    pub(crate) fn detach(&mut self, key: Key, id: EndId) {
        let Some(end) = self.end(id) else { return };
        end.key = None;
        end.blocked = false;
        let host = end.host;
        self.host(host).forget_end(key, id);
        let label = self.label(id);
        self.note(host, TraceEvent::HandsOver(label));
    }

    /// The driver of a program serves this end, which was detached.
    pub(crate) fn attach(&mut self, id: EndId) {
        let Some(end) = self.end(id) else { return };
        // A notice went to the program that had it before.
        end.queued = false;
        let host = end.host;
        self.host(host).ends.insert(id);
        self.queue_if_ready(id);
    }

    /// The reading end of a pipe has closed: bytes written by this end are dropped.
    fn discard_pipe_output(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let flow = conn.flow(id.side);
        flow.drop_all();
        (flow.unacked, flow.arrived, flow.ack_pending) = (0, 0, false);
        self.notify(id);
        self.transmit(id);
    }

    /// Drops unsent bytes and sends a reset.
    pub(super) fn abort(&mut self, id: EndId) {
        let Some(conn) = self.conn(id.conn) else { return };
        let end = conn.end(id.side);
        end.die();
        let opens =
            end.stage == EndStage::Closed && conn.end(1 - id.side).stage == EndStage::Vanished;
        conn.flow(id.side).drop_unsent();
        if opens {
            // The connect has not arrived, so there is no peer to reset.
            conn.flow(id.side).drop_all();
        } else {
            self.send_reset(id.other());
        }
    }

    /// Sends a reset to this end, behind the packets in flight to it.
    pub(super) fn send_reset(&mut self, to: EndId) {
        let from = to.other();
        self.capture_segment(from, Segment::Reset);
        let Some(conn) = self.conn(to.conn) else { return };
        let hosts = conn.hosts(from.side);
        let at = self.now + self.draw(from, hosts.0, hosts.1);
        let Some(conn) = self.conn(to.conn) else { return };
        let flow = conn.flow(from.side);
        flow.last_arrival = flow.last_arrival.max(at);
        let at = flow.last_arrival;
        self.at(at, SimEvent::Reset(to));
    }

    pub(crate) fn keep_alive(&mut self, id: EndId, idle: Option<Duration>) {
        let now = self.now;
        let Some(end) = self.end(id) else { return };
        end.keep_alive = idle.map(nanos);
        end.heard = end.heard.max(now);
        let Some(idle) = end.keep_alive else { return };
        let at = now.saturating_add(idle);
        // A check that comes too early schedules the next one.
        if end.check_at.is_none_or(|planned| at < planned) {
            end.check_at = Some(at);
            self.at(at, SimEvent::KeepAlive(id));
        }
    }

    /// Number of bytes written and not yet acknowledged.
    pub(crate) fn unsent(&mut self, id: EndId) -> usize {
        self.conn(id.conn).map_or(0, |conn| conn.flow(id.side).buffered())
    }

    /// Whether the send buffer has room.
    pub(crate) fn has_room(&mut self, id: EndId) -> bool {
        self.conn(id.conn).is_some_and(|conn| conn.flow(id.side).buffered() < conn.buffers.send)
    }

    /// Total bytes written by an end; `None` unless its program holds it.
    pub(crate) fn written(&mut self, id: EndId) -> Option<u64> {
        let conn = self.conn(id.conn)?;
        conn.end(id.side).key?;
        Some(conn.flow(id.side).written)
    }
}

/// Whether this address belongs to the simulated network, assigned to a host or not.
fn is_ours(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 10,
        IpAddr::V6(ip) => ip.segments()[0] == 0xfd00,
    }
}
