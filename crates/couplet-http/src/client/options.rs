//! Options and errors of an HTTP client.

use std::time::Duration;

use couplet_core::Failure;
#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_core::layers::tls::ClientTlsOptions;

/// Options of a [`Client`](super::Client).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Timeout of a connect, including its handshakes. Default: 30 s.
    pub connect_timeout: Duration,
    /// Timeout of a request, including redirects, until the response head has arrived. Default:
    /// 60 s. `None` disables it.
    pub timeout: Option<Duration>,
    /// How long a response body may pause while it is awaited. Default: 60 s. Reading it fails
    /// after one to two times this long.
    pub body_timeout: Duration,
    /// How long an idle connection is kept after a response. Default: 60 s.
    pub keep_alive: Duration,
    /// Maximum number of idle connections kept per server. Default: 32.
    pub max_idle: usize,
    /// Pause before a request is repeated, once. Default: 100 ms.
    pub repeat_pause: Duration,
    /// Maximum number of redirects to follow. Default: 10.
    pub max_redirects: usize,
    /// Host and port of a proxy: it receives `http:` requests with an absolute URL, and CONNECT for
    /// `https:`. Default: none.
    pub proxy: Option<(String, u16)>,
    /// Whether to ask for compressed responses and to decode them. Default: true.
    #[cfg(feature = "decompression")]
    pub decompress: bool,
    /// Maximum length of a decoded body, in bytes. Default: 256 MiB. Reading a longer one fails
    /// with [`BodyError::Bomb`](crate::BodyError::Bomb).
    #[cfg(feature = "decompression")]
    pub max_decoded: u64,
    /// How to verify servers. Default: by the system's certificates. The client sets the ALPN
    /// protocols itself.
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

crate::options::setters! { ClientOptions:
    /// Sets the timeout of a connect.
    connect_timeout: Duration;
    /// Sets the timeout of a request, until the response head has arrived.
    timeout: Option<Duration>;
    /// Sets how long a response body may pause while it is awaited.
    body_timeout: Duration;
    /// Sets how long an idle connection is kept after a response.
    keep_alive: Duration;
    /// Sets the maximum number of idle connections kept per server.
    max_idle: usize;
    /// Sets the pause before a request is repeated.
    repeat_pause: Duration;
    /// Sets the maximum number of redirects to follow.
    max_redirects: usize;
    /// Sets the host and port of a proxy.
    proxy: Option<(String, u16)>;
}

#[cfg(feature = "decompression")]
crate::options::setters! { ClientOptions:
    /// Sets whether to ask for compressed responses and to decode them.
    decompress: bool;
    /// Sets the maximum length of a decoded body, in bytes.
    max_decoded: u64;
}

#[cfg(any(feature = "tls", feature = "ring"))]
crate::options::setters! { ClientOptions:
    /// Sets how to verify servers.
    tls: ClientTlsOptions;
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Not a URL that begins with `http:` or `https:` and names a host.
    #[error("cannot request {0:?}: not a URL with http: or https: and a host")]
    Url(String),
    /// The port is not a number from 1 to 65535.
    #[error("the port of {0:?} is out of range: ports are 1 to 65535")]
    Port(String),
    /// Connecting to the server or the proxy failed.
    #[error("cannot connect to {to}: {failure}")]
    Connect {
        /// Host and port.
        to: String,
        /// Cause of the failure.
        failure: Failure,
    },
    /// The proxy refused the tunnel; contains its status line.
    #[error("cannot connect through the proxy: it answered {0:?}")]
    Proxy(String),
    /// The head of the response did not arrive in time.
    #[error("the request timed out")]
    TimedOut,
    /// More redirects than [`max_redirects`](ClientOptions::max_redirects).
    #[error("more than {0} redirects")]
    TooManyRedirects(usize),
    /// The server answered 101 (Switching Protocols), which this client never asks for.
    #[error("the server switched protocols without a request")]
    Switched,
    /// The connection broke, or its bytes are not HTTP.
    #[error("{}", with_source(.0))]
    Broken(#[source] hyper::Error),
}

impl HttpError {
    /// Copies the error of a connect for another request that waited for it.
    pub(super) fn clone_for(&self, to: String) -> HttpError {
        match self {
            HttpError::Connect { to, failure } => {
                HttpError::Connect { to: to.clone(), failure: failure.clone() }
            }
            HttpError::Proxy(status) => HttpError::Proxy(status.clone()),
            other => HttpError::Connect { to, failure: Failure::msg(other) },
        }
    }
}

/// Formats an error with its source, in which hyper gives the reason.
fn with_source(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
