//! Why WebSockets fail, or never begin.

use std::io;
use std::str::Utf8Error;

use http::StatusCode;
use tungstenite::error::{CapacityError, Error, ProtocolError};

use super::code;

/// Why a WebSocket failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// The peer broke the protocol; it was told so with code 1002.
    #[error("the peer broke the WebSocket protocol: {0}")]
    Protocol(String),
    /// A text of the peer is not UTF-8; it was told so with code 1007.
    #[error("a text message, or the reason of a close, is not UTF-8")]
    NotUtf8,
    /// A message of the peer is too long; it was told so with code 1009.
    #[error("a message has {size} bytes or more, and the limit is {limit}")]
    TooBig {
        /// How long it is at least.
        size: usize,
        /// [`max_message`](super::WebSocketOptions::max_message), or
        /// [`max_frame`](super::WebSocketOptions::max_frame).
        limit: usize,
    },
    /// Nothing came from the peer for as long as
    /// [`ping_interval`](super::WebSocketOptions::ping_interval) and
    /// [`pong_timeout`](super::WebSocketOptions::pong_timeout) say.
    #[error("the peer did not answer a ping in time")]
    NoPong,
    /// The peer took nothing for as long as
    /// [`write_timeout`](super::WebSocketOptions::write_timeout) says.
    #[error("the peer took nothing of what was sent in time")]
    NotTaken,
    /// The peer did not answer our close for as long as
    /// [`close_timeout`](super::WebSocketOptions::close_timeout) says.
    #[error("the peer did not answer a close in time")]
    NotClosed,
    /// The peer's connection ended without a close.
    #[error("the peer ended the connection without a close")]
    Cut,
    /// It was closed, by this end or the other one.
    #[error("the WebSocket is closed")]
    Closed,
    /// What was asked for can't be sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
}

/// Why a client got no WebSocket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The request can't be sent.
    #[error("cannot connect to {url:?}: {problem}")]
    Request {
        /// Where to.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The server is no WebSocket there.
    #[error("the server answered {status} instead of 101")]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// Where it says to go instead, if it does. Redirects are not followed.
        location: Option<String>,
    },
    /// The server's answer is wrong.
    #[error("the server's answer to the handshake is wrong: {0}")]
    Wrong(&'static str),
    /// The server ended the connection before it had answered.
    #[error("the server ended the connection before it answered the handshake")]
    Ended,
    /// The server took longer than
    /// [`handshake_timeout`](super::WebSocketOptions::handshake_timeout).
    #[error("the server did not answer the handshake in time")]
    TimedOut,
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
}

impl WebSocketError {
    /// From what the state machine says.
    pub(super) fn of(error: Error) -> WebSocketError {
        match error {
            Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Utf8Error>()) => {
                WebSocketError::NotUtf8
            }
            Error::Io(error) => WebSocketError::Lost(error),
            Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
                WebSocketError::TooBig { size, limit: max_size }
            }
            Error::Utf8(_) => WebSocketError::NotUtf8,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => WebSocketError::Cut,
            Error::Protocol(error) => WebSocketError::Protocol(error.to_string()),
            other => WebSocketError::Protocol(other.to_string()),
        }
    }

    /// The code that tells the peer, if it is the peer's fault and it still listens.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            WebSocketError::Protocol(_) => Some(code::PROTOCOL_ERROR),
            WebSocketError::NotUtf8 => Some(code::NOT_UTF8),
            WebSocketError::TooBig { .. } => Some(code::TOO_BIG),
            _ => None,
        }
    }
}
