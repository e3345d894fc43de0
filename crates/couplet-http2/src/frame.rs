//! Frames: RFC 9113, 4 and 6.

use crate::{Code, Error};

/// Length of a frame's head, in bytes.
pub const HEAD: usize = 9;

/// Maximum length of a sent payload: every client accepts it. RFC 9113, 4.2.
pub const MAX_SENT: usize = 16_384;

/// Connection preface of a client: RFC 9113, 3.4.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    /// RFC 8441, 3.
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// Number of the stream, without the reserved bit.
    pub stream: u32,
}

impl Head {
    #[inline]
    pub fn parse(bytes: &[u8; HEAD]) -> Head {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Head { length, kind, flags, stream: number(stream) }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Reads a number of 31 bits, ignoring the reserved bit before it.
pub fn number(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes) & 0x7fff_ffff
}

/// Formats the head of a frame.
#[inline]
pub fn head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    debug_assert!(length <= MAX_SENT, "{length} bytes in a frame");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// Appends a frame.
pub fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&head(payload.len(), kind, flags, stream));
    out.extend_from_slice(payload);
}

/// Frames a field block, written behind a gap of [`HEAD`] bytes at `begin`: HEADERS with these
/// flags, and CONTINUATION for a long one. RFC 9113, 4.3.
pub fn end_block(out: &mut Vec<u8>, begin: usize, flags: u8, stream: u32) {
    let length = out.len() - begin - HEAD;
    if length <= MAX_SENT {
        if let Some(gap) = out.get_mut(begin..).and_then(|out| out.first_chunk_mut()) {
            *gap = head(length, kind::HEADERS, flags | flag::END_HEADERS, stream);
        }
        return;
    }
    let block = out.split_off(begin + HEAD);
    out.truncate(begin);
    let count = length.div_ceil(MAX_SENT);
    for (n, fragment) in block.chunks(MAX_SENT).enumerate() {
        let (kind, first) = if n == 0 { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
        let last = if n + 1 == count { flag::END_HEADERS } else { 0 };
        write(out, kind, first | last, stream, fragment);
    }
}

/// Removes the padding of DATA or HEADERS: RFC 9113, 6.1 and 6.2.
pub fn strip_padding<'a>(frame: &Head, payload: &'a [u8]) -> Result<&'a [u8], Error> {
    if !frame.has(flag::PADDED) {
        return Ok(payload);
    }
    let Some((&padding, rest)) = payload.split_first() else {
        return Err(Error::new(Code::FRAME_SIZE_ERROR, "padding without its length"));
    };
    let length = rest.len().checked_sub(padding.into());
    let rest = length.and_then(|length| rest.get(..length));
    rest.ok_or(Error::new(Code::PROTOCOL_ERROR, "padding longer than its frame"))
}

/// Reads a payload of a fixed length.
pub fn fixed<const N: usize>(payload: &[u8]) -> Result<[u8; N], Error> {
    let wrong = Error::new(Code::FRAME_SIZE_ERROR, "a frame of a wrong length");
    payload.try_into().map_err(|_| wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for (length, kind, flags, stream) in [(0, 0, 0, 0), (16_384, 9, 0xff, 0x7fff_ffff)] {
            let written = head(length, kind, flags, stream);
            assert_eq!(Head::parse(&written), Head { length, kind, flags, stream });
        }
        let reserved = Head::parse(&[0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(reserved.stream, 0x7fff_ffff);
    }

    #[test]
    fn padding_is_removed_or_refused() {
        let padded = |payload: &'static [u8]| {
            let frame = Head { length: 0, kind: 0, flags: flag::PADDED, stream: 1 };
            strip_padding(&frame, payload).map_err(|error| error.code)
        };
        assert_eq!(padded(b"\x02abc\0\0"), Ok(&b"abc"[..]));
        assert_eq!(padded(b"\x00abc"), Ok(&b"abc"[..]));
        assert_eq!(padded(b"\x03\0\0\0"), Ok(&b""[..]));
        assert_eq!(padded(b"\x04\0\0\0"), Err(Code::PROTOCOL_ERROR));
        assert_eq!(padded(b""), Err(Code::FRAME_SIZE_ERROR));
    }
}
