//! [`Wire`]: the stream below a WebSocket; [`Lane`]: the wire as tungstenite's state machine wants it.

use std::io::{self, Cursor, Read, Write};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketContext};
use tungstenite::{Error, Message};

use crate::{Reactor, Stream, Transport};

/// Payloads from this length on are not copied.
const LENT: usize = 8 * 1024;

/// The longest head of a frame.
const LONGEST_HEAD: usize = 14;

pub(super) struct Wire {
    stream: Stream,
    /// What was read with the handshake.
    unread: Bytes,
    role: Role,
    /// A client's frame, whose memory is kept for the next one.
    frame: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: Stream, unread: Bytes, role: Role) -> Wire {
        Wire { stream, unread, role, frame: Vec::new() }
    }

    pub(super) fn transport(&self) -> &Transport {
        self.stream.transport()
    }

    pub(super) fn reactor(&self) -> &Reactor {
        self.transport().reactor()
    }

    /// Ready when the connection is asked to finish.
    pub(super) fn draining(&self) -> impl Future<Output = ()> + use<> {
        self.stream.draining()
    }

    /// Ready when no more than the high mark is buffered.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_room(cx)
    }

    /// Writes a message as one frame.
    pub(super) fn send(&mut self, kind: Data, payload: Bytes) {
        let mask = match self.role {
            Role::Client => Some(self.mask()),
            Role::Server => None,
        };
        let header = FrameHeader { mask, opcode: OpCode::Data(kind), ..FrameHeader::default() };
        let length = payload.len() as u64;
        let transport = self.stream.transport();
        let Some(mask) = mask else {
            let mut head = [0; LONGEST_HEAD];
            header.format(length, &mut &mut head[..]).expect("it is long enough");
            transport.write(&head[..header.len(length)]);
            if payload.len() < LENT {
                transport.write(payload);
            } else {
                transport.write_bytes(payload);
            }
            return;
        };
        self.frame.clear();
        header.format(length, &mut self.frame).expect("a vector takes everything");
        masked(&payload, mask, &mut self.frame);
        if self.frame.len() < LENT {
            transport.write(&self.frame);
        } else {
            transport.write_bytes(std::mem::take(&mut self.frame));
        }
    }

    /// Four bytes that the peer, and a page that chooses the payload, can't predict: RFC 6455, 5.3. They
    /// come from the loop's world, where a simulation can repeat them.
    fn mask(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.reactor().random().to_le_bytes();
        [a, b, c, d]
    }

    /// Writes frames that the state machine has masked with numbers of its own, with ours.
    fn write_control(&mut self, frames: &[u8]) {
        self.frame.clear();
        let mut rest = frames;
        while !rest.is_empty() {
            let mut cursor = Cursor::new(rest);
            let parsed = FrameHeader::parse(&mut cursor).ok().flatten();
            let (mut header, length) = parsed.expect("tungstenite writes whole frames");
            let length = length as usize;
            let (payload, after) = rest[cursor.position() as usize..].split_at(length);
            let theirs = header.mask.unwrap_or_default();
            let ours = self.mask();
            header.mask = Some(ours);
            header.format(length as u64, &mut self.frame).expect("a vector takes everything");
            let both = std::array::from_fn(|at| theirs[at] ^ ours[at]);
            masked(payload, both, &mut self.frame);
            rest = after;
        }
        self.transport().write(&self.frame);
    }
}

/// Appends a payload, masked: RFC 6455, 5.3.
fn masked(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(payload);
    let mut words = out[start..].chunks_exact_mut(8);
    let wide = u64::from_ne_bytes(std::array::from_fn(|at| mask[at % 4]));
    for word in &mut words {
        let clear = u64::from_ne_bytes((&*word).try_into().expect("eight bytes"));
        word.copy_from_slice(&(clear ^ wide).to_ne_bytes());
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A wire during one call of the state machine, which never blocks.
pub(super) struct Lane<'a, 'b, 'c> {
    pub(super) wire: &'a mut Wire,
    pub(super) cx: &'b mut Context<'c>,
    /// Whether to write even without room, because nothing will follow.
    pub(super) is_last: bool,
    /// Bytes came.
    pub(super) heard: bool,
}

impl Lane<'_, '_, '_> {
    /// Writes a message of the state machine's.
    pub(super) fn say(
        &mut self,
        context: &mut WebSocketContext,
        message: Message,
    ) -> Result<(), Error> {
        context.write(self, message)
    }
}

impl Read for Lane<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let unread = &mut self.wire.unread;
        if !unread.is_empty() {
            let n = unread.len().min(buffer.len());
            unread.copy_to_slice(&mut buffer[..n]);
            return Ok(n);
        }
        match self.wire.stream.poll_read_slice(self.cx, buffer) {
            Poll::Ready(read) => {
                self.heard |= matches!(read, Ok(1..));
                read
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Lane<'_, '_, '_> {
    /// All of it or nothing, so that it begins and ends with a frame.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        if !self.is_last {
            match self.wire.poll_room(self.cx) {
                Poll::Ready(room) => room?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        match self.wire.role {
            Role::Client => self.wire.write_control(frames),
            Role::Server => self.wire.transport().write(frames),
        }
        Ok(frames.len())
    }

    /// What was written leaves with the turn.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
