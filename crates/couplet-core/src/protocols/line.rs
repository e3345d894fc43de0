//! [`LineProtocol`], which receives lines, and its [`LineTransport`], which sends them.
//!
//! Contract: 163, 164.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::Decoded;
use super::delimiter::{self, Delimiter, Lines, NextPiece};
use super::error::FramingError;
#[cfg(doc)]
use super::{LineOnlyReceiver, LineReceiver};
#[cfg(doc)]
use crate::Protocol;
use crate::{Connection, HandOver, Reason, Transport, hooks};

/// Appends `line` and `delimiter` to `out`.
///
/// ```
/// let mut out = Vec::new();
/// couplet::protocols::encode_line(b"hello", b"\r\n", &mut out);
/// assert_eq!(out, b"hello\r\n");
/// ```
pub fn encode_line(line: &[u8], delimiter: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(line);
    out.extend_from_slice(delimiter);
}

/// Splits `bytes` into the first line, without its delimiter, and the bytes after it; `None` if no
/// line is complete. An empty delimiter ends no line.
///
/// ```
/// use couplet::protocols::decode_line;
///
/// assert_eq!(decode_line(b"hello\r\nwor", b"\r\n"), Some((&b"hello"[..], &b"wor"[..])));
/// assert_eq!(decode_line(b"wor", b"\r\n"), None);
/// ```
#[inline]
pub fn decode_line<'a>(bytes: &'a [u8], delimiter: &[u8]) -> Option<Decoded<'a>> {
    let end = delimiter::find(bytes, delimiter)?;
    Some((&bytes[..end], &bytes[end + delimiter.len()..]))
}

/// A protocol that receives complete lines from a [`LineReceiver`] or a [`LineOnlyReceiver`].
///
/// The other callbacks have the same names and meanings as in [`Protocol`].
///
/// ```
/// use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
/// use couplet::testing::hold;
///
/// struct Greeter;
/// impl LineProtocol for Greeter {
///     fn connection_made(&mut self, transport: &LineTransport) {
///         transport.send_line("what is your name?");
///     }
///     fn line_received(&mut self, transport: &LineTransport, name: &[u8]) {
///         transport.write("hello ");
///         transport.send_line(name);
///         transport.lose_connection();
///     }
/// }
///
/// let mut held = hold(LineReceiver::new(Greeter));
/// held.push(b"Ada\r\nnot heard any more\r\n");
/// assert_eq!(held.wire.take(), b"what is your name?\r\nhello Ada\r\n");
/// ```
///
/// A `LineProtocol` is not a [`Protocol`] without a framer, so this does not compile:
///
/// ```compile_fail,E0277
/// # use couplet::protocols::{LineProtocol, LineTransport};
/// # struct Greeter;
/// # impl LineProtocol for Greeter {
/// #     fn line_received(&mut self, _: &LineTransport, _: &[u8]) {}
/// # }
/// # fn example(reactor: &couplet::Reactor) -> couplet::Result<()> {
/// reactor.listen("tcp:8000", || Greeter)?; // `|| LineReceiver::new(Greeter)` is a factory
/// # Ok(())
/// # }
/// ```
pub trait LineProtocol: Any {
    /// The connection was made. This is the first call.
    fn connection_made(&mut self, _transport: &LineTransport) {}

    /// A complete line arrived, borrowed for the call only, and without its delimiter.
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]);

    /// In raw mode: bytes arrived, at least one, split at arbitrary points. To return to line mode,
    /// pass the unused bytes to [`set_line_mode`](LineTransport::set_line_mode).
    fn raw_data_received(&mut self, _transport: &LineTransport, _data: &[u8]) {}

    /// A line exceeds the limit; `beginning` is its first `limit + 1` bytes. By default the
    /// connection fails with [`FramingError::LineTooLong`]. If an override keeps the connection
    /// open, the remaining bytes of the line are discarded, or delivered raw if it sets raw mode.
    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        transport.fail(FramingError::LineTooLong { limit: beginning.len() - 1 });
    }

    /// A descriptor arrived on a UNIX socket. Lines in the bytes that it came with are delivered
    /// later, as are lines held back by a pause. The default closes it.
    #[cfg(unix)]
    fn descriptor_received(
        &mut self,
        _transport: &LineTransport,
        descriptor: std::os::fd::OwnedFd,
    ) {
        drop(descriptor);
    }

    /// The connection was lost. This is the last call, and it is made exactly once.
    fn connection_lost(&mut self, _transport: &LineTransport, _reason: &Reason) {}

    /// The peer shut down its write side. An unterminated last line is not delivered. The default
    /// closes the connection.
    fn read_closed(&mut self, transport: &LineTransport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): everything written and
    /// the FIN have been sent.
    fn write_closed(&mut self, _transport: &LineTransport) {}

    /// The server is shutting down and asks this connection to finish and close: see
    /// [`Protocol::draining`]. The default does nothing.
    fn draining(&mut self, _transport: &LineTransport) {}

    /// Reading was resumed after a pause. Called before the held lines are delivered.
    fn reading_resumed(&mut self, _transport: &LineTransport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &LineTransport) {}

    /// Another process can continue the connection: see
    /// [`ProtocolExtension::hand_over`](crate::ProtocolExtension::hand_over). The framer adds the
    /// bytes that it holds.
    fn hand_over(&mut self) -> Option<HandOver> {
        None
    }

    /// A protocol that wraps others exposes them here: see
    /// [`ProtocolExtension::find`](crate::ProtocolExtension::find).
    fn find(&mut self, _type: TypeId) -> Option<&mut dyn Any> {
        None
    }
}

/// A [`Transport`] that sends lines and switches its receiver between line and raw mode; cheap to
/// clone and to keep.
#[derive(Clone, Debug)]
pub struct LineTransport {
    transport: Transport,
    shared: Rc<LineState>,
}

#[derive(Debug)]
struct LineState {
    delimiter: Delimiter,
    switch: ModeSwitch,
    /// Has the turn call the receiver, so that it acts on changes made outside its callbacks;
    /// `None` if the receiver has no raw mode.
    wake: Option<fn(&Transport)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Line,
    Raw,
}

/// The mode that a transport records and its receiver applies.
#[derive(Debug, Default)]
pub(super) struct ModeSwitch {
    mode: Cell<Mode>,
    /// Whether the receiver is running and will notice changes without a wake-up.
    is_running: Cell<bool>,
    /// The end address and the length of the bytes lent to `raw_data_received`.
    lent: Cell<(usize, usize)>,
    /// The number of lent bytes that were returned.
    returned: Cell<usize>,
    /// Other bytes to parse as lines.
    extra: RefCell<Vec<u8>>,
}

impl ModeSwitch {
    #[inline]
    pub(super) fn is_raw(&self) -> bool {
        self.mode.get() == Mode::Raw
    }

    #[inline]
    pub(super) fn set_running(&self, is_running: bool) {
        self.is_running.set(is_running);
    }

    /// Lends `bytes` to `raw_data_received`; returns the number of bytes that it consumed.
    pub(super) fn lend(&self, bytes: &[u8], raw_data_received: impl FnOnce()) -> usize {
        self.lent.set((bytes.as_ptr_range().end as usize, bytes.len()));
        raw_data_received();
        self.lent.set((0, 0));
        bytes.len() - self.returned.take()
    }

    /// Takes the other bytes, which count as received.
    #[inline]
    pub(super) fn take_extra(&self) -> Option<Vec<u8>> {
        let is_any = !self.extra.borrow().is_empty();
        is_any.then(|| self.extra.take())
    }
}

impl LineTransport {
    pub(super) fn new(
        transport: &Transport,
        delimiter: &Delimiter,
        wake: Option<fn(&Transport)>,
    ) -> LineTransport {
        let shared =
            LineState { delimiter: delimiter.clone(), switch: ModeSwitch::default(), wake };
        LineTransport { transport: transport.clone(), shared: Rc::new(shared) }
    }

    #[inline]
    pub(super) fn switch(&self) -> &ModeSwitch {
        &self.shared.switch
    }

    /// Sends `line` and the delimiter; otherwise like [`write`](Transport::write). For the peer, a
    /// delimiter inside `line` ends a line.
    pub fn send_line(&self, line: impl AsRef<[u8]>) {
        self.write(line);
        self.write(self.shared.delimiter.as_slice());
    }

    /// Switches to raw mode: bytes after the current line go unchanged to
    /// [`raw_data_received`](LineProtocol::raw_data_received).
    ///
    /// Under a [`LineOnlyReceiver`] this fails the connection with [`FramingError::NoRawMode`].
    pub fn set_raw_mode(&self) {
        if self.has_raw_mode() {
            self.shared.switch.mode.set(Mode::Raw);
            hooks::set_in_message(self, true);
            self.wake();
        }
    }

    /// Switches back to line mode, starting with `extra`: normally the tail of the bytes lent to
    /// `raw_data_received`, which is not copied. Any other bytes are copied and parsed as if they
    /// had arrived after everything received so far.
    ///
    /// If [`set_raw_mode`](Self::set_raw_mode) follows, `extra` is delivered raw again, together
    /// with the bytes after it. A protocol can wait for more bytes this way.
    ///
    /// ```
    /// use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
    ///
    /// /// Receives bodies: a line with a length, then that many bytes.
    /// struct Bodies {
    ///     left: usize,
    /// }
    /// impl LineProtocol for Bodies {
    ///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
    ///         self.left = line.len(); // a real protocol would parse a number here
    ///         transport.set_raw_mode();
    ///     }
    ///     fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
    ///         let (body, rest) = data.split_at(self.left.min(data.len()));
    ///         transport.send_line(format!("{} bytes of a body", body.len()));
    ///         self.left -= body.len();
    ///         if self.left == 0 {
    ///             transport.set_line_mode(rest);
    ///         }
    ///     }
    /// }
    ///
    /// let mut held = couplet::testing::hold(LineReceiver::new(Bodies { left: 0 }));
    /// held.push(b"1234\r\nbody12\r\n");
    /// held.push(b"no");
    /// assert_eq!(held.wire.take(), b"4 bytes of a body\r\n2 bytes of a body\r\n");
    /// ```
    pub fn set_line_mode(&self, extra: &[u8]) {
        if !self.has_raw_mode() {
            return;
        }
        let switch = &self.shared.switch;
        switch.mode.set(Mode::Line);
        let (end, length) = switch.lent.get();
        if extra.len() <= length && extra.as_ptr_range().end as usize == end {
            switch.returned.set(extra.len());
        } else {
            switch.extra.borrow_mut().extend_from_slice(extra);
        }
        self.wake();
    }

    /// A handle that leads back to the protocol's `&mut self`, like [`Transport::connection`]; its
    /// calls get a `&LineTransport`.
    pub fn connection<P: 'static>(&self) -> Connection<P, LineTransport> {
        Connection::new(self.clone())
    }

    fn has_raw_mode(&self) -> bool {
        if self.shared.wake.is_none() {
            self.fail(FramingError::NoRawMode);
        }
        self.shared.wake.is_some()
    }

    fn wake(&self) {
        if let Some(wake) = self.shared.wake
            && !self.shared.switch.is_running.get()
        {
            wake(&self.transport);
        }
    }
}

impl AsRef<Transport> for LineTransport {
    fn as_ref(&self) -> &Transport {
        &self.transport
    }
}

impl Deref for LineTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}

/// Delivers the next line, in line mode. Inlining saves a call per line, worth 5 %
/// (`benches/framing.rs`).
#[inline(always)]
pub(super) fn next_line<P: LineProtocol>(
    protocol: &mut P,
    lines: &mut Lines,
    transport: &LineTransport,
    bytes: &[u8],
) -> Option<usize> {
    match lines.next(bytes) {
        NextPiece::Line(length) => {
            protocol.line_received(transport, &bytes[..length]);
            Some(length + lines.delimiter.len())
        }
        NextPiece::TooLong(length) => {
            lines.skipping = true;
            hooks::set_in_message(transport, true);
            protocol.line_length_exceeded(transport, &bytes[..length]);
            Some(length)
        }
        NextPiece::Rest(length) => {
            hooks::set_in_message(transport, true);
            Some(length)
        }
        NextPiece::LastRest(length) => {
            lines.skipping = false;
            hooks::set_in_message(transport, false);
            Some(length)
        }
        NextPiece::Incomplete => None,
    }
}
