//! [`Error`], which ends a connection, and [`SendError`], of a caller's request.

use std::fmt;

use crate::Code;

/// A fault of the peer that ends the connection: RFC 9113, 5.4.1.
///
/// The output ends with its GOAWAY: write the output, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// The code of the GOAWAY.
    pub code: Code,
    /// The fault, as in the debug data of the GOAWAY.
    pub why: &'static str,
}

impl Error {
    pub(crate) const fn new(code: Code, why: &'static str) -> Error {
        Error { code, why }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the HTTP/2 connection failed with {}: {}", self.code, self.why)
    }
}

impl std::error::Error for Error {}

/// Part of a message that can't be sent. Nothing was sent, and the connection stays usable.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The stream is closed: the peer reset it, its message is complete, or the connection failed.
    /// No fault of the caller, if its [`Event::Reset`](crate::Event::Reset) is still queued. For a
    /// request: the connection takes no more.
    Closed,
    /// As many streams are open as the server or the options allow.
    Busy,
    /// A second head, a body or trailers before the head, an informational head that ends the
    /// stream, anything after the end of the message, or a message of the other side.
    Order,
    /// The status is not from 100 to 999, or is 101, which HTTP/2 lacks: RFC 9113, 8.6.
    Status,
    /// A name is not a token, a value holds CR, LF or NUL, or a part of the request line is invalid
    /// or missing: RFC 9113, 8.2.1 and 8.3.1.
    Field,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "cannot send: the stream is closed",
            SendError::Busy => "cannot send: too many streams are open",
            SendError::Order => "cannot send: out of order in the message",
            SendError::Status => "cannot send: an invalid status",
            SendError::Field => "cannot send: an invalid header field",
        })
    }
}

impl std::error::Error for SendError {}
