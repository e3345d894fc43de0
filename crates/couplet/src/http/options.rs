//! Options of HTTP servers.

use std::time::Duration;

/// Limits and times of an HTTP server, for each of its connections.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Whether to speak HTTP/1.1: true unless set.
    pub http1: bool,
    /// Whether to speak HTTP/2, chosen by ALPN, or by a client that begins with its preface: true
    /// unless set.
    pub http2: bool,
    /// How long a client may take to send the head of a request, from its first byte: 30 s unless
    /// set. Then it is answered with 408.
    pub header_timeout: Duration,
    /// How long a connection may wait for the next request, or for the first: 75 s unless set. Then it
    /// is closed.
    pub keep_alive: Duration,
    /// How long the body of a request may pause while the service waits for it: 60 s unless set. Then
    /// reading it fails with [`BodyError::TimedOut`](super::BodyError::TimedOut).
    pub body_timeout: Duration,
    /// How long a client may take nothing of an answer that waits for it, or in HTTP/2 of any: 60 s
    /// unless set. Then the connection is aborted.
    pub write_timeout: Duration,
    /// The longest head of a request in bytes: 64 KiB unless set. A longer one is answered with 431.
    pub max_head: usize,
    /// The most headers of a request: 100 unless set. More are answered with 431.
    pub max_headers: usize,
    /// The most requests that an HTTP/2 client may have open at a time: 128 unless set.
    pub max_streams: u32,
    /// The most bytes of answers that a connection holds for a client that does not take them: 1 MiB unless
    /// set. The requests of an HTTP/2 client share them; at the bound, it reads no more of their
    /// bodies from the service. If closed windows of streams hold all of it, an answer that holds nothing may
    /// hold one piece besides, so that it can leave if its own window is open.
    pub max_unsent: usize,
    /// The same for all connections of a server together, in each loop: 64 MiB unless set. Once they hold so
    /// much, a connection is limited to 64 KiB.
    pub max_unsent_of_all: usize,
    /// Whether requests carry the client's address, as the extension [`Peer`](super::Peer): false unless
    /// set.
    pub peer: bool,
    /// Whether requests carry an [`Allowance`](super::Allowance), for bodies that are fetched piece by
    /// piece: false unless set.
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

/// A setter for each option.
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
    /// Sets how long the head of a request may take.
    header_timeout: Duration;
    /// Sets how long a connection may wait for a request.
    keep_alive: Duration;
    /// Sets how long the body of a request may pause.
    body_timeout: Duration;
    /// Sets how long a client may take nothing of an answer.
    write_timeout: Duration;
    /// Sets the longest head of a request in bytes, at least 8 KiB.
    max_head: usize;
    /// Sets the most headers of a request.
    max_headers: usize;
    /// Sets the most open requests of an HTTP/2 client.
    max_streams: u32;
    /// Sets the most bytes of answers that a connection holds for its client.
    max_unsent: usize;
    /// Sets the most bytes of answers that the connections of a server hold together.
    max_unsent_of_all: usize;
    /// Sets whether requests carry the client's address.
    peer: bool;
    /// Sets whether requests carry an allowance.
    allowance: bool;
}
