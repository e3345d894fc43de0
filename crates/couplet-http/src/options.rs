//! Options of HTTP servers.

use std::time::Duration;

/// Limits and timeouts of an HTTP server. They apply to each connection unless stated otherwise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Whether to speak HTTP/1.1. Default: true.
    pub http1: bool,
    /// Whether to speak HTTP/2, if ALPN selects it or the client opens with its connection preface.
    /// Default: true.
    pub http2: bool,
    /// Time for the client to send a request head, from its first byte. Default: 30 s. A timeout is
    /// answered with 408.
    pub header_timeout: Duration,
    /// How long a connection may wait for its first or next request before it is closed. Default:
    /// 75 s.
    pub keep_alive: Duration,
    /// How long a request body may pause while the service waits for it. Default: 60 s. Then
    /// reading the body fails with [`BodyError::TimedOut`](super::BodyError::TimedOut).
    pub body_timeout: Duration,
    /// How long a client may take no bytes of a pending response; in HTTP/2, of any pending
    /// response. Default: 60 s. Then the connection is aborted.
    pub write_timeout: Duration,
    /// Maximum length of a request head, in bytes. Default: 64 KiB. A longer head is answered with
    /// 431.
    pub max_head: usize,
    /// Maximum number of headers in a request. Default: 100. A request with more is answered with
    /// 431.
    pub max_headers: usize,
    /// Maximum number of concurrent requests on an HTTP/2 connection. Default: 128.
    pub max_streams: u32,
    /// Maximum number of response bytes that a connection holds for a client that does not take
    /// them. Default: 1 MiB. All requests of an HTTP/2 connection share this limit; at the limit,
    /// the connection stops reading their bodies from the service. If streams with closed windows
    /// hold all of it, a response that holds no bytes may hold one extra piece, so that it can
    /// leave if its own window is open.
    pub max_unsent: usize,
    /// The same limit for all connections of a server together, in each loop. Default: 64 MiB. At
    /// this limit, each connection is restricted to 64 KiB.
    pub max_unsent_of_all: usize,
    /// Whether requests carry the client's address, as the extension [`Peer`](super::Peer).
    /// Default: false.
    pub peer: bool,
    /// Whether requests carry an [`Allowance`](super::Allowance), for bodies that are fetched piece
    /// by piece. Default: false.
    pub allowance: bool,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            http1: true,
            http2: true,
            header_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            max_head: 64 * 1024,
            max_headers: 100,
            max_streams: 128,
            max_unsent: 1024 * 1024,
            max_unsent_of_all: 64 * 1024 * 1024,
            peer: false,
            allowance: false,
        }
    }
}

/// Defines a setter for each option.
macro_rules! setters {
    ($options:ident: $($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        impl $options {$(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: $type) -> Self {
                self.$name = $name;
                self
            }
        )*}
    };
}
pub(super) use setters;

setters! { HttpOptions:
    /// Sets whether to speak HTTP/1.1.
    http1: bool;
    /// Sets whether to speak HTTP/2.
    http2: bool;
    /// Sets the time for the client to send a request head.
    header_timeout: Duration;
    /// Sets how long a connection may wait for a request.
    keep_alive: Duration;
    /// Sets how long a request body may pause.
    body_timeout: Duration;
    /// Sets how long a client may take no bytes of a pending response.
    write_timeout: Duration;
    /// Sets the maximum length of a request head in bytes, at least 8 KiB.
    max_head: usize;
    /// Sets the maximum number of headers in a request.
    max_headers: usize;
    /// Sets the maximum number of concurrent requests on an HTTP/2 connection.
    max_streams: u32;
    /// Sets the maximum number of response bytes that a connection holds for its client.
    max_unsent: usize;
    /// Sets the maximum number of response bytes that all connections of a server hold.
    max_unsent_of_all: usize;
    /// Sets whether requests carry the client's address.
    peer: bool;
    /// Sets whether requests carry an allowance.
    allowance: bool;
}
