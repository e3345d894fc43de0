//! Frames: RFC 9113, 4 and 6.

use std::convert::Infallible;

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

/// Formats the head of a frame. Private: outside of this file, frames are written whole.
#[inline]
fn head(length: usize, kind: u8, flags: u8, stream: u32) -> [u8; HEAD] {
    debug_assert!(length <= MAX_SENT, "{length} bytes in a frame");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e, f, g] = stream.to_be_bytes();
    [a, b, c, kind, flags, d, e, f, g]
}

/// A payload that is not copied into the [`Output`].
pub trait Payload {
    /// Length of the payload in bytes, at most [`MAX_SENT`].
    fn length(&self) -> usize;
}

/// The payload of an output that copies all of them.
#[derive(Debug)]
pub enum NoPayload {}

impl Payload for NoPayload {
    fn length(&self) -> usize {
        match *self {}
    }
}

/// The next part of an [`Output`].
#[derive(Debug)]
pub enum Chunk<'a, P> {
    Bytes(&'a [u8]),
    Payload(P),
}

/// Frames for the peer. INVARIANT: each call adds whole frames, so that no frame separates the head
/// of another one from its payload.
#[derive(Debug)]
pub struct Output<P = NoPayload> {
    bytes: Vec<u8>,
    /// Payloads, with their positions in `bytes`.
    payloads: Vec<(usize, P)>,
}

impl<P> Default for Output<P> {
    fn default() -> Output<P> {
        Output { bytes: Vec::new(), payloads: Vec::new() }
    }
}

impl<P: Payload> Output<P> {
    /// Appends a frame.
    #[inline]
    pub fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend_from_slice(&head(payload.len(), kind, flags, stream));
        self.bytes.extend_from_slice(payload);
    }

    /// Appends a frame whose payload `fill` appends.
    #[inline]
    pub fn write_with(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let begin = self.begin();
        fill(&mut self.bytes);
        let length = self.bytes.len() - begin - HEAD;
        self.fill_gap(begin, head(length, kind, flags, stream));
    }

    /// Appends a frame whose payload is passed on without a copy.
    #[inline]
    pub fn write_payload(&mut self, kind: u8, flags: u8, stream: u32, payload: P) {
        self.bytes.extend_from_slice(&head(payload.length(), kind, flags, stream));
        self.payloads.push((self.bytes.len(), payload));
    }

    /// Appends the field block that `fill` appends: HEADERS with these flags, and CONTINUATION for
    /// a long one. RFC 9113, 4.3.
    pub fn write_block(&mut self, flags: u8, stream: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let Ok(()) = self.try_write_block::<Infallible>(flags, stream, |block| {
            fill(block);
            Ok(())
        });
    }

    /// Appends a field block, unless `fill` fails.
    ///
    /// # Errors
    ///
    /// The error of `fill`, with which nothing is appended.
    pub fn try_write_block<E>(
        &mut self,
        flags: u8,
        stream: u32,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.begin();
        if let Err(error) = fill(&mut self.bytes) {
            self.bytes.truncate(begin);
            return Err(error);
        }
        let length = self.bytes.len() - begin - HEAD;
        if length <= MAX_SENT {
            let head = head(length, kind::HEADERS, flags | flag::END_HEADERS, stream);
            self.fill_gap(begin, head);
            return Ok(());
        }
        let block = self.bytes.split_off(begin + HEAD);
        self.bytes.truncate(begin);
        let count = length.div_ceil(MAX_SENT);
        for (n, fragment) in block.chunks(MAX_SENT).enumerate() {
            let (kind, first) =
                if n == 0 { (kind::HEADERS, flags) } else { (kind::CONTINUATION, 0) };
            let last = if n + 1 == count { flag::END_HEADERS } else { 0 };
            self.write(kind, first | last, stream, fragment);
        }
        Ok(())
    }

    /// Leaves a gap for a head; returns its position.
    fn begin(&mut self) -> usize {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&[0; HEAD]);
        begin
    }

    fn fill_gap(&mut self, begin: usize, head: [u8; HEAD]) {
        if let Some(gap) = self.bytes.get_mut(begin..).and_then(|bytes| bytes.first_chunk_mut()) {
            *gap = head;
        }
    }

    /// Number of bytes without the [`Payload`]s.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Passes all frames to `send`, in their order, and keeps the buffer.
    pub fn drain(&mut self, mut send: impl FnMut(Chunk<'_, P>)) {
        let mut from = 0;
        for (at, payload) in self.payloads.drain(..) {
            send(Chunk::Bytes(self.bytes.get(from..at).unwrap_or_default()));
            send(Chunk::Payload(payload));
            from = at;
        }
        if let Some(rest) = self.bytes.get(from..).filter(|rest| !rest.is_empty()) {
            send(Chunk::Bytes(rest));
        }
        self.bytes.clear();
    }

    /// Frees the buffers beyond their contents, unless the first is at most this `small`.
    pub fn free_memory(&mut self, small: usize) {
        if self.bytes.capacity() > small {
            self.bytes.shrink_to(0);
        }
        self.payloads.shrink_to(0);
    }
}

impl Output {
    /// The output of a client, which begins with its preface.
    pub fn with_preface() -> Output {
        Output { bytes: PREFACE.to_vec(), ..Output::default() }
    }

    /// Takes all frames.
    #[inline]
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
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
    fn payloads_follow_their_heads() {
        struct Three;
        impl Payload for Three {
            fn length(&self) -> usize {
                3
            }
        }
        for turn in 0..2 {
            let mut output = Output::default();
            output.write(kind::PING, 0, 0, b"12345678");
            output.write_payload(kind::DATA, 0, 1, Three);
            output.write_payload(kind::DATA, flag::END_STREAM, 3, Three);
            let failed = output.try_write_block(0, 5, |block| {
                block.extend_from_slice(b"lost");
                Err("invalid")
            });
            assert_eq!(failed, Err("invalid"));
            output.write_with(kind::GOAWAY, 0, 0, |payload| payload.extend_from_slice(b"bye"));
            let mut sent = Vec::new();
            output.drain(|chunk| match chunk {
                Chunk::Bytes(bytes) => sent.extend_from_slice(bytes),
                Chunk::Payload(Three) => sent.extend_from_slice(b"abc"),
            });
            assert!(output.is_empty(), "turn {turn}");
            let (mut rest, mut frames) = (&sent[..], Vec::new());
            while let Some((head, after)) = rest.split_first_chunk() {
                let head = Head::parse(head);
                let (payload, after) = after.split_at(head.length);
                frames.push((head.kind, head.stream, payload));
                rest = after;
            }
            let expected: [(u8, u32, &[u8]); 4] = [
                (kind::PING, 0, b"12345678"),
                (kind::DATA, 1, b"abc"),
                (kind::DATA, 3, b"abc"),
                (kind::GOAWAY, 0, b"bye"),
            ];
            assert_eq!((frames, rest), (expected.to_vec(), &b""[..]), "turn {turn}");
        }
    }

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
