//! Frames and error codes: RFC 9113, 4, 6 and 7. Most of them come from `couplet-http2`.

pub(crate) use couplet_http2::Code as Reason;
pub(crate) use couplet_http2::frame::PREFACE;
use couplet_http2::frame::Payload;
pub(super) use couplet_http2::frame::{
    Chunk, HEAD, Head as FrameHead, MAX_SENT as MAX_PAYLOAD, fixed, flag, kind, number, setting,
    strip_padding,
};

use crate::body::Content;

/// Frames for the client. The payloads of long DATA frames are not copied.
pub(super) type FrameOutput = couplet_http2::frame::Output<Content>;

impl Payload for Content {
    fn length(&self) -> usize {
        self.len()
    }
}

/// An error that ends the connection: RFC 9113, 5.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP/2 connection failed with {reason}: {why}")]
pub(super) struct ConnectionError {
    pub(super) reason: Reason,
    pub(super) why: &'static str,
}

impl ConnectionError {
    pub(super) const fn new(reason: Reason, why: &'static str) -> ConnectionError {
        ConnectionError { reason, why }
    }
}

impl From<couplet_http2::Error> for ConnectionError {
    fn from(error: couplet_http2::Error) -> ConnectionError {
        ConnectionError { reason: error.code, why: error.why }
    }
}

/// Whether a frame ends its side of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    More,
    /// END_STREAM.
    End,
}

impl Then {
    /// Reads the flag END_STREAM of DATA or HEADERS.
    pub(super) fn of(frame: &FrameHead) -> Then {
        if frame.has(flag::END_STREAM) { Then::End } else { Then::More }
    }

    pub(super) fn flag(self) -> u8 {
        match self {
            Then::More => 0,
            Then::End => flag::END_STREAM,
        }
    }
}
