//! Accepting: how many connections a round takes from one port, and what each error of `accept`
//! asks for. Twisted's `Port.doRead` and its answers to EMFILE and the like.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Token};

use super::Mio;
use super::slots::{Kind, Registered};
use super::stream::StreamSlot;
use crate::address::Address;
use crate::driver::{Event, World};

/// Connections that the first round takes.
const FIRST: u32 = 100;
/// How many more it may be after a round that met its bound.
const STEP: u32 = 20;

/// Connections turned away at once.
const TURNED_AWAY: u32 = 100;
/// How long a port rests when the system has no descriptors or memory for another connection.
const REST: Duration = Duration::from_millis(100);
/// A system that stays at its limit is told of no more often than this.
const TOLD_FULL: Duration = Duration::from_secs(10);

/// How many connections a port gives in one round, between two waits: so that a flood at one port
/// leaves room for the rest of the loop. It adapts to what comes.
#[derive(Debug)]
pub(super) struct Share {
    bound: u32,
    taken: u32,
}

impl Share {
    pub(super) fn new() -> Share {
        Share { bound: FIRST, taken: 0 }
    }

    /// Counts a connection that was taken; false when it was the last of this round.
    pub(super) fn take(&mut self) -> bool {
        self.taken += 1;
        self.taken < self.bound
    }

    /// The round is over: a bound that was met grows, another becomes what there was.
    pub(super) fn end_round(&mut self) {
        let met = self.taken >= self.bound;
        self.bound = if met { self.bound.saturating_add(STEP) } else { self.taken.max(1) };
        self.taken = 0;
    }
}

/// What to do when `accept` gives no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterError {
    /// Nobody waits.
    Done,
    /// It was interrupted: ask again.
    Again,
    /// It may not be taken: go on with the next.
    Next,
    /// It was gone before it could be taken: go on in the next round.
    EndRound,
    /// No descriptors: turn away who waits, with the one held in reserve.
    TurnAway,
    /// No memory, or something that nobody knows: try again after a rest.
    Rest,
}

pub(super) fn answer(error: &io::Error) -> AfterError {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    const EPROTO: i32 = if cfg!(target_os = "linux") { 71 } else { 100 };
    match (error.kind(), error.raw_os_error()) {
        (WouldBlock, _) => AfterError::Done,
        (Interrupted, _) => AfterError::Again,
        (PermissionDenied, _) => AfterError::Next,
        (ConnectionAborted | ConnectionReset, _) | (_, Some(EPROTO)) => AfterError::EndRound,
        // EMFILE and ENFILE; Windows tells with WSAEMFILE.
        (_, Some(24 | 23 | 10024)) => AfterError::TurnAway,
        _ => AfterError::Rest,
    }
}

pub(super) struct PortSlot {
    pub(super) listener: TcpListener,
    pub(super) host: Address,
    pub(super) readable: bool,
    pub(super) accepting: bool,
    pub(super) share: Share,
    /// It has had its share of that round.
    pub(super) rests_in: u64,
}

impl Mio {
    /// Accepts the next connection of a port, within its share of this round.
    pub(super) fn look_at_port(&mut self, slot: u32) -> Option<Event> {
        loop {
            let (stream, peer, host) = self.accept(slot)?;
            if let Some(event) = self.accepted(slot, stream, peer, host) {
                self.again.push_front(slot);
                return Some(event);
            }
        }
    }

    /// Watches a connection that was just accepted.
    fn accepted(
        &mut self,
        port: u32,
        mut stream: TcpStream,
        peer: SocketAddr,
        host: Address,
    ) -> Option<Event> {
        let host =
            if host.is_wildcard() { stream.local_addr().map_or(host, Address::from) } else { host };
        // Its slot is the next one, so the token is known before it has one.
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(self.slots.next_key().slot as usize);
        if let Err(error) = self.poll.registry().register(&mut stream, token, both) {
            tracing::error!(%error, "cannot watch a new connection");
            return None;
        }
        let port = self.slots.key_at(port);
        let key = self.insert(Kind::Stream(StreamSlot::new(stream)));
        Some(Event::Accepted { port, key, peer: Address::from(peer), host })
    }

    fn accept(&mut self, slot: u32) -> Option<(TcpStream, SocketAddr, Address)> {
        let round = self.round;
        let Some(Registered { kind: Kind::Port(port), .. }) = self.slots.at_mut(slot) else {
            return None;
        };
        while port.accepting && port.readable && port.rests_in != round {
            let accepted = port.listener.accept();
            let answer = accepted.as_ref().err().map(answer);
            let ends = match answer {
                None | Some(AfterError::Next) => !port.share.take(),
                Some(AfterError::Again) => false,
                Some(_) => true,
            };
            if ends {
                port.share.end_round();
                port.rests_in = round;
            }
            match (accepted, answer) {
                (Ok((stream, peer)), _) => return Some((stream, peer, port.host.clone())),
                (Err(_), Some(AfterError::Done)) => port.readable = false,
                (Err(error), Some(AfterError::TurnAway | AfterError::Rest)) => {
                    let host = port.host.clone();
                    self.rest(slot, &host, &error);
                    return None;
                }
                (Err(error), _) => {
                    tracing::debug!(host = %port.host, %error, "a connection was not taken");
                }
            }
        }
        if port.accepting && port.readable {
            self.queue(slot);
        }
        None
    }

    /// No descriptors or no memory: turn away who waits, with the descriptor held in reserve, or
    /// where there is none try again later.
    fn rest(&mut self, slot: u32, host: &Address, error: &io::Error) {
        if answer(error) == AfterError::TurnAway
            && self.reserve.take().is_some()
            && self.turn_away(slot)
        {
            self.reserve = reserve();
            if self.turned_away == 0 {
                // Linux tells of the limit also where nobody waits.
                return;
            }
        } else {
            let until = self.world.now() + REST;
            self.retry.get_or_insert_with(|| (until, Vec::new())).1.push(slot);
        }
        // Another thread may have taken the descriptor meanwhile; then the next rest has it back.
        self.reserve = self.reserve.take().or_else(reserve);
        let now = self.world.now();
        if self.told_full_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_FULL) {
            self.told_full_at = Some(now);
            let turned_away = std::mem::take(&mut self.turned_away);
            tracing::error!(%host, %error, turned_away, "cannot accept connections");
        }
    }

    /// Accepts and closes; true when nobody waits any more.
    fn turn_away(&mut self, slot: u32) -> bool {
        let Some(Registered { kind: Kind::Port(port), .. }) = self.slots.at_mut(slot) else {
            return false;
        };
        for _ in 0..TURNED_AWAY {
            match port.listener.accept().map_err(|error| answer(&error)) {
                Ok(_) => self.turned_away += 1,
                Err(AfterError::Again | AfterError::Next | AfterError::EndRound) => {}
                Err(answer) => {
                    port.readable = answer != AfterError::Done;
                    break;
                }
            }
        }
        !port.readable
    }
}

/// A descriptor that is given up when there is no other, to turn a connection away with.
pub(super) fn reserve() -> Option<std::fs::File> {
    std::fs::File::open(if cfg!(windows) { "NUL" } else { "/dev/null" }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn c48_each_accept_error_has_its_answer() {
        use rustix::io::Errno;
        let answers = [
            (Errno::WOULDBLOCK, AfterError::Done),
            (Errno::INTR, AfterError::Again),
            (Errno::PERM, AfterError::Next),
            (Errno::CONNABORTED, AfterError::EndRound),
            (Errno::PROTO, AfterError::EndRound),
            (Errno::MFILE, AfterError::TurnAway),
            (Errno::NFILE, AfterError::TurnAway),
            (Errno::NOBUFS, AfterError::Rest),
            (Errno::NOMEM, AfterError::Rest),
        ];
        for (errno, wanted) in answers {
            assert_eq!(answer(&errno.into()), wanted, "{errno:?}");
        }
    }

    #[test]
    fn a_bound_that_was_met_grows_and_another_becomes_what_there_was() {
        let mut share = Share::new();
        let mut round = |waiting: u32| {
            let taken = (1..=waiting).find(|_| !share.take()).unwrap_or(waiting);
            share.end_round();
            taken
        };
        let rounds = [150, 50, 60, 10, 0, 5].map(&mut round);
        assert_eq!(rounds, [100, 50, 50, 10, 0, 1]);
        assert_eq!([50, 50].map(&mut round), [21, 41]);
    }
}
