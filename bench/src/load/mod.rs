//! The load: one thread that plays all clients of a server and checks every byte that they receive.
//!
//! In a closed loop each client sends its next request when an answer arrives, as fast as the
//! server allows. In an open loop requests are due at fixed times; a latency counts from the time at
//! which its request was due, so a server that stalls is charged for the requests that had to wait.

pub(crate) mod bytes;
pub(crate) mod chat;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod tls;

use std::collections::VecDeque;
use std::io::{self, Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::interrupt;

/// The body of a short answer over HTTP.
pub(crate) const HELLO: &[u8] = b"Hello, World!";

/// Polls for an answer before the load sleeps, if it has its own processor: otherwise the
/// measurement would include its wake-ups.
const SPINS: usize = 20_000;
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// The clients of one server, each with a connection.
pub(crate) trait Clients {
    /// Number of connections.
    fn count(&self) -> usize;

    /// Sends this many requests on a connection.
    fn send(&mut self, slot: usize, requests: usize) -> io::Result<()>;

    /// Receives and checks available bytes; returns the number of answers that are complete.
    fn receive(&mut self, slot: usize) -> io::Result<usize>;

    fn waiting(&self) -> &Waiting;
}

/// Waits for answers.
#[derive(Debug)]
pub(crate) struct Waiting {
    epoll: OwnedFd,
    spins: usize,
}

impl Waiting {
    /// `spin` if no other process needs the processor.
    pub(crate) fn new(spin: bool) -> io::Result<Waiting> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Waiting { epoll, spins: if spin { SPINS } else { 0 } })
    }

    pub(crate) fn add(&self, stream: impl AsFd, slot: usize) -> io::Result<()> {
        let data = EventData::new_u64(slot as u64);
        Ok(epoll::add(&self.epoll, stream, data, EventFlags::IN)?)
    }

    pub(crate) fn remove(&self, stream: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, stream)?)
    }

    /// Waits until a connection is readable.
    pub(crate) fn wait(&self, events: &mut Vec<Event>) -> io::Result<()> {
        interrupt::check()?;
        let now = Timespec::default();
        for turn in 0..=self.spins {
            let timeout = if turn < self.spins { &now } else { &PATIENCE };
            match epoll::wait(&self.epoll, spare_capacity(events), Some(timeout)) {
                Ok(0) => {}
                Err(Errno::INTR) => interrupt::check()?,
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Err(stalled())
    }

    /// Waits until a connection is readable, or for that time.
    fn wait_for(&self, events: &mut Vec<Event>, time: Duration) -> io::Result<()> {
        interrupt::check()?;
        let time = if self.spins > 0 { Duration::ZERO } else { time };
        let timeout =
            Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Keeps `depth` requests in flight on each connection until `deadline`; returns the number of
/// answers.
pub(crate) fn closed_loop(
    clients: &mut dyn Clients,
    depth: usize,
    deadline: Instant,
) -> io::Result<u64> {
    let mut done = 0;
    let mut in_flight = clients.count() * depth;
    (0..clients.count()).try_for_each(|slot| clients.send(slot, depth))?;
    let mut events = Vec::with_capacity(1024);
    while in_flight > 0 {
        clients.waiting().wait(&mut events)?;
        let open = Instant::now() < deadline;
        for event in events.drain(..) {
            let slot = event.data.u64() as usize;
            let answers = clients.receive(slot)?;
            done += answers as u64;
            match answers {
                0 => {}
                _ if open => clients.send(slot, answers)?,
                _ => in_flight -= answers,
            }
        }
    }
    Ok(done)
}

/// In each of `rounds` rounds, every connection sends `depth` requests, all answers are awaited, and
/// `settle` is called; returns the number of answers.
pub(crate) fn lock_step(
    clients: &mut dyn Clients,
    depth: usize,
    rounds: u64,
    settle: impl Fn() -> io::Result<()>,
) -> io::Result<u64> {
    let mut done = 0;
    for _ in 0..rounds {
        done += closed_loop(clients, depth, Instant::now())?;
        settle()?;
    }
    Ok(done)
}

/// Sends requests at a constant rate for that time, each on the connection that has been idle for
/// longest; appends each answer's latency, counted from the time at which its request was due. A
/// request that is due while every connection waits for an answer is sent late.
pub(crate) fn open_loop(
    clients: &mut dyn Clients,
    per_second: f64,
    time: Duration,
    latencies: &mut Vec<Duration>,
) -> io::Result<()> {
    let total = (per_second * time.as_secs_f64()).max(1.0) as u64;
    let due = |request: u64| Duration::from_secs_f64(request as f64 / per_second);
    let mut idle: VecDeque<usize> = (0..clients.count()).collect();
    let mut due_of = vec![Duration::ZERO; clients.count()];
    let mut events = Vec::with_capacity(1024);
    let (mut sent, mut answered) = (0, 0);
    let start = Instant::now();
    while answered < total {
        while sent < total && due(sent) <= start.elapsed() {
            let Some(slot) = idle.pop_front() else { break };
            due_of[slot] = due(sent);
            sent += 1;
            clients.send(slot, 1)?;
        }
        let next = match sent < total && !idle.is_empty() {
            true => due(sent).saturating_sub(start.elapsed()),
            false => Duration::from_secs(PATIENCE.tv_sec as u64),
        };
        clients.waiting().wait_for(&mut events, next)?;
        for event in events.drain(..) {
            let slot = event.data.u64() as usize;
            if clients.receive(slot)? > 0 {
                latencies.push(start.elapsed().saturating_sub(due_of[slot]));
                idle.push_back(slot);
                answered += 1;
            }
        }
    }
    Ok(())
}

/// Opens a connection that answers without delay.
fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)
        .map_err(|error| Error::other(format!("cannot connect to the server: {error}")))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends bytes, all of them, also if the server reads slowly.
fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match send(stream, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => interrupt::check()?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives available bytes; `None` at the end of the stream.
fn receive_some<'a>(stream: &TcpStream, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    match recv(stream, &mut *buffer, RecvFlags::DONTWAIT) {
        Ok((0, _)) => Ok(None),
        Ok((length, _)) => Ok(Some(&buffer[..length])),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Some(&[])),
        Err(error) => Err(error.into()),
    }
}

fn cut() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "the server closed a connection before its time")
}

fn wrong(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the server answers wrongly: {what}"))
}

fn stalled() -> Error {
    let seconds = PATIENCE.tv_sec;
    Error::new(ErrorKind::TimedOut, format!("no answer from the server for {seconds} s"))
}
