//! Options of HTTP servers.
//!
//! Contract: 58b, 172, 174, 175a, 175c, 178a.

use std::time::Duration;

use super::handing::Continued;
use couplet_core::HandOver;

/// Limits and timeouts of an HTTP server, for each connection unless stated otherwise.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    pub(super) versions: Versions,
    pub(super) head_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) body_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) half_close_timeout: Option<Duration>,
    pub(super) http2_half_close_timeout: Option<Duration>,
    pub(super) max_head: usize,
    pub(super) max_headers: usize,
    pub(super) max_streams: u32,
    pub(super) stream_window: u32,
    pub(super) connection_window: u32,
    pub(super) max_unsent: usize,
    pub(super) max_unsent_of_all: usize,
    pub(super) free_idle_after: Duration,
    pub(super) peer: bool,
    pub(super) allowance: bool,
    pub(super) client_left: bool,
    /// The name for connections of another process.
    pub(super) name: Option<String>,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            versions: Versions::Both,
            head_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            half_close_timeout: Some(Duration::from_secs(30)),
            http2_half_close_timeout: Some(Duration::ZERO),
            max_head: 64 * 1024,
            max_headers: 100,
            max_streams: 128,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_unsent: 384 * 1024,
            max_unsent_of_all: 64 * 1024 * 1024,
            free_idle_after: Duration::from_millis(50),
            peer: false,
            allowance: false,
            client_left: false,
            name: None,
        }
    }
}

impl HttpOptions {
    /// Sets whether to speak HTTP/1.1. Default: true.
    #[must_use]
    pub fn http1(mut self, on: bool) -> Self {
        self.versions = Versions::new(on, self.versions.has_http2());
        self
    }

    /// Sets whether to speak HTTP/2, if ALPN selects it or the client opens with its connection
    /// preface. Default: true.
    #[must_use]
    pub fn http2(mut self, on: bool) -> Self {
        self.versions = Versions::new(self.versions.has_http1(), on);
        self
    }

    /// Sets the time for the client to send a request head, from its first byte. Default: 30 s. A
    /// timeout is answered with 408.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = timeout;
        self
    }

    /// Sets how long a connection may wait for its first or next request before it is closed.
    /// Default: 75 s.
    #[must_use]
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = time;
        self
    }

    /// Sets how long a request body may pause while the service waits for it. Default: 60 s. Then
    /// reading the body fails with [`BodyError::TimedOut`](super::BodyError::TimedOut).
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets how long a client may take no bytes of a pending response; in HTTP/2, of any pending
    /// response. Default: 60 s. Then the connection is aborted.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets how long the service may work for a client that has ended its side of the connection, by
    /// a FIN or by the close_notify of TLS. Default: 30 s. Such a client may have left, or wait for
    /// its response. Then the service's future, or its body, is dropped and the connection ends.
    /// Time in which the client does not take the response does not count: see
    /// [`write_timeout`](Self::write_timeout). `None` sets no limit.
    ///
    /// The limit holds for HTTP/1.1, and in both versions for the handlers of WebSockets. A connection
    /// with another upgraded protocol ends once it has moved no byte for this long. A handler can ask
    /// earlier: see [`ClientLeft`](super::ClientLeft).
    #[must_use]
    pub fn half_close_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.half_close_timeout = time.into();
        self
    }

    /// Sets the same time for HTTP/2, where a client ends its side only when it leaves. Default: 0 s.
    /// Requests that are not answered by then are cancelled, and the connection ends after the output
    /// that the client's windows allow.
    #[must_use]
    pub fn http2_half_close_timeout(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.http2_half_close_timeout = time.into();
        self
    }

    /// Sets the maximum length of a request head, in bytes. Default: 64 KiB. HTTP/1.1 accepts at
    /// least 8 KiB. A longer head is answered with 431.
    #[must_use]
    pub fn max_head(mut self, bytes: usize) -> Self {
        self.max_head = bytes;
        self
    }

    /// Sets the maximum number of headers in a request. Default: 100. A request with more is
    /// answered with 431.
    #[must_use]
    pub fn max_headers(mut self, headers: usize) -> Self {
        self.max_headers = headers;
        self
    }

    /// Sets the maximum number of concurrent requests on an HTTP/2 connection. Default: 128.
    #[must_use]
    pub fn max_streams(mut self, requests: u32) -> Self {
        self.max_streams = requests;
        self
    }

    /// Sets the largest receive window of an HTTP/2 stream, in bytes: how much of a request body the
    /// client sends before the service reads it. Default: 256 KiB. At most 2³¹-1.
    ///
    /// Until the service reads, the window is smaller: half of the connection's window, divided by
    /// [`max_streams`](Self::max_streams), which are 16 KiB by default, and at least 1 KiB. Streams
    /// that are read share the other half. So uploads that are not read leave room for others.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes.min(i32::MAX as u32);
        self
    }

    /// Sets the receive window of an HTTP/2 connection, in bytes, which bounds the unread bytes of all
    /// its request bodies. Default: 4 MiB. From 65 535, which HTTP/2 grants every client, to 2³¹-1.
    #[must_use]
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes.clamp(65_535, i32::MAX as u32);
        self
    }

    /// Sets the maximum number of response bytes that a connection holds for a client that does not
    /// take them. Default: 384 KiB. All requests of an HTTP/2 connection share this limit; at the
    /// limit, the connection stops reading their bodies from the service. If streams with closed
    /// windows hold all of it, a response that holds no bytes may hold one extra piece, so that it
    /// can leave if its own window is open.
    #[must_use]
    pub fn max_unsent(mut self, bytes: usize) -> Self {
        self.max_unsent = bytes;
        self
    }

    /// Sets the same limit for all connections of a server together, in each loop. Default: 64 MiB.
    /// At this limit, each connection is restricted to 64 KiB.
    #[must_use]
    pub fn max_unsent_of_all(mut self, bytes: usize) -> Self {
        self.max_unsent_of_all = bytes;
        self
    }

    /// Sets how long a connection keeps its buffers and parser after its last response: it frees them
    /// after one to two times this long without a request. Default: 50 ms.
    #[must_use]
    pub fn free_idle_after(mut self, time: Duration) -> Self {
        self.free_idle_after = time;
        self
    }

    /// Sets whether requests carry the client's address, as the extension [`Peer`](super::Peer).
    /// Default: false.
    #[must_use]
    pub fn peer(mut self, on: bool) -> Self {
        self.peer = on;
        self
    }

    /// Sets whether requests carry an [`Allowance`](super::Allowance), for bodies that are fetched
    /// piece by piece. Default: false.
    #[must_use]
    pub fn allowance(mut self, on: bool) -> Self {
        self.allowance = on;
        self
    }

    /// Sets whether requests carry a [`ClientLeft`](super::ClientLeft), which resolves when the client
    /// has left. Default: false.
    #[must_use]
    pub fn client_left(mut self, on: bool) -> Self {
        self.client_left = on;
        self
    }

    /// Lets connections that wait for a request move to another process, to the server with the same
    /// name: see [`Continued`]. Default: they stay. If several servers of a loop have the same name,
    /// the last one gets the connections. A name of more than [`HandOver::MOST`] bytes moves none.
    #[must_use]
    pub fn hand_over_as(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into()).filter(|name| name.len() <= HandOver::MOST);
        self
    }

    /// The state of a connection that leaves.
    pub(super) fn handed(&self) -> Option<HandOver> {
        HandOver::new(Continued::KIND, self.name.as_deref()?)
    }
}

/// The versions of HTTP that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Versions {
    /// ALPN offers nothing; a client that connects anyway is served as HTTP/1.1.
    Neither,
    Http1,
    Http2,
    /// As ALPN or the client's first bytes select.
    Both,
}

impl Versions {
    fn new(http1: bool, http2: bool) -> Versions {
        match (http1, http2) {
            (false, false) => Versions::Neither,
            (true, false) => Versions::Http1,
            (false, true) => Versions::Http2,
            (true, true) => Versions::Both,
        }
    }

    fn has_http1(self) -> bool {
        matches!(self, Versions::Http1 | Versions::Both)
    }

    fn has_http2(self) -> bool {
        matches!(self, Versions::Http2 | Versions::Both)
    }

    /// The application protocols for ALPN, in order of preference.
    pub(super) fn alpn(self) -> &'static [&'static str] {
        match self {
            Versions::Neither => &[],
            Versions::Http1 => &["http/1.1"],
            Versions::Http2 => &["h2"],
            Versions::Both => &["h2", "http/1.1"],
        }
    }
}
