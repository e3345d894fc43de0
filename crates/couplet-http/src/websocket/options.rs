//! Options of WebSockets.

use std::time::Duration;

/// Limits and timeouts of a WebSocket, and the subprotocols that this end supports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebSocketOptions {
    /// Maximum length of a received message, in bytes. Default: 16 MiB. A longer one is answered
    /// with code 1009 before all of it is read.
    pub max_message: usize,
    /// Maximum length of a received frame, in bytes. Default: 16 MiB. A longer one is answered
    /// likewise.
    pub max_frame: usize,
    /// How long the peer may be silent before it is pinged. Default: 30 s. `None` disables pings.
    pub ping_interval: Option<Duration>,
    /// How long the peer may stay silent after a ping. Default: 30 s. Then the connection is
    /// aborted.
    pub pong_timeout: Duration,
    /// How long the peer may take none of the bytes that a `send` waits for. Default: 60 s. Then
    /// the connection is aborted.
    pub write_timeout: Duration,
    /// How long the peer may take to answer a close, and a server to end the connection afterwards.
    /// Default: 10 s. Then this end closes the connection.
    pub close_timeout: Duration,
    /// Timeout of a client's handshake, from the time it is connected. Default: 30 s.
    pub handshake_timeout: Duration,
    /// Supported subprotocols, in order of preference. Default: none. A server chooses the first
    /// one that the client offers.
    // Bound: those that the user names.
    pub protocols: Vec<String>,
}

impl Default for WebSocketOptions {
    fn default() -> WebSocketOptions {
        WebSocketOptions {
            max_message: 16 * 1024 * 1024,
            max_frame: 16 * 1024 * 1024,
            ping_interval: Some(Duration::from_secs(30)),
            pong_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            close_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(30),
            protocols: Vec::new(),
        }
    }
}

crate::options::setters! { WebSocketOptions:
    /// Sets the maximum length of a received message, in bytes.
    max_message: usize;
    /// Sets the maximum length of a received frame, in bytes.
    max_frame: usize;
    /// Sets how long the peer may be silent before it is pinged.
    ping_interval: Option<Duration>;
    /// Sets how long the peer may stay silent after a ping.
    pong_timeout: Duration;
    /// Sets how long the peer may take none of the bytes that a `send` waits for.
    write_timeout: Duration;
    /// Sets how long the peer may take to answer a close.
    close_timeout: Duration;
    /// Sets the timeout of a client's handshake.
    handshake_timeout: Duration;
}

impl WebSocketOptions {
    /// Sets the supported subprotocols, in order of preference.
    #[must_use]
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }
}
