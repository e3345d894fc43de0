//! Options of a client, and its errors.

use std::time::Duration;

use crate::Failure;
#[cfg(any(feature = "tls", feature = "ring"))]
use crate::layers::tls::ClientTlsOptions;

/// Options of a [`Client`](super::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// How long a connection may take, its handshakes included: 30 s unless set.
    pub connect_timeout: Duration,
    /// How long an answer's head may take, redirections included: 60 s unless set.
    pub timeout: Option<Duration>,
    /// How long the body of an answer may pause while it is awaited: 60 s unless set. Reading it fails
    /// after once to twice this time.
    pub body_timeout: Duration,
    /// How long a connection is kept after an answer: 60 s unless set.
    pub keep_alive: Duration,
    /// The most connections to one server that are kept: 32 unless set.
    pub max_idle: usize,
    /// How long to wait before a request is sent again, once: 100 ms unless set.
    pub repeat_pause: Duration,
    /// The most redirections that are followed: 10 unless set.
    pub max_redirects: usize,
    /// A proxy, as host and port: it gets requests for `http:` whole, and is asked by CONNECT to pass
    /// `https:` on. None unless set.
    pub proxy: Option<(String, u16)>,
    /// Whether to ask for compressed answers and to decode them: true unless set.
    #[cfg(feature = "decompression")]
    pub decompress: bool,
    /// The most bytes that the body of an answer may be decoded to: 256 MiB unless set. Then reading
    /// it fails with [`BodyError::Bomb`](crate::http::BodyError::Bomb).
    #[cfg(feature = "decompression")]
    pub max_decoded: u64,
    /// How to verify servers: by the system's certificates unless set. Its ALPN is the client's.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub tls: ClientTlsOptions,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(60)),
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            max_idle: 32,
            repeat_pause: Duration::from_millis(100),
            max_redirects: 10,
            proxy: None,
            #[cfg(feature = "decompression")]
            decompress: true,
            #[cfg(feature = "decompression")]
            max_decoded: 256 << 20,
            #[cfg(any(feature = "tls", feature = "ring"))]
            tls: ClientTlsOptions::default(),
        }
    }
}

crate::http::options::setters! { ClientOptions:
    /// Sets how long a connection may take.
    connect_timeout: Duration;
    /// Sets how long an answer's head may take.
    timeout: Option<Duration>;
    /// Sets how long the body of an answer may pause.
    body_timeout: Duration;
    /// Sets how long a connection is kept after an answer.
    keep_alive: Duration;
    /// Sets the most connections to one server that are kept.
    max_idle: usize;
    /// Sets how long to wait before a request is sent again.
    repeat_pause: Duration;
    /// Sets the most redirections that are followed.
    max_redirects: usize;
    /// Sets a proxy, as host and port.
    proxy: Option<(String, u16)>;
}

#[cfg(feature = "decompression")]
crate::http::options::setters! { ClientOptions:
    /// Sets whether to ask for compressed answers and to decode them.
    decompress: bool;
    /// Sets the most bytes that the body of an answer may be decoded to.
    max_decoded: u64;
}

#[cfg(any(feature = "tls", feature = "ring"))]
crate::http::options::setters! { ClientOptions:
    /// Sets how to verify servers.
    tls: ClientTlsOptions;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It is no URL that begins with `http:` or `https:` and names a host.
    #[error("{0:?} is no URL that begins with http: or https: and names a host")]
    Url(String),
    /// Its port is no number from 1 to 65535.
    #[error("the port of {0:?} is out of range: ports are 1 to 65535")]
    Port(String),
    /// The server, or the proxy, can't be reached.
    #[error("cannot connect to {to}: {failure}")]
    Connect {
        /// Host and port.
        to: String,
        /// What went wrong.
        failure: Failure,
    },
    /// The proxy does not pass the connection on.
    #[error("the proxy answered {0:?} instead of a connection")]
    Proxy(String),
    /// The head of the answer did not come in time.
    #[error("there was no answer in time")]
    TimedOut,
    /// More redirections than [`max_redirects`](ClientOptions::max_redirects).
    #[error("more than {0} redirections")]
    TooManyRedirects(usize),
    /// The server answered 101 (Switching Protocols), which this client never asks for.
    #[error("the server switched to another protocol, which was not asked for")]
    Switched,
    /// The connection broke, or what came over it is no HTTP.
    #[error("{}", with_source(.0))]
    Broken(#[source] hyper::Error),
}

impl HttpError {
    /// The error of a connect, for another request that waited for it.
    pub(super) fn again(&self, to: String) -> HttpError {
        match self {
            HttpError::Connect { to, failure } => {
                HttpError::Connect { to: to.clone(), failure: failure.clone() }
            }
            HttpError::Proxy(status) => HttpError::Proxy(status.clone()),
            other => HttpError::Connect { to, failure: Failure::msg(other) },
        }
    }
}

/// hyper's errors leave the reason to their source.
fn with_source(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
