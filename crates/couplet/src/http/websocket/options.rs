//! Options of WebSockets.

use std::time::Duration;

/// Limits and times of a WebSocket, and the subprotocols that this end speaks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WebSocketOptions {
    /// The longest message that is accepted, in bytes: 16 MiB unless set. The peer of a longer one gets
    /// code 1009, before all of it was read.
    pub max_message: usize,
    /// The longest piece of a message that is accepted, in bytes: 16 MiB unless set. As there.
    pub max_frame: usize,
    /// After so long without a byte from the peer it is pinged: 30 s unless set; never if `None`.
    pub ping_interval: Option<Duration>,
    /// How long the peer may then say nothing: 30 s unless set. Then the connection is aborted.
    pub pong_timeout: Duration,
    /// How long the peer may take nothing of what a `send` waits for: 60 s unless set. Then the
    /// connection is aborted.
    pub write_timeout: Duration,
    /// How long the peer may take to answer a close, and a server to end the connection after that:
    /// 10 s unless set. Then this end does.
    pub close_timeout: Duration,
    /// How long the handshake of a client may take, from the connection on: 30 s unless set.
    pub handshake_timeout: Duration,
    /// The subprotocols that this end speaks, the best first: none unless set. A server chooses the
    /// first one that the client offers.
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

crate::http::options::setters! { WebSocketOptions:
    /// Sets the longest message that is accepted, in bytes.
    max_message: usize;
    /// Sets the longest piece of a message that is accepted, in bytes.
    max_frame: usize;
    /// Sets after how long without a byte from the peer it is pinged.
    ping_interval: Option<Duration>;
    /// Sets how long the peer may say nothing after a ping.
    pong_timeout: Duration;
    /// Sets how long the peer may take nothing of what a `send` waits for.
    write_timeout: Duration;
    /// Sets how long the peer may take to answer a close.
    close_timeout: Duration;
    /// Sets how long the handshake of a client may take.
    handshake_timeout: Duration;
}

impl WebSocketOptions {
    /// Sets the subprotocols that this end speaks, the best first.
    #[must_use]
    pub fn protocols(mut self, protocols: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.protocols = protocols.into_iter().map(Into::into).collect();
        self
    }
}
