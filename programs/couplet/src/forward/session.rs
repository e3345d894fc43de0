//! One client and its server: bytes in each direction, and how the session ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::{Address, Failure, Reason};
use tracing::field::display;

use super::Forwarder;
use crate::server::SessionPermit;

/// Ends when the second of its two protocols is dropped.
pub(super) struct Session {
    forward: Rc<Forwarder>,
    peer: Address,
    _place: SessionPermit,
    times: Cell<Option<Times>>,
    attempt: Cell<Attempt>,
    /// Bytes from the client and from the server.
    sent: Cell<u64>,
    received: Cell<u64>,
    end: RefCell<End>,
}

#[derive(Clone, Copy)]
struct Times {
    began: Instant,
    /// When bytes last moved or a side ended.
    moved: Instant,
}

/// The server of the last attempt to connect.
#[derive(Clone, Copy)]
enum Attempt {
    NotBegun,
    /// In progress, or successful: the balancer counts the session.
    Open(usize),
    Released(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// How a session ended; the first cause is kept.
enum End {
    Clean,
    NotConnected(Failure),
    Broken(Side, Reason),
    Idle,
    /// One side had ended.
    HalfClosed,
    Stopped,
}

impl Session {
    pub(super) fn new(forward: Rc<Forwarder>, peer: Address, place: SessionPermit) -> Session {
        forward.totals.begin();
        Session {
            forward,
            peer,
            _place: place,
            times: Cell::new(None),
            attempt: Cell::new(Attempt::NotBegun),
            sent: Cell::new(0),
            received: Cell::new(0),
            end: RefCell::new(End::Clean),
        }
    }

    pub(super) fn forward(&self) -> &Rc<Forwarder> {
        &self.forward
    }

    pub(super) fn peer(&self) -> &Address {
        &self.peer
    }

    /// An attempt to connect to this server begins, which the balancer has counted.
    pub(super) fn attempt(&self, server: usize) {
        self.attempt.set(Attempt::Open(server));
    }

    /// The attempt has failed, or the session has ended.
    pub(super) fn release(&self) {
        if let Attempt::Open(server) = self.attempt.get() {
            self.attempt.set(Attempt::Released(server));
            self.forward.release(server);
        }
    }

    /// The name of the server of the last attempt.
    fn server(&self) -> Option<&str> {
        match self.attempt.get() {
            Attempt::NotBegun => None,
            Attempt::Open(server) | Attempt::Released(server) => {
                Some(&self.forward.servers[server].name)
            }
        }
    }

    pub(super) fn begin(&self, now: Instant) {
        self.times.set(Some(Times { began: now, moved: now }));
    }

    pub(super) fn touch(&self, now: Instant) {
        self.times.update(|times| times.map(|times| Times { moved: now, ..times }));
    }

    pub(super) fn idle_for(&self, now: Instant) -> Duration {
        self.times.get().map_or(Duration::ZERO, |it| now.saturating_duration_since(it.moved))
    }

    pub(super) fn received(&self, from: Side, bytes: usize, now: Instant) {
        let count = match from {
            Side::Client => &self.sent,
            Side::Server => &self.received,
        };
        count.set(count.get() + bytes as u64);
        self.touch(now);
    }

    pub(super) fn not_connected(&self, failure: Failure, stopping: bool) {
        self.set_end(if stopping { End::Stopped } else { End::NotConnected(failure) });
    }

    pub(super) fn note_idle(&self) {
        self.set_end(End::Idle);
    }

    pub(super) fn note_half_closed(&self) {
        self.set_end(End::HalfClosed);
    }

    pub(super) fn note_lost(&self, side: Side, reason: &Reason, now: Instant) {
        self.touch(now);
        match reason {
            Reason::Done(_) => {}
            Reason::Shutdown => self.set_end(End::Stopped),
            reason => self.set_end(End::Broken(side, reason.clone())),
        }
    }

    fn log_not_connected(&self, failure: &Failure) {
        let (peer, server) = (&self.peer, self.server().unwrap_or("a server"));
        match self.forward.servers.len() {
            0 | 1 => tracing::warn!(%peer, "cannot connect to {server}: {failure}"),
            servers => tracing::warn!(
                %peer,
                "cannot connect to any of {servers} servers, at last {server}: {failure}"
            ),
        }
    }

    /// Records only the first end: it causes the others.
    fn set_end(&self, how: End) {
        let mut end = self.end.borrow_mut();
        if matches!(*end, End::Clean) {
            *end = how;
        }
    }
}

impl Drop for Session {
    /// Logs one line for each session.
    fn drop(&mut self) {
        self.release();
        let (sent, received) = (self.sent.get(), self.received.get());
        let totals = &self.forward.totals;
        totals.end(sent, received);
        match &*self.end.borrow() {
            End::NotConnected(failure) => {
                totals.not_connected();
                return self.log_not_connected(failure);
            }
            End::Stopped => totals.count_stopped(),
            End::Broken(..) | End::Idle | End::HalfClosed => totals.broken(),
            End::Clean => {}
        }
        let (end, peer, server) = (self.end.borrow(), &self.peer, self.server().map(display));
        let took = self.times.get().map(|it| it.moved.saturating_duration_since(it.began));
        let seconds = format_args!("{:.3}", took.unwrap_or_default().as_secs_f64()).to_string();
        tracing::info!(%peer, server, sent, received, seconds, "{end}");
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Clean => write!(f, "closed"),
            End::NotConnected(failure) => write!(f, "not connected: {failure}"),
            End::Broken(Side::Client, reason) => write!(f, "broken on the client's side: {reason}"),
            End::Broken(Side::Server, reason) => write!(f, "broken on the server's side: {reason}"),
            End::Idle => write!(f, "cut off: idle for too long"),
            End::HalfClosed => {
                write!(f, "cut off: one side had ended, and nothing moved for too long")
            }
            End::Stopped => write!(f, "cut off: the program stops"),
        }
    }
}
