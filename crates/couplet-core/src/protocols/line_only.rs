//! [`LineOnlyReceiver`]: lines only. Twisted's class of the same name.

use std::any::{Any, TypeId};

use super::delimiter::{Delimiter, Lines};
use super::framing::{FrameBuffer, Framer};
use super::line::{LineProtocol, LineTransport, next_line};
use crate::{Protocol, ProtocolExtension, Reason, Transport};

/// Delivers lines, like a [`LineReceiver`](super::LineReceiver) without raw mode.
///
/// ```
/// use couplet::protocols::{LineOnlyReceiver, LineProtocol, LineTransport};
/// use couplet::testing::hold;
///
/// struct Echo;
/// impl LineProtocol for Echo {
///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
///         transport.send_line(line);
///     }
/// }
///
/// let mut held = hold(LineOnlyReceiver::new(Echo));
/// held.push(b"one\r\ntwo\r\n");
/// assert_eq!(held.wire.take(), b"one\r\ntwo\r\n");
/// ```
#[derive(Debug)]
pub struct LineOnlyReceiver<P> {
    protocol: P,
    buffer: FrameBuffer,
    lines: Lines,
    transport: Option<LineTransport>,
}

impl<P: LineProtocol> LineOnlyReceiver<P> {
    /// Wraps `protocol`.
    pub fn new(protocol: P) -> LineOnlyReceiver<P> {
        let lines = Lines::default();
        LineOnlyReceiver { protocol, buffer: FrameBuffer::default(), lines, transport: None }
    }

    /// Sets the line delimiter, as text or bytes; the default is CRLF.
    ///
    /// ```
    /// # use couplet::protocols::{LineProtocol, LineOnlyReceiver};
    /// # struct Lines;
    /// # impl LineProtocol for Lines {
    /// #     fn line_received(&mut self, _: &couplet::protocols::LineTransport, _: &[u8]) {}
    /// # }
    /// let lines = || LineOnlyReceiver::new(Lines).with_delimiter("\n");
    /// ```
    ///
    /// # Panics
    ///
    /// If `delimiter` is empty.
    #[must_use]
    pub fn with_delimiter(mut self, delimiter: impl AsRef<[u8]>) -> LineOnlyReceiver<P> {
        self.lines.delimiter = Delimiter::new(delimiter.as_ref().to_vec().into());
        self
    }

    /// Sets the maximum line length in bytes, without the delimiter; the default is 16 384.
    #[must_use]
    pub fn with_max_length(mut self, bytes: usize) -> LineOnlyReceiver<P> {
        self.lines.limit = bytes;
        self
    }

    /// The wrapped protocol.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    fn transport(&mut self, transport: &Transport) -> LineTransport {
        let delimiter = &self.lines.delimiter;
        self.transport.get_or_insert_with(|| LineTransport::new(transport, delimiter, None)).clone()
    }
}

impl<P: LineProtocol> Framer for LineOnlyReceiver<P> {
    type Transport = LineTransport;

    #[inline]
    fn step(&mut self, transport: &LineTransport, bytes: &[u8]) -> Option<usize> {
        next_line(&mut self.protocol, &mut self.lines, transport, bytes)
    }

    /// Not inside a line that is too long.
    fn may_move(&self) -> bool {
        !self.lines.skipping
    }

    #[inline]
    fn limit(&self) -> usize {
        self.lines.bound()
    }

    fn needs(&self, held: &[u8], more: &[u8]) -> usize {
        self.lines.needs(held, more)
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }
}

impl<P: LineProtocol> Protocol for LineOnlyReceiver<P> {
    forward_callbacks!();
    frame_callbacks!();
}

impl<P: LineProtocol> ProtocolExtension for LineOnlyReceiver<P> {
    forward_extension!();
}
