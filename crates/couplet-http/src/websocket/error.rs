//! Errors of WebSockets and of the client's handshake.

use std::io;
use std::str::Utf8Error;

use http::StatusCode;
use tungstenite::error::{CapacityError, Error, ProtocolError};

use super::code;

/// Why a WebSocket failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebSocketError {
    /// The peer broke the protocol; answered with code 1002.
    #[error("the peer broke the WebSocket protocol: {0}")]
    Protocol(String),
    /// A text of the peer is not UTF-8; answered with code 1007.
    #[error("a text message or a close reason is not UTF-8")]
    NotUtf8,
    /// A message of the peer is too long; answered with code 1009.
    #[error("a message of at least {size} bytes exceeds the limit of {limit}")]
    TooBig {
        /// Minimum length of the message, in bytes.
        size: usize,
        /// [`max_message`](super::WebSocketOptions::max_message), or
        /// [`max_frame`](super::WebSocketOptions::max_frame).
        limit: usize,
    },
    /// No bytes arrived within [`ping_interval`](super::WebSocketOptions::ping_interval) plus
    /// [`pong_timeout`](super::WebSocketOptions::pong_timeout).
    #[error("the peer did not answer a ping in time")]
    NoPong,
    /// The peer took no bytes within [`write_timeout`](super::WebSocketOptions::write_timeout).
    #[error("the peer took no data in time")]
    NotTaken,
    /// The peer did not answer our close within
    /// [`close_timeout`](super::WebSocketOptions::close_timeout).
    #[error("the peer did not answer a close in time")]
    NotClosed,
    /// The peer ended the connection without a close.
    #[error("the peer ended the connection without a close")]
    Cut,
    /// The WebSocket was closed, by either end.
    #[error("the WebSocket is closed")]
    Closed,
    /// The message can't be sent.
    #[error("{0}")]
    Invalid(&'static str),
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
}

/// Why a client's handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The request can't be sent.
    #[error("cannot connect to {url:?}: {problem}")]
    Request {
        /// URL of the request.
        url: String,
        /// Why it can't be sent.
        problem: String,
    },
    /// The server refused the upgrade.
    #[error("the server answered {status} instead of 101")]
    Refused {
        /// Status of the response.
        status: StatusCode,
        /// Location of a redirect, which is not followed.
        location: Option<String>,
    },
    /// The server's response is invalid.
    #[error("invalid handshake response: {0}")]
    Wrong(&'static str),
    /// The server ended the connection before it responded.
    #[error("the server ended the connection before it answered the handshake")]
    Ended,
    /// The server exceeded [`handshake_timeout`](super::WebSocketOptions::handshake_timeout).
    #[error("the server did not answer the handshake in time")]
    TimedOut,
    /// The connection was lost.
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
}

impl WebSocketError {
    /// Converts an error of the state machine.
    pub(super) fn from_tungstenite(error: Error) -> WebSocketError {
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

    /// The close code for an error of the peer, if it can still receive one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            WebSocketError::Protocol(_) => Some(code::PROTOCOL_ERROR),
            WebSocketError::NotUtf8 => Some(code::NOT_UTF8),
            WebSocketError::TooBig { .. } => Some(code::TOO_BIG),
            _ => None,
        }
    }
}
