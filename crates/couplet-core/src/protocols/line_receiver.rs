//! [`LineReceiver`]: lines, with a raw mode. Twisted's class of the same name.
//!
//! Contract: 164.

use std::any::{Any, TypeId};

use super::delimiter::{Delimiter, Lines};
use super::framing::{FrameBuffer, Framer, hold};
use super::line::{LineProtocol, LineTransport, next_line};
use crate::hooks;
use crate::{Protocol, ProtocolExtension, Reason, Transport};

/// Delivers lines, or raw bytes in raw mode.
///
/// By default a line ends with CRLF ([`with_delimiter`](Self::with_delimiter)) and has at most
/// 16 384 bytes ([`with_max_length`](Self::with_max_length)); a longer line goes to
/// [`line_length_exceeded`](LineProtocol::line_length_exceeded) as soon as it can no longer fit.
/// See the [module](super) for the behaviour that all framers share.
///
/// ```
/// use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
/// use couplet::testing::hold;
///
/// struct Echo;
/// impl LineProtocol for Echo {
///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
///         transport.send_line(line);
///     }
/// }
///
/// let echo = || LineReceiver::new(Echo).with_delimiter(b"\n").with_max_length(512); // a factory
/// let mut held = hold(echo());
/// held.push(b"one\ntwo\nthr");
/// assert_eq!(held.wire.take(), b"one\ntwo\n");
/// ```
#[derive(Debug)]
pub struct LineReceiver<P> {
    protocol: P,
    buffer: FrameBuffer,
    lines: Lines,
    transport: Option<LineTransport>,
}

impl<P: LineProtocol> LineReceiver<P> {
    /// Wraps `protocol`.
    pub fn new(protocol: P) -> LineReceiver<P> {
        LineReceiver {
            protocol,
            buffer: FrameBuffer::default(),
            lines: Lines::default(),
            transport: None,
        }
    }

    /// Sets the line delimiter, as text or bytes; the default is CRLF.
    ///
    /// ```
    /// # use couplet::protocols::{LineProtocol, LineReceiver};
    /// # struct Lines;
    /// # impl LineProtocol for Lines {
    /// #     fn line_received(&mut self, _: &couplet::protocols::LineTransport, _: &[u8]) {}
    /// # }
    /// let lines = || LineReceiver::new(Lines).with_delimiter("\n");
    /// ```
    ///
    /// # Panics
    ///
    /// If `delimiter` is empty.
    #[must_use]
    pub fn with_delimiter(mut self, delimiter: impl AsRef<[u8]>) -> LineReceiver<P> {
        self.lines.delimiter = Delimiter::new(delimiter.as_ref().to_vec().into());
        self
    }

    /// Sets the maximum line length in bytes, without the delimiter; the default is 16 384.
    #[must_use]
    pub fn with_max_length(mut self, bytes: usize) -> LineReceiver<P> {
        self.lines.limit = bytes;
        self
    }

    /// The wrapped protocol.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    fn transport(&mut self, transport: &Transport) -> LineTransport {
        let delimiter = &self.lines.delimiter;
        let made = || LineTransport::new(transport, delimiter, Some(wake::<P>));
        self.transport.get_or_insert_with(made).clone()
    }

    /// Runs `work`, and parses the bytes that the protocol returns before and during it.
    #[inline]
    fn run_receiver(
        &mut self,
        transport: &LineTransport,
        work: impl FnOnce(&mut Self, &LineTransport),
    ) {
        transport.switch().set_running(true);
        self.take_extra(transport);
        work(self, transport);
        self.take_extra(transport);
        transport.switch().set_running(false);
    }

    #[inline]
    fn take_extra(&mut self, transport: &LineTransport) {
        while let Some(extra) = transport.switch().take_extra() {
            hold(self, transport, &extra);
            self.frame_held(transport);
        }
    }

    #[inline]
    fn is_raw(&self) -> bool {
        self.transport.as_ref().is_some_and(|transport| transport.switch().is_raw())
    }

    #[cold]
    fn deliver_raw(&mut self, transport: &LineTransport, bytes: &[u8]) -> Option<usize> {
        self.lines.skipping = false;
        let protocol = &mut self.protocol;
        let taken = transport.switch().lend(bytes, || protocol.raw_data_received(transport, bytes));
        hooks::set_in_message(transport, transport.switch().is_raw());
        // The protocol consumed nothing and is still in raw mode: it waits for more bytes.
        (taken > 0 || !transport.switch().is_raw()).then_some(taken)
    }
}

/// Has the turn call the receiver.
fn wake<P: LineProtocol>(transport: &Transport) {
    transport.connection::<LineReceiver<P>>().tell(|receiver, transport| {
        let transport = receiver.transport(transport);
        receiver.run_receiver(&transport, Framer::frame_held);
    });
}

impl<P: LineProtocol> Framer for LineReceiver<P> {
    type Transport = LineTransport;

    #[inline]
    fn step(&mut self, transport: &LineTransport, bytes: &[u8]) -> Option<usize> {
        if transport.switch().is_raw() {
            return self.deliver_raw(transport, bytes);
        }
        next_line(&mut self.protocol, &mut self.lines, transport, bytes)
    }

    /// Not in raw mode, nor inside a line that is too long.
    fn may_move(&self) -> bool {
        !self.is_raw() && !self.lines.skipping
    }

    /// No limit in raw mode: raw bytes that the protocol returns are its own responsibility to
    /// bound.
    #[inline]
    fn limit(&self) -> usize {
        if self.is_raw() { usize::MAX } else { self.lines.bound() }
    }

    fn needs(&self, held: &[u8], more: &[u8]) -> usize {
        if self.is_raw() { more.len() } else { self.lines.needs(held, more) }
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }
}

impl<P: LineProtocol> Protocol for LineReceiver<P> {
    forward_callbacks!();

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let transport = self.transport(transport);
        self.run_receiver(&transport, |receiver, transport| receiver.frame(transport, data));
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        let transport = self.transport(transport);
        self.protocol.reading_resumed(&transport);
        self.run_receiver(&transport, Framer::frame_held);
    }
}

impl<P: LineProtocol> ProtocolExtension for LineReceiver<P> {
    forward_extension!();
}
