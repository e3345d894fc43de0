//! [`Wire`]: the byte stream below a WebSocket, a connection or an HTTP/2 stream. [`WireIo`] adapts
//! it to tungstenite's state machine.
//!
//! Contract: 105b.

use std::io::{self, Cursor, Read, Write};
use std::str::Utf8Error;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketContext};
use tungstenite::{Error, Message};

use super::h2_stream::H2Stream;
use super::utf8_checker::Utf8Checker;
use couplet_core::hooks;
use couplet_core::hooks::GuestStream;
use couplet_core::{Reactor, Stream, Transport};
use couplet_defer::bounded::{AtMost, Bounded};

/// Payloads of at least this length are not copied.
const MIN_LENT: usize = 8 * 1024;

/// Maximum length of a frame head, in bytes.
pub(super) const MAX_HEAD: usize = 14;

pub(super) struct Wire {
    lower: Lower,
    /// Bytes that were read with the handshake.
    unread: Bytes,
    role: Role,
    /// Buffer for a client's frame, reused by the next one.
    frame: Bounded<Vec<u8>, AtMost<MIN_LENT>>,
    utf8_checker: Utf8Checker,
    /// Invalid UTF-8 in bytes already read; reported after the state machine has taken earlier
    /// bytes.
    fault: Option<Utf8Error>,
    /// The state machine holds a frame that found no room.
    has_blocked_write: bool,
}

enum Lower {
    Stream(Stream),
    H2Stream(Box<H2Stream>),
    /// The HTTP/2 stream was ended.
    Gone(Transport),
}

impl Wire {
    pub(super) fn new(stream: Stream, unread: Bytes, role: Role) -> Wire {
        Wire::over(Lower::Stream(stream), unread, role)
    }

    /// Creates the wire of a server's WebSocket on an HTTP/2 stream.
    pub(super) fn h2_stream(h2_stream: H2Stream) -> Wire {
        Wire::over(Lower::H2Stream(Box::new(h2_stream)), Bytes::new(), Role::Server)
    }

    fn over(lower: Lower, unread: Bytes, role: Role) -> Wire {
        // An empty `Bytes` may still own a buffer.
        let unread = if unread.is_empty() { Bytes::new() } else { unread };
        let (frame, utf8_checker) = (Bounded::default(), Utf8Checker::new(role));
        Wire { lower, unread, role, frame, utf8_checker, fault: None, has_blocked_write: false }
    }

    /// Sets the maximum length of a message from the peer.
    pub(super) fn limit(&mut self, max_length: usize) {
        self.utf8_checker.limit(max_length);
    }

    /// Whether the state machine, which waits for input, is empty.
    pub(super) fn is_between_messages(&self) -> bool {
        !self.has_blocked_write && self.fault.is_none() && self.utf8_checker.is_between_messages()
    }

    /// The transport of the connection, which other streams may share.
    pub(super) fn transport(&self) -> &Transport {
        match &self.lower {
            Lower::Stream(stream) => stream.transport(),
            Lower::H2Stream(h2_stream) => h2_stream.transport(),
            Lower::Gone(transport) => transport,
        }
    }

    pub(super) fn reactor(&self) -> &Reactor {
        self.transport().reactor()
    }

    /// Ready when the connection begins to finish.
    pub(super) fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.lower {
            Lower::Stream(stream) => stream.poll_draining(cx),
            Lower::H2Stream(h2_stream) => h2_stream.poll_draining(cx),
            Lower::Gone(_) => Poll::Ready(()),
        }
    }

    /// Number of bytes that the peer has not taken.
    pub(super) fn buffered(&self) -> usize {
        match &self.lower {
            Lower::Stream(stream) => stream.transport().buffered(),
            Lower::H2Stream(h2_stream) => h2_stream.buffered(),
            Lower::Gone(_) => 0,
        }
    }

    /// Ready when at most the high mark is buffered.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.lower {
            Lower::Stream(stream) => stream.poll_room(cx),
            Lower::H2Stream(h2_stream) => h2_stream.poll_room(cx),
            Lower::Gone(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Passes buffered output to the tunnel; a connection's output leaves automatically.
    pub(super) fn push(&mut self, cx: &mut Context<'_>) {
        if let Lower::H2Stream(h2_stream) = &mut self.lower {
            // The next read reports the error, too.
            let _ = h2_stream.poll_flush(cx);
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
        match &mut self.lower {
            Lower::Stream(stream) => stream.poll_read_slice(cx, buffer),
            Lower::H2Stream(h2_stream) => h2_stream.poll_read(cx, buffer),
            Lower::Gone(_) => Poll::Ready(Ok(0)),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        match &mut self.lower {
            Lower::Stream(stream) => stream.transport().write(bytes),
            Lower::H2Stream(h2_stream) => h2_stream.write(bytes),
            Lower::Gone(_) => {}
        }
    }

    /// Writes bytes, without a copy if they are long enough.
    fn write_bytes(&mut self, bytes: Bytes) {
        match &self.lower {
            Lower::Stream(stream) if bytes.len() >= MIN_LENT => {
                stream.transport().write_bytes(bytes)
            }
            _ => self.write(&bytes),
        }
    }

    /// Ends the connection or stream after its output; a stream must finish within this time.
    pub(super) fn end(&mut self, within: Duration) {
        match &self.lower {
            Lower::Stream(stream) => stream.transport().lose_connection(),
            _ => {
                let reactor = self.reactor().clone();
                if let Some(h2_stream) = self.detach_h2_stream() {
                    h2_stream.end(&reactor, within);
                }
            }
        }
    }

    /// Gives up on a peer that did not answer our Close: during a drain it need not answer our FIN
    /// either.
    pub(super) fn give_up(&self) {
        if let Lower::Stream(stream) = &self.lower {
            let transport = stream.transport();
            transport.set_close_at_once(transport.is_draining());
        }
    }

    pub(super) fn abort(&mut self) {
        match &self.lower {
            Lower::Stream(stream) => stream.transport().abort_connection(),
            _ => drop(self.detach_h2_stream()),
        }
    }

    fn detach_h2_stream(&mut self) -> Option<Box<H2Stream>> {
        let gone = Lower::Gone(self.transport().clone());
        match std::mem::replace(&mut self.lower, gone) {
            Lower::H2Stream(h2_stream) => Some(h2_stream),
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
            let mut head = [0; MAX_HEAD];
            header.format(length, &mut &mut head[..]).expect("the buffer fits any head");
            self.write(&head[..header.len(length)]);
            self.write_bytes(payload);
            return;
        };
        let mut frame = self.frame.take();
        frame.clear();
        header.format(length, &mut frame).expect("a vector takes everything");
        masked(&payload, mask, &mut frame);
        if frame.len() < MIN_LENT {
            self.write(&frame);
            *self.frame.edit() = frame;
        } else {
            self.write_bytes(frame.into());
        }
    }

    /// Returns four bytes that neither the peer nor a page that chooses the payload can predict:
    /// RFC 6455, 5.3. The loop's world supplies the bytes, so that a simulation can repeat them.
    fn mask(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = hooks::random(self.reactor()).to_le_bytes();
        [a, b, c, d]
    }

    /// Replaces the state machine's masks by ours, and writes the frames.
    fn write_control(&mut self, frames: &[u8]) {
        self.frame.edit().clear();
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
            header
                .format(length as u64, &mut *self.frame.edit())
                .expect("a vector takes everything");
            let both = std::array::from_fn(|at| theirs[at] ^ ours[at]);
            masked(payload, both, &mut self.frame.edit());
            rest = after;
        }
        let frames = self.frame.take();
        self.write(&frames);
        *self.frame.edit() = frames;
    }
}

/// Appends a masked payload: RFC 6455, 5.3.
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

/// When the state machine's frames may be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteWhen {
    /// When the output has room.
    HasRoom,
    /// Always: nothing will follow, or the caller has checked the room.
    Always,
}

/// Lends the wire to one call of the state machine, which never blocks.
pub(super) struct WireIo<'a, 'b, 'c> {
    pub(super) wire: &'a mut Wire,
    pub(super) cx: &'b mut Context<'c>,
    pub(super) write: WriteWhen,
    /// Number of bytes received.
    pub(super) received: usize,
}

impl WireIo<'_, '_, '_> {
    /// Passes a control message to the state machine, which writes it.
    pub(super) fn write_message(
        &mut self,
        context: &mut WebSocketContext,
        message: Message,
    ) -> Result<(), Error> {
        context.write(self, message)
    }
}

impl Read for WireIo<'_, '_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(fault) = self.wire.fault.take() {
            return Err(io::Error::other(fault));
        }
        let Poll::Ready(read) = self.wire.poll_read(self.cx, buffer) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let n = read?;
        self.received += n;
        self.wire.fault = self.wire.utf8_checker.check_bytes(&buffer[..n]).err();
        Ok(n)
    }
}

impl Write for WireIo<'_, '_, '_> {
    /// Writes all frames or none, so that output begins and ends with a frame.
    fn write(&mut self, frames: &[u8]) -> io::Result<usize> {
        if self.write == WriteWhen::HasRoom {
            let room = self.wire.poll_room(self.cx);
            self.wire.has_blocked_write = room.is_pending();
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

    /// Written bytes leave with the turn.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
