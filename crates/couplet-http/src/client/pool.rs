//! A client's connections by server: idle HTTP/1.1 connections, one shared HTTP/2 connection, and
//! the attempt to make the first one.
//!
//! Contract: 176, 176a, 176c, 176d.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Instant;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::client::conn::{http1, http2};

use super::{HttpError, Inner};
use crate::url::port_of;
use couplet_core::DelayedCall;
use couplet_core::Transport;
use couplet_core::defer::DeferredEvent;

/// A server: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl Origin {
    pub(super) fn from_uri(uri: &Uri) -> Result<Origin, HttpError> {
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            Some("http") => Scheme::Http,
            _ => return Err(HttpError::Url(uri.to_string())),
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(HttpError::Url(uri.to_string()));
        };
        let port =
            port_of(uri, scheme.default_port()).ok_or_else(|| HttpError::Port(uri.to_string()))?;
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Origin { scheme, host, port })
    }

    /// Host and port; the scheme's default port is omitted.
    pub(super) fn authority(&self) -> String {
        let usual = self.scheme.default_port();
        let whole = self.host_and_port();
        match whole.strip_suffix(&format!(":{usual}")) {
            Some(host) => host.to_owned(),
            None => whole,
        }
    }

    pub(super) fn host_and_port(&self) -> String {
        let Origin { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// An HTTP/1.1 connection.
pub(super) struct Http1 {
    // One request, since only a free connection is lent.
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    pub(super) facts: Rc<Http1Facts>,
    pub(super) transport: Transport,
    /// When it gets no more requests.
    pub(super) retires_at: Option<Instant>,
}

/// Facts about an HTTP/1.1 connection that hyper does not report.
#[derive(Default)]
pub(super) struct Http1Facts {
    /// Number of bytes received.
    pub(super) bytes: Cell<u64>,
    /// Bytes arrived that belong to no response.
    pub(super) surplus: Cell<bool>,
}

/// An HTTP/2 connection.
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    /// Number of requests whose response is not complete.
    streams: Cell<usize>,
    /// End of the keep-alive time, while there are no streams.
    until: Cell<Instant>,
    /// When it gets no more requests.
    retires_at: Option<Instant>,
}

impl Http2 {
    fn is_open(&self, now: Instant) -> bool {
        let is_young = self.retires_at.is_none_or(|at| at > now);
        let is_kept = self.streams.get() > 0 || self.until.get() > now;
        is_young && is_kept && !self.sender.is_closed()
    }
}

/// Lends a connection to one request, until its response has been read or dropped.
pub(crate) struct Lease {
    client: Weak<Inner>,
    pub(super) origin: Origin,
    /// The connection was used by earlier requests.
    pub(super) is_reused: bool,
    pub(super) connection: LeasedConnection,
}

pub(super) enum LeasedConnection {
    Http1(Http1),
    Http2(StreamLease),
}

/// One stream of a shared HTTP/2 connection.
pub(super) struct StreamLease {
    client: Weak<Inner>,
    pub(super) http2: Rc<Http2>,
}

impl StreamLease {
    fn new(client: &Rc<Inner>, http2: Rc<Http2>) -> StreamLease {
        http2.streams.set(http2.streams.get() + 1);
        StreamLease { client: Rc::downgrade(client), http2 }
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.http2.streams.set(self.http2.streams.get() - 1);
        if let Some(client) = self.client.upgrade() {
            self.http2.until.set(client.reactor.now() + client.options.keep_alive);
            client.schedule_sweep();
        }
    }
}

impl Lease {
    /// Leases a new HTTP/1.1 connection.
    pub(super) fn new_http1(client: &Rc<Inner>, origin: &Origin, http1: Http1) -> Lease {
        let (client, origin) = (Rc::downgrade(client), origin.clone());
        Lease { client, origin, is_reused: false, connection: LeasedConnection::Http1(http1) }
    }

    /// Leases a new HTTP/2 connection, which later requests share.
    pub(super) fn new_http2(
        client: &Rc<Inner>,
        origin: &Origin,
        sender: http2::SendRequest<Full<Bytes>>,
    ) -> Lease {
        let (streams, until) = (Cell::default(), Cell::new(client.reactor.now()));
        let http2 = Rc::new(Http2 { sender, streams, until, retires_at: client.retires_at() });
        let share = StreamLease::new(client, http2.clone());
        client.pool.borrow_mut().share(origin, http2, client.reactor.now());
        let (client, origin) = (Rc::downgrade(client), origin.clone());
        Lease { client, origin, is_reused: false, connection: LeasedConnection::Http2(share) }
    }

    /// Leases a pooled connection: the shared one, or the idle one used most recently.
    pub(super) fn from_pool(client: &Rc<Inner>, origin: &Origin) -> Option<Lease> {
        let kept = client.pool.borrow_mut().take(origin, client.reactor.now())?;
        let connection = match kept {
            PooledConnection::Http1(http1) => LeasedConnection::Http1(http1),
            PooledConnection::Http2(http2) => {
                LeasedConnection::Http2(StreamLease::new(client, http2))
            }
        };
        let (client, origin) = (Rc::downgrade(client), origin.clone());
        Some(Lease { client, origin, is_reused: true, connection })
    }

    /// Whether the connection accepts a request. HTTP/1.1 reports this soon after the last response
    /// was read.
    pub(super) async fn is_ready(&mut self) -> bool {
        match &mut self.connection {
            LeasedConnection::Http1(http1) => http1.sender.ready().await.is_ok(),
            LeasedConnection::Http2(share) => !share.http2.sender.is_closed(),
        }
    }

    /// Number of bytes received over an HTTP/1.1 connection.
    pub(super) fn received(&self) -> u64 {
        match &self.connection {
            LeasedConnection::Http1(http1) => http1.facts.bytes.get(),
            LeasedConnection::Http2(_) => 0,
        }
    }

    /// Whether bytes arrived that belong to no response.
    pub(crate) fn has_surplus(&self) -> bool {
        matches!(&self.connection, LeasedConnection::Http1(http1) if http1.facts.surplus.get())
    }

    /// Returns the connection to the pool after a complete response.
    pub(crate) fn return_to_pool(self) {
        let Lease { client, origin, connection, .. } = self;
        if let (Some(client), LeasedConnection::Http1(http1)) = (client.upgrade(), connection) {
            let until = client.reactor.now() + client.options.keep_alive;
            let until = http1.retires_at.map_or(until, |at| until.min(at));
            let surplus =
                client.pool.borrow_mut().keep(origin, (http1, until), client.options.max_idle);
            drop(surplus);
            client.schedule_sweep();
        }
    }
}

enum PooledConnection {
    Http1(Http1),
    Http2(Rc<Http2>),
}

/// Connections removed from the pool, to be dropped while it is not borrowed.
type RemovedConnections = (Vec<(Http1, Instant)>, Vec<Rc<Http2>>);

/// The first attempt to connect to a server. Other requests wait for its outcome, because they may
/// share an HTTP/2 connection.
pub(super) struct Attempt {
    ended: DeferredEvent,
    outcome: RefCell<Outcome>,
}

/// Outcome of an attempt.
pub(super) enum Outcome {
    /// The leading request was dropped.
    Abandoned,
    /// An HTTP/2 connection, now in the pool.
    Shared,
    /// An HTTP/1.1 connection: each other request needs its own.
    Unshared,
    Failed(HttpError),
}

impl Attempt {
    /// Waits for the outcome.
    pub(super) async fn outcome(&self, origin: &Origin) -> Outcome {
        // Fails only while the loop is dropped.
        let _ = self.ended.wait().await;
        match &*self.outcome.borrow() {
            Outcome::Abandoned => Outcome::Abandoned,
            Outcome::Shared => Outcome::Shared,
            Outcome::Unshared => Outcome::Unshared,
            Outcome::Failed(error) => Outcome::Failed(error.clone_for(origin.host_and_port())),
        }
    }
}

/// The request that connects on behalf of all others.
pub(super) struct Leader {
    client: Rc<Inner>,
    origin: Origin,
    attempt: Rc<Attempt>,
}

impl Leader {
    /// Makes this request the leader, or returns the attempt already in progress.
    pub(super) fn new(client: &Rc<Inner>, origin: &Origin) -> Result<Leader, Rc<Attempt>> {
        let mut pool = client.pool.borrow_mut();
        if let Some(attempt) = pool.attempts.get(origin) {
            return Err(attempt.clone());
        }
        let outcome = RefCell::new(Outcome::Abandoned);
        let attempt = Rc::new(Attempt { ended: DeferredEvent::new(), outcome });
        pool.attempts.insert(origin.clone(), attempt.clone());
        drop(pool);
        Ok(Leader { client: client.clone(), origin: origin.clone(), attempt })
    }

    pub(super) fn finish(self, connected: &Result<Lease, HttpError>) {
        *self.attempt.outcome.borrow_mut() = match connected {
            Ok(Lease { connection: LeasedConnection::Http1(_), .. }) => Outcome::Unshared,
            Ok(Lease { connection: LeasedConnection::Http2(_), .. }) => Outcome::Shared,
            Err(error) => Outcome::Failed(error.clone_for(self.origin.host_and_port())),
        };
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.client.pool.borrow_mut().attempts.remove(&self.origin);
        self.attempt.ended.set();
    }
}

#[derive(Default)]
pub(super) struct Pool {
    idle: BTreeMap<Origin, Vec<(Http1, Instant)>>,
    /// One HTTP/2 connection for each server.
    shared: BTreeMap<Origin, Rc<Http2>>,
    attempts: BTreeMap<Origin, Rc<Attempt>>,
    sweeper: Option<DelayedCall>,
}

impl Pool {
    fn take(&mut self, origin: &Origin, now: Instant) -> Option<PooledConnection> {
        if let Some(http2) = self.shared.get(origin).filter(|http2| http2.is_open(now)) {
            return Some(PooledConnection::Http2(http2.clone()));
        }
        let idle = self.idle.get_mut(origin)?;
        idle.retain(|(http1, until)| *until > now && !http1.sender.is_closed());
        idle.pop().map(|(http1, _)| PooledConnection::Http1(http1))
    }

    /// Keeps a connection, or returns it if `most` are kept already.
    fn keep(&mut self, origin: Origin, one: (Http1, Instant), most: usize) -> Option<Http1> {
        let idle = self.idle.entry(origin).or_default();
        if idle.len() >= most {
            return Some(one.0);
        }
        idle.push(one);
        None
    }

    /// Shares a connection, unless an open one is shared already: then this one serves only its own
    /// request.
    fn share(&mut self, origin: &Origin, http2: Rc<Http2>, now: Instant) {
        if !self.shared.get(origin).is_some_and(|before| before.is_open(now)) {
            self.shared.insert(origin.clone(), http2);
        }
    }

    /// Whether the server recently responded over HTTP/1.1.
    pub(super) fn speaks_http1(&self, origin: &Origin) -> bool {
        self.idle.contains_key(origin)
    }

    /// Removes a broken connection from the pool, with the server's idle ones, which are as old.
    pub(super) fn forget(&mut self, lease: &Lease) -> RemovedConnections {
        let (origin, mut swept) = (&lease.origin, RemovedConnections::default());
        match &lease.connection {
            LeasedConnection::Http1(_) => swept.0 = self.idle.remove(origin).unwrap_or_default(),
            LeasedConnection::Http2(share) => {
                let is_same = |http2: &Rc<Http2>| Rc::ptr_eq(http2, &share.http2);
                if self.shared.get(origin).is_some_and(is_same) {
                    swept.1.extend(self.shared.remove(origin));
                }
            }
        }
        swept
    }

    pub(super) fn len(&self) -> usize {
        self.idle.values().map(Vec::len).sum::<usize>() + self.shared.len()
    }

    /// Returns the time of the next sweep; `None` if it is scheduled or no connection is idle.
    pub(super) fn next_sweep(&self) -> Option<Instant> {
        if self.sweeper.is_some() {
            return None;
        }
        let idle = self.idle.values().flatten().map(|(_, until)| *until);
        let shared = self.shared.values().filter(|http2| http2.streams.get() == 0);
        idle.chain(shared.map(|http2| http2.until.get())).min()
    }

    pub(super) fn set_sweeper(&mut self, call: DelayedCall) {
        self.sweeper = Some(call);
    }

    /// Removes connections that are closed or whose keep-alive time is over.
    pub(super) fn sweep(&mut self, now: Instant) -> RemovedConnections {
        self.sweeper = None;
        let mut swept = RemovedConnections::default();
        for idle in self.idle.values_mut() {
            let is_over = |one: &mut (Http1, Instant)| one.1 <= now || one.0.sender.is_closed();
            swept.0.extend(idle.extract_if(.., is_over));
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        let shared = self.shared.extract_if(.., |_, http2| !http2.is_open(now));
        swept.1.extend(shared.map(|(_, http2)| http2));
        swept
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.cancel();
        }
    }
}
