//! [`Wire`]: what is below a WebSocket, a connection or a stream of HTTP/2; [`Lane`]: the wire as tungstenite's state machine wants it.

use std::io::{self, Cursor, Read, Write};
use std::str::Utf8Error;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketContext};
use tungstenite::{Error, Message};

use super::guest::Guest;
use super::texts::Texts;
use crate::{Reactor, Stream, Transport};

/// Payloads from this length on are not copied.
const LENT: usize = 8 * 1024;

/// The longest head of a frame.
pub(super) const LONGEST_HEAD: usize = 14;

pub(super) struct Wire {
    under: Under,
    /// What was read with the handshake.
    unread: Bytes,
    role: Role,
    /// A client's frame, whose memory is kept for the next one.
    frame: Vec<u8>,
    texts: Texts,
    /// What was read and not yet failed on: the state machine first takes what came before.
    fault: Option<Utf8Error>,
    /// The state machine has a frame that found no room.
    is_owing: bool,
}

enum Under {
    Stream(Stream),
    Guest(Box<Guest>),
    /// The guest was ended.
    Gone(Transport),
}

impl Wire {
    pub(super) fn new(stream: Stream, unread: Bytes, role: Role) -> Wire {
        Wire::over(Under::Stream(stream), unread, role)
    }

    /// Of a server.
    pub(super) fn guest(guest: Guest) -> Wire {
        Wire::over(Under::Guest(Box::new(guest)), Bytes::new(), Role::Server)
    }

    fn over(under: Under, unread: Bytes, role: Role) -> Wire {
        // An empty one may hold a buffer.
        let unread = if unread.is_empty() { Bytes::new() } else { unread };
        let (frame, texts) = (Vec::new(), Texts::new(role));
        Wire { under, unread, role, frame, texts, fault: None, is_owing: false }
    }

    /// Sets how long a message of the peer may be.
    pub(super) fn limit(&mut self, longest: usize) {
        self.texts.limit(longest);
    }

    /// Whether the state machine, which waits for bytes, has nothing in it.
    pub(super) fn is_between(&self) -> bool {
        !self.is_owing && self.fault.is_none() && self.texts.is_between()
    }

    /// Of the connection, which others may share.
    pub(super) fn transport(&self) -> &Transport {
        match &self.under {
            Under::Stream(stream) => stream.transport(),
            Under::Guest(guest) => guest.transport(),
            Under::Gone(transport) => transport,
        }
    }

    pub(super) fn reactor(&self) -> &Reactor {
        self.transport().reactor()
    }

    /// Ready when the connection is asked to finish.
    pub(super) fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.under {
            Under::Stream(stream) => stream.poll_draining(cx),
            Under::Guest(guest) => guest.poll_draining(cx),
            Under::Gone(_) => Poll::Ready(()),
        }
    }

    /// How much the peer has not taken.
    pub(super) fn buffered(&self) -> usize {
        match &self.under {
            Under::Stream(stream) => stream.transport().buffered(),
            Under::Guest(guest) => guest.buffered(),
            Under::Gone(_) => 0,
        }
    }

    /// Ready when no more than the high mark is buffered.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.under {
            Under::Stream(stream) => stream.poll_room(cx),
            Under::Guest(guest) => guest.poll_room(cx),
            Under::Gone(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Has what was written leave, where it does not by itself.
    pub(super) fn push(&mut self, cx: &mut Context<'_>) {
        if let Under::Guest(guest) = &mut self.under {
            // An error is read, too.
            let _ = guest.poll_flush(cx);
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.unread.is_empty() {
            let n = self.unread.len().min(buffer.len());
            self.unread.copy_to_slice(&mut buffer[..n]);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            return Poll::Ready(Ok(n));
        }
        match &mut self.under {
            Under::Stream(stream) => stream.poll_read_slice(cx, buffer),
            Under::Guest(guest) => guest.poll_read(cx, buffer),
            Under::Gone(_) => Poll::Ready(Ok(0)),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.under {
            Under::Stream(stream) => stream.transport().write(bytes),
            Under::Guest(guest) => guest.write(bytes),
            Under::Gone(_) => {}
        }
    }

    /// Without a copy, where there is a choice.
    fn write_bytes(&mut self, bytes: Bytes) {
        match &self.under {
            Under::Stream(stream) if bytes.len() >= LENT => stream.transport().write_bytes(bytes),
            _ => self.write(&bytes),
        }
    }

    /// Ends it after what was written, for which a guest has so much time.
    pub(super) fn end(&mut self, within: Duration) {
        match &self.under {
            Under::Stream(stream) => stream.transport().lose_connection(),
            _ => {
                let reactor = self.reactor().clone();
                if let Some(guest) = self.leave() {
                    guest.end(&reactor, within);
                }
            }
        }
    }

    /// The peer did not answer our Close: during a drain it need not answer the end of the stream either.
    pub(super) fn give_up(&self) {
        if let Under::Stream(stream) = &self.under {
            let transport = stream.transport();
            transport.set_close_at_once(transport.is_draining());
        }
    }

    pub(super) fn abort(&mut self) {
        match &self.under {
            Under::Stream(stream) => stream.transport().abort_connection(),
            _ => drop(self.leave()),
        }
    }

    fn leave(&mut self) -> Option<Box<Guest>> {
        let gone = Under::Gone(self.transport().clone());
        match std::mem::replace(&mut self.under, gone) {
            Under::Guest(guest) => Some(guest),
            _ => None,
        }
    }

    /// Writes a message as one frame.
    pub(super) fn send(&mut self, kind: Data, payload: Bytes) {
        let mask = match self.role {
            Role::Client => Some(self.mask()),
            Role::Server => None,
        };
        let header = FrameHeader { mask, opcode: OpCode::Data(kind), ..FrameHeader::default() };
        let length = payload.len() as u64;
        let Some(mask) = mask else {
            let mut head = [0; LONGEST_HEAD];
            header.format(length, &mut &mut head[..]).expect("it is long enough");
            self.write(&head[..header.len(length)]);
            self.write_bytes(payload);
            return;
        };
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        header.format(length, &mut frame).expect("a vector takes everything");
        masked(&payload, mask, &mut frame);
        if frame.len() < LENT {
            self.write(&frame);
            self.frame = frame;
        } else {
            self.write_bytes(frame.into());
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
        let frames = std::mem::take(&mut self.frame);
        self.write(&frames);
        self.frame = frames;
    }
}

/// Appends a payload, masked: RFC 6455, 5.3.
pub(super) fn masked(payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
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
        if let Some(fault) = self.wire.fault.take() {
            return Err(io::Error::other(fault));
        }
        let Poll::Ready(read) = self.wire.poll_read(self.cx, buffer) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let n = read?;
        self.heard |= n > 0;
        self.wire.fault = self.wire.texts.see(&buffer[..n]).err();
        Ok(n)
    }
}

impl Write for Lane<'_, '_, '_> {
    /// All of it or nothing, so that it begins and ends with a frame.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        if !self.is_last {
            let room = self.wire.poll_room(self.cx);
            self.wire.is_owing = room.is_pending();
            match room {
                Poll::Ready(room) => room?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        match self.wire.role {
            Role::Client => self.wire.write_control(frames),
            Role::Server => self.wire.write(frames),
        }
        Ok(frames.len())
    }

    /// What was written leaves with the turn.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
