//! Frames and error codes: RFC 9113, 4, 6 and 7.

use std::fmt;

/// Length of a frame's head, in bytes.
pub(super) const HEAD: usize = 9;

/// Maximum length of a payload, in both directions: the initial SETTINGS_MAX_FRAME_SIZE.
pub(super) const MAX_PAYLOAD: usize = 16 * 1024;

pub(super) mod kind {
    pub(in crate::http2) const DATA: u8 = 0;
    pub(in crate::http2) const HEADERS: u8 = 1;
    pub(in crate::http2) const PRIORITY: u8 = 2;
    pub(in crate::http2) const RST_STREAM: u8 = 3;
    pub(in crate::http2) const SETTINGS: u8 = 4;
    pub(in crate::http2) const PUSH_PROMISE: u8 = 5;
    pub(in crate::http2) const PING: u8 = 6;
    pub(in crate::http2) const GOAWAY: u8 = 7;
    pub(in crate::http2) const WINDOW_UPDATE: u8 = 8;
    pub(in crate::http2) const CONTINUATION: u8 = 9;
}

pub(super) mod flag {
    pub(in crate::http2) const ACK: u8 = 0x1;
    pub(in crate::http2) const END_STREAM: u8 = 0x1;
    pub(in crate::http2) const END_HEADERS: u8 = 0x4;
    pub(in crate::http2) const PADDED: u8 = 0x8;
    pub(in crate::http2) const PRIORITY: u8 = 0x20;
}

pub(super) mod setting {
    pub(in crate::http2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::http2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::http2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::http2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::http2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441, 3.
    pub(in crate::http2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// An error code of RST_STREAM and GOAWAY.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(pub(super) u32);

impl Reason {
    pub(super) const NO_ERROR: Reason = Reason(0);
    pub(super) const PROTOCOL_ERROR: Reason = Reason(1);
    pub(super) const INTERNAL_ERROR: Reason = Reason(2);
    pub(super) const FLOW_CONTROL_ERROR: Reason = Reason(3);
    pub(super) const STREAM_CLOSED: Reason = Reason(5);
    pub(super) const FRAME_SIZE_ERROR: Reason = Reason(6);
    pub(super) const REFUSED_STREAM: Reason = Reason(7);
    pub(super) const CANCEL: Reason = Reason(8);
    pub(super) const COMPRESSION_ERROR: Reason = Reason(9);
    pub(super) const ENHANCE_YOUR_CALM: Reason = Reason(11);

    pub(crate) fn new(code: u32) -> Reason {
        Reason(code)
    }

    pub(crate) fn code(self) -> u32 {
        self.0
    }
}

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "the unknown code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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

/// What follows a frame on its side of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    More,
    /// END_STREAM.
    End,
}

impl Then {
    pub(super) fn flag(self) -> u8 {
        match self {
            Then::More => 0,
            Then::End => flag::END_STREAM,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Number of the stream, without the reserved bit.
    pub(super) stream: u32,
}

impl FrameHead {
    pub(super) fn parse(bytes: &[u8; HEAD]) -> FrameHead {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        FrameHead { length, kind, flags, stream: number(stream) }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What follows DATA or HEADERS.
    pub(super) fn then(&self) -> Then {
        if self.has(flag::END_STREAM) { Then::End } else { Then::More }
    }
}

/// Reads a number of 31 bits, ignoring the reserved bit before it.
pub(super) fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

/// Formats the head of a frame.
pub(super) fn head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    debug_assert!(length <= MAX_PAYLOAD, "{length} bytes in a frame");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// Appends a frame.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&head(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

/// Removes the padding of DATA or HEADERS: RFC 9113, 6.1 and 6.2.
pub(super) fn strip_padding<'a>(
    frame: &FrameHead,
    payload: &'a [u8],
) -> Result<&'a [u8], ConnectionError> {
    if !frame.has(flag::PADDED) {
        return Ok(payload);
    }
    let Some((&padding, rest)) = payload.split_first() else {
        return Err(ConnectionError::new(Reason::FRAME_SIZE_ERROR, "padding without its length"));
    };
    let length = rest.len().checked_sub(padding.into());
    let length = length
        .ok_or(ConnectionError::new(Reason::PROTOCOL_ERROR, "padding longer than its frame"))?;
    Ok(&rest[..length])
}

/// Reads a payload of a fixed length.
pub(super) fn fixed<const N: usize>(payload: &[u8]) -> Result<[u8; N], ConnectionError> {
    let wrong = ConnectionError::new(Reason::FRAME_SIZE_ERROR, "a frame of a wrong length");
    payload.try_into().map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for (length, kind, flags, stream) in [(0, 0, 0, 0), (16_384, 9, 0xff, 0x7fff_ffff)] {
            let written = head(length, kind, flags, stream);
            assert_eq!(FrameHead::parse(&written), FrameHead { length, kind, flags, stream });
        }
        let reserved = FrameHead::parse(&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reserved.stream, 0x7fff_ffff);
    }

    #[test]
    fn padding_is_removed_or_refused() {
        let padded = |payload: &'static [u8]| {
            let frame = FrameHead { length: 0, kind: 0, flags: flag::PADDED, stream: 1 };
            strip_padding(&frame, payload).map_err(|error| error.reason)
        };
        assert_eq!(padded(b"\x02abc\0\0"), Ok(&b"abc"[..]));
        assert_eq!(padded(b"\x00abc"), Ok(&b"abc"[..]));
        assert_eq!(padded(b"\x03\0\0\0"), Ok(&b""[..]));
        assert_eq!(padded(b"\x04\0\0\0"), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(padded(b""), Err(Reason::FRAME_SIZE_ERROR));
    }
}
