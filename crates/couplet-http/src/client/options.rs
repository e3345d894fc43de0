//! Options and errors of an HTTP client.
//!
//! Contract: 176, 176a, 176d, 177.

use std::time::Duration;

use couplet_core::Failure;
#[cfg(any(feature = "tls", feature = "ring"))]
use couplet_core::layers::tls::ClientTlsOptions;

/// Options of a [`Client`](super::Client).
#[derive(Clone, Debug)]
pub struct ClientOptions {
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Option<Duration>,
    pub(super) body_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) max_age: Option<Duration>,
    pub(super) max_idle: usize,
    pub(super) repeat_pause: Duration,
    pub(super) max_redirects: usize,
    pub(super) proxy: Option<(String, u16)>,
    #[cfg(feature = "decompression")]
    pub(super) decompress: bool,
    #[cfg(feature = "decompression")]
    pub(super) max_decoded: u64,
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) tls: ClientTlsOptions,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connect_timeout: Duration::from_secs(30),
            timeout: Some(Duration::from_secs(60)),
            body_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            max_age: Some(Duration::from_secs(600)),
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

impl ClientOptions {
    /// Sets the timeout of a connect, including its handshakes. Default: 30 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the timeout of a request, including redirects, until the response head has arrived.
    /// Default: 60 s. `None` disables it.
    #[must_use]
    pub fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long a response body may pause while it is awaited. Default: 60 s. Reading it fails
    /// after one to two times this long.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets how long an idle connection is kept after a response. Default: 60 s.
    #[must_use]
    pub fn keep_alive(mut self, time: Duration) -> Self {
        self.keep_alive = time;
        self
    }

    /// Sets the age at which a connection gets no more requests, also a busy one. Default: 10 minutes.
    /// The next request looks the server's name up again, so the client follows a name that moves to
    /// other addresses. `None` disables it.
    #[must_use]
    pub fn max_age(mut self, age: Option<Duration>) -> Self {
        self.max_age = age;
        self
    }

    /// Sets the maximum number of idle connections kept per server. Default: 32.
    #[must_use]
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// Sets the pause before a request is repeated, once. Default: 100 ms.
    #[must_use]
    pub fn repeat_pause(mut self, pause: Duration) -> Self {
        self.repeat_pause = pause;
        self
    }

    /// Sets the maximum number of redirects to follow. Default: 10.
    #[must_use]
    pub fn max_redirects(mut self, redirects: usize) -> Self {
        self.max_redirects = redirects;
        self
    }

    /// Sets the host and port of a proxy: it receives `http:` requests with an absolute URL, and
    /// CONNECT for `https:`. An IPv6 address may be in brackets, as in a URL. Default: none.
    #[must_use]
    pub fn proxy(mut self, proxy: Option<(String, u16)>) -> Self {
        self.proxy = proxy.map(|(host, port)| (host.trim_matches(['[', ']']).to_owned(), port));
        self
    }

    /// Sets whether to ask for compressed responses and to decode them. Default: true.
    #[cfg(feature = "decompression")]
    #[must_use]
    pub fn decompress(mut self, on: bool) -> Self {
        self.decompress = on;
        self
    }

    /// Sets the maximum length of a decoded body, in bytes. Default: 256 MiB. Reading a longer one
    /// fails with [`BodyError::Bomb`](crate::BodyError::Bomb).
    #[cfg(feature = "decompression")]
    #[must_use]
    pub fn max_decoded(mut self, bytes: u64) -> Self {
        self.max_decoded = bytes;
        self
    }

    /// Sets how to verify servers. Default: by the system's certificates. The client sets the ALPN
    /// protocols itself.
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[must_use]
    pub fn tls(mut self, tls: ClientTlsOptions) -> Self {
        self.tls = tls;
        self
    }
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
    /// The body has a transfer coding other than `chunked`, which this client never asks for.
    #[error("the body has a transfer coding other than chunked, which cannot be decoded")]
    TransferCoding,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limits_match_the_documentation() {
        let secs = Duration::from_secs;
        let options = ClientOptions::default();
        assert_eq!(options.connect_timeout, secs(30));
        assert_eq!((options.timeout, options.body_timeout), (Some(secs(60)), secs(60)));
        assert_eq!((options.keep_alive, options.max_idle), (secs(60), 32));
        assert_eq!(options.max_age, Some(secs(600)));
        assert_eq!((options.repeat_pause.as_millis(), options.max_redirects), (100, 10));
        #[cfg(feature = "decompression")]
        assert_eq!(options.max_decoded, 256 << 20);
    }
}
