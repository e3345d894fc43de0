//! Accepting: the number of connections that one round takes from a port, and the handling of each
//! `accept` error. Twisted's `Port.doRead` and its handling of EMFILE and similar errors.
//!
//! Contract: 22a, 47–48a.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;

use super::Mio;
use super::probes::PortProbes;
use super::slots::{Kind, Registered};
use super::socket::{Listener, Stream};
use super::stream::StreamSlot;
use super::unix::SocketFile;
use crate::address::Address;
use crate::bounded::{AtMost, Bounded};
use crate::counters::PortCounters;
#[cfg(unix)]
use crate::driver::ListeningSocket;
use crate::driver::readiness::Readiness;
use crate::driver::{Event, LocalEnd, World};

/// Maximum connections in a port's first round.
const FIRST: u32 = 100;
/// Increase of the limit after a round that reached it.
const STEP: u32 = 20;

/// Maximum connections turned away in a row.
const TURNED_AWAY: u32 = 100;
/// Back-off of a port when the system has no descriptors or memory for another connection, and of a
/// connect when the queue of a UNIX port is full.
pub(super) const BACK_OFF: Duration = Duration::from_millis(100);
/// Minimum time between log lines while the system stays at its limit.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The number of connections that a port accepts in one round, between two waits, so that a flood
/// at one port does not starve the rest of the loop. The limit adapts to the load.
#[derive(Debug)]
pub(super) struct AcceptLimit {
    bound: u32,
    taken: u32,
}

impl AcceptLimit {
    pub(super) fn new() -> AcceptLimit {
        AcceptLimit { bound: FIRST, taken: 0 }
    }

    /// Counts an accepted connection; false if it was the last of this round.
    pub(super) fn take(&mut self) -> bool {
        self.taken += 1;
        self.taken < self.bound
    }

    /// Ends the round. A limit that was reached grows; otherwise the limit becomes one more than the
    /// number accepted, so that a round of as many also finds the queue empty.
    pub(super) fn end_round(&mut self) {
        let reached = self.taken >= self.bound;
        self.bound = if reached { self.bound.saturating_add(STEP) } else { self.taken + 1 };
        self.taken = 0;
    }
}

/// The response to an `accept` error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptResponse {
    /// The queue is empty.
    Done,
    /// Interrupted: call `accept` again.
    Again,
    /// Forbidden: skip this connection.
    Next,
    /// Aborted before it was accepted: continue in the next round.
    EndRound,
    /// Out of descriptors: turn pending connections away, using the reserved descriptor.
    TurnAway,
    /// Out of memory, or an unknown error: retry later.
    BackOff,
}

pub(super) fn response_to(error: &io::Error) -> AcceptResponse {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, WouldBlock,
    };
    match error.kind() {
        WouldBlock => AcceptResponse::Done,
        Interrupted => AcceptResponse::Again,
        PermissionDenied => AcceptResponse::Next,
        ConnectionAborted | ConnectionReset => AcceptResponse::EndRound,
        _ => response_to_errno(error),
    }
}

/// For errors that [`io::ErrorKind`] does not distinguish.
#[cfg(unix)]
fn response_to_errno(error: &io::Error) -> AcceptResponse {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::PROTO) => AcceptResponse::EndRound,
        Some(Errno::MFILE | Errno::NFILE) => AcceptResponse::TurnAway,
        _ => AcceptResponse::BackOff,
    }
}

#[cfg(not(unix))]
fn response_to_errno(error: &io::Error) -> AcceptResponse {
    const WSAEMFILE: i32 = 10024;
    match error.raw_os_error() {
        Some(WSAEMFILE) => AcceptResponse::TurnAway,
        _ => AcceptResponse::BackOff,
    }
}

pub(super) struct PortSlot {
    /// The file of a UNIX socket, removed with the port. INVARIANT: removed before the listener is
    /// closed, which keeps the file's inode number, by which we recognize the file, from being
    /// reused.
    #[cfg_attr(not(unix), expect(dead_code, reason = "for its drop"))]
    pub(super) file: Option<SocketFile>,
    pub(super) listener: Listener,
    pub(super) probes: PortProbes,
    pub(super) host: Rc<Address>,
    pub(super) readiness: Readiness,
    pub(super) share: AcceptLimit,
    /// The round in which the port used up its share.
    pub(super) spent_in: u64,
    pub(super) counters: PortCounters,
    /// Whether its connections may use the reserve.
    pub(super) has_reserve: bool,
}

impl PortSlot {
    /// Whether connections may be pending, and accepting them is not paused.
    pub(super) fn can_accept(&self) -> bool {
        self.readiness.has(Readiness::READABLE) && !self.readiness.has(Readiness::PAUSED)
    }

    /// A duplicate of the socket. The file of a UNIX socket stays when it is closed.
    #[cfg(unix)]
    pub(super) fn duplicate(&self) -> io::Result<ListeningSocket> {
        let file = self.file.as_ref().map(SocketFile::try_clone).transpose()?;
        let socket = self.listener.duplicate()?;
        Ok(ListeningSocket { file, socket, probes: self.probes })
    }
}

impl Mio {
    /// Accepts the next connection of a port, within its share of this round.
    pub(super) fn next_from_port(&mut self, slot: u32) -> Option<Event> {
        loop {
            let (stream, peer, host) = self.accept(slot)?;
            if let Some(event) = self.register_accepted(slot, stream, peer, host) {
                self.again.push_front(slot);
                return Some(event);
            }
        }
    }

    /// Registers a connection that was just accepted.
    fn register_accepted(
        &mut self,
        port: u32,
        mut stream: Stream,
        peer: Address,
        host: Rc<Address>,
    ) -> Option<Event> {
        let is_local = peer.unix().is_some();
        let readiness = match self.register_connection(&mut stream, is_local) {
            Ok(readiness) => readiness,
            Err(error) => {
                log_error!(%error, "cannot watch a new connection");
                return None;
            }
        };
        let port = self.slots.key_at(port);
        let stream = StreamSlot::new(stream, readiness);
        let socket = stream.stream.query_handle();
        let host =
            if host.is_wildcard() { LocalEnd::Ask(socket) } else { LocalEnd::Socket(host, socket) };
        let key = self.insert(Kind::Stream(stream));
        Some(Event::Accepted { port, key, peer, host })
    }

    fn accept(&mut self, slot: u32) -> Option<(Stream, Address, Rc<Address>)> {
        let round = self.round;
        // Before a port takes the descriptors of connections that have ended.
        self.reserve.fill();
        let Some(Registered { kind: Kind::Port(port), .. }) = self.slots.at_mut(slot) else {
            return None;
        };
        while port.can_accept() && port.spent_in != round {
            let mut accepted = port.listener.accept();
            if port.has_reserve
                && accepted.as_ref().is_err_and(|it| response_to(it) == AcceptResponse::TurnAway)
                && self.reserve.give_up_one()
            {
                accepted = port.listener.accept();
                // The queue may be empty.
                self.reserve.fill();
            }
            let answer = accepted.as_ref().err().map(response_to);
            let ends = match answer {
                None | Some(AcceptResponse::Next) => !port.share.take(),
                Some(AcceptResponse::Again) => false,
                Some(_) => true,
            };
            if ends {
                port.share.end_round();
                port.spent_in = round;
            }
            match (accepted, answer) {
                (Ok((stream, peer)), _) => {
                    if let Err(error) = port.probes.apply(&SockRef::from(&stream)) {
                        log_warn!(host = %port.host, option = "KeepAlive", %error, "cannot set an option");
                    }
                    return Some((stream, peer, port.host.clone()));
                }
                (Err(_), Some(AcceptResponse::Done)) => {
                    port.readiness.set(Readiness::READABLE, false);
                }
                (Err(error), Some(AcceptResponse::TurnAway | AcceptResponse::BackOff)) => {
                    let host = port.host.clone();
                    self.back_off(slot, &host, &error);
                    return None;
                }
                (Err(error), _) => {
                    tracing::debug!(host = %port.host, %error, "a connection was not accepted");
                }
            }
        }
        if port.can_accept() {
            self.queue(slot);
        }
        None
    }

    /// Out of descriptors or memory: turns pending connections away, using the reserved descriptor,
    /// or retries later if that is not possible.
    fn back_off(&mut self, slot: u32, host: &Address, error: &io::Error) {
        if response_to(error) == AcceptResponse::TurnAway
            && self.reserve.give_up_last()
            && self.turn_away(slot)
        {
            self.reserve.fill();
            if self.turned_away == 0 {
                // Linux reports the limit even when no connection is pending.
                return;
            }
        } else {
            self.try_again(slot, BACK_OFF);
        }
        // Fails if another thread has taken the descriptor; then `Mio::retry` opens it.
        self.reserve.fill();
        let now = self.world.now();
        if self.full_logged_at.is_none_or(|at| now.saturating_duration_since(at) >= LOG_INTERVAL) {
            self.full_logged_at = Some(now);
            let turned_away = std::mem::take(&mut self.turned_away);
            log_error!(%host, %error, turned_away, "cannot accept connections");
        }
    }

    /// Accepts and closes pending connections; true when the queue is empty.
    fn turn_away(&mut self, slot: u32) -> bool {
        let Some(Registered { kind: Kind::Port(port), .. }) = self.slots.at_mut(slot) else {
            return false;
        };
        for _ in 0..TURNED_AWAY {
            match port.listener.accept().map_err(|error| response_to(&error)) {
                Ok(_) => {
                    port.counters.turned_away += 1;
                    self.turned_away += 1;
                }
                Err(AcceptResponse::Again | AcceptResponse::Next | AcceptResponse::EndRound) => {}
                Err(answer) => {
                    port.readiness.set(Readiness::READABLE, answer != AcceptResponse::Done);
                    break;
                }
            }
        }
        !port.readiness.has(Readiness::READABLE)
    }
}

/// Number of connections for which a reserve has descriptors, at ports that answer questions about the
/// program.
const RESERVED: usize = 16;

/// Descriptors to release when the process has no other.
#[derive(Debug)]
pub(super) struct Reserve {
    /// The last one accepts and closes connections.
    files: Bounded<Vec<std::fs::File>, AtMost<{ RESERVED + 1 }>>,
    wanted: usize,
}

impl Reserve {
    pub(super) fn new() -> Reserve {
        let mut reserve = Reserve { files: Bounded::default(), wanted: 1 };
        reserve.fill();
        reserve
    }

    /// Adds descriptors for the connections of ports that may use it.
    pub(super) fn extend(&mut self) {
        self.wanted = 1 + RESERVED;
        self.fill();
    }

    /// Opens the descriptors that are missing, as far as the process has some.
    #[inline]
    pub(super) fn fill(&mut self) {
        while self.files.len() < self.wanted
            && let Ok(file) = std::fs::File::open(if cfg!(windows) { "NUL" } else { "/dev/null" })
        {
            self.files.edit().push(file);
        }
    }

    /// Releases a descriptor for a connection; false if there is only the last.
    fn give_up_one(&mut self) -> bool {
        self.files.len() > 1 && self.files.edit().pop().is_some()
    }

    /// Releases the descriptor that accepts and closes connections; it has to be filled again.
    fn give_up_last(&mut self) -> bool {
        self.files.edit().pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn c48_each_accept_error_has_its_answer() {
        use rustix::io::Errno;
        let answers = [
            (Errno::WOULDBLOCK, AcceptResponse::Done),
            (Errno::INTR, AcceptResponse::Again),
            (Errno::PERM, AcceptResponse::Next),
            (Errno::CONNABORTED, AcceptResponse::EndRound),
            (Errno::PROTO, AcceptResponse::EndRound),
            (Errno::MFILE, AcceptResponse::TurnAway),
            (Errno::NFILE, AcceptResponse::TurnAway),
            (Errno::NOBUFS, AcceptResponse::BackOff),
            (Errno::NOMEM, AcceptResponse::BackOff),
        ];
        for (errno, wanted) in answers {
            assert_eq!(response_to(&errno.into()), wanted, "{errno:?}");
        }
    }

    #[test]
    fn an_accept_limit_grows_when_reached_and_else_falls_to_one_above_the_accepted() {
        let mut share = AcceptLimit::new();
        let mut round = |waiting: u32| {
            let taken = (1..=waiting).find(|_| !share.take()).unwrap_or(waiting);
            share.end_round();
            taken
        };
        let rounds = [150, 50, 60, 10, 0, 5].map(&mut round);
        assert_eq!(rounds, [100, 50, 51, 10, 0, 1]);
        assert_eq!([50, 50].map(&mut round), [21, 41]);
    }

    /// Connections of exempt ports leave one descriptor, with which others are turned away.
    #[test]
    fn the_last_reserved_descriptor_goes_to_no_connection() {
        let mut reserve = Reserve::new();
        assert!(!reserve.give_up_one());
        reserve.extend();
        for _ in 0..2 {
            let given = (0..100).take_while(|_| reserve.give_up_one()).count();
            assert_eq!((given, reserve.files.len()), (RESERVED, 1));
            assert!(reserve.give_up_last() && !reserve.give_up_last());
            reserve.fill();
            assert_eq!(reserve.files.len(), RESERVED + 1);
        }
    }

    /// A connection in the queue of a port, whose client was closed.
    #[cfg(target_os = "linux")]
    fn leave_a_client(to: std::net::SocketAddr) {
        let mut client = std::net::TcpStream::connect(to).expect("it listens");
        io::Write::write_all(&mut client, b"x").expect("room");
        // Bytes are acknowledged once the connection is in the queue.
        while couplet_os::unsent::unsent(&client) != Some(0) {
            std::thread::yield_now();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn c48_each_line_counts_the_connections_that_were_turned_away_since_the_last_one() {
        use crate::driver::{Commands, ListenOptions};
        use couplet_testkit::logged::logged;

        let mut driver = Mio::new(1).expect("a driver");
        let full = io::Error::from(rustix::io::Errno::MFILE);
        let hosts = [(); 2].map(|()| {
            let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
            driver.world().bind(&any, &ListenOptions::default()).expect("a free port")
        });
        let ports = hosts.map(|bound| {
            let host = bound.host.clone();
            (driver.listen(bound).expect("it listens"), host)
        });
        // Turns away this many clients of a port; returns the counts in the lines.
        let turn_away = |driver: &mut Mio, at: usize, clients: usize| -> Vec<String> {
            let (key, host) = &ports[at];
            let to = host.socket_addr().expect("TCP");
            (0..clients).for_each(|_| leave_a_client(to));
            let ((), lines) = logged(|| driver.back_off(key.slot, host, &full));
            assert_eq!(driver.reserve.files.len(), 1, "it is filled again");
            assert!(driver.retry.is_none(), "the queue is empty");
            let count = |line: &String| {
                let count = line.split("turned_away=").nth(1).and_then(|it| it.split(' ').next());
                count.expect("a count").to_owned()
            };
            lines.iter().map(count).collect()
        };
        let counted =
            |driver: &Mio| ports.each_ref().map(|(key, _)| driver.port_counters(*key).turned_away);
        assert_eq!(turn_away(&mut driver, 0, 0), [""; 0], "none was pending");
        assert_eq!(turn_away(&mut driver, 0, 2), ["2"]);
        assert_eq!(turn_away(&mut driver, 1, 3), [""; 0], "too soon");
        assert_eq!(turn_away(&mut driver, 0, 1), [""; 0], "too soon");
        assert_eq!(counted(&driver), [3, 3]);
        for expected in ["5", "1"] {
            driver.full_logged_at = driver.world.now().checked_sub(LOG_INTERVAL);
            assert_eq!(turn_away(&mut driver, 1, 1), [expected]);
        }
        assert_eq!(turn_away(&mut driver, 1, 0), [""; 0], "nothing new");
        assert_eq!(counted(&driver), [3, 5]);
    }

    /// Those beyond it wait for another attempt.
    #[cfg(target_os = "linux")]
    #[test]
    fn c48_a_port_turns_a_bounded_number_away_and_tries_again() {
        use crate::driver::{Commands, ListenOptions};

        let mut driver = Mio::new(1).expect("a driver");
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into();
        let options = ListenOptions::default().backlog(200);
        let bound = driver.world().bind(&any, &options).expect("a free port");
        let host = bound.host.clone();
        let to = host.socket_addr().expect("TCP");
        let key = driver.listen(bound).expect("it listens");
        (0..TURNED_AWAY + 7).for_each(|_| leave_a_client(to));
        let full = io::Error::from(rustix::io::Errno::MFILE);
        for count in [TURNED_AWAY, TURNED_AWAY + 7] {
            driver.retry = None;
            let Some(Registered { kind: Kind::Port(port), .. }) = driver.slots.at_mut(key.slot)
            else {
                panic!("it is a port")
            };
            port.readiness.set(Readiness::READABLE, true);
            driver.back_off(key.slot, &host, &full);
            assert_eq!(driver.port_counters(key).turned_away, u64::from(count));
            let is_left = count == TURNED_AWAY;
            assert_eq!(driver.retry.is_some(), is_left, "after {count}");
            assert_eq!(driver.reserve.files.len(), 1, "it is filled again");
        }
    }
}
