//! Options of WebSockets.

use std::time::Duration;

/// Limits and timeouts of a WebSocket, and the subprotocols that this end supports.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    pub(super) max_message: usize,
    pub(super) max_frame: usize,
    pub(super) ping_interval: Option<Duration>,
    pub(super) pong_timeout: Duration,
    pub(super) write_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) protocols: Vec<String>,
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

impl WebSocketOptions {
    /// Sets the maximum length of a received message, in bytes. Default: 16 MiB. A longer one is
    /// answered with code 1009 before all of it is read.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Sets the maximum length of a received frame, in bytes. Default: 16 MiB. A longer one is
    /// answered likewise.
    #[must_use]
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// Sets how long the peer may be silent before it is pinged. Default: 30 s. `None` disables
    /// pings.
    #[must_use]
    pub fn ping_interval(mut self, interval: Option<Duration>) -> Self {
        self.ping_interval = interval;
        self
    }

    /// Sets how long the peer may stay silent after a ping. Default: 30 s. Then the connection is
    /// aborted.
    #[must_use]
    pub fn pong_timeout(mut self, timeout: Duration) -> Self {
        self.pong_timeout = timeout;
        self
    }

    /// Sets how long the peer may take none of the bytes that a `send` waits for. Default: 60 s.
    /// Then the connection is aborted.
    #[must_use]
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets how long the peer may take to answer a close, and a server to end the connection
    /// afterwards. Default: 10 s. Then this end closes the connection.
    #[must_use]
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets the timeout of a client's handshake, from the time it is connected. Default: 30 s.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets the supported subprotocols, in order of preference. Default: none. A server chooses the
    /// first one that the client offers.
    #[must_use]
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }
}
