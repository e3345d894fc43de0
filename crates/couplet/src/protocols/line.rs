//! [`LineProtocol`]: what is given lines, and the [`LineTransport`] that it answers on.

use std::any::{Any, TypeId};
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;

use super::delimiter::{Delimiter, Lines, Next};
use super::error::FramingError;
#[cfg(doc)]
use super::{LineOnlyReceiver, LineReceiver};
#[cfg(doc)]
use crate::Protocol;
use crate::{Connection, Reason, Transport};

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

/// What is given whole lines, by a [`LineReceiver`] or a [`LineOnlyReceiver`].
///
/// Its other callbacks are those of a [`Protocol`], under the same names.
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
/// By itself it is no [`Protocol`], and the compiler says what is missing:
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
    /// The connection was made; the first call.
    fn connection_made(&mut self, _transport: &LineTransport) {}

    /// A whole line came; its delimiter is taken off. It is lent for the time of the call.
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]);

    /// In raw mode: bytes came, at least one, cut anywhere. To go back to lines give what is not
    /// yours to [`set_line_mode`](LineTransport::set_line_mode).
    fn raw_data_received(&mut self, _transport: &LineTransport, _data: &[u8]) {}

    /// A line is longer than the limit; `beginning` is its first `limit + 1` bytes. Unless you say
    /// otherwise the connection fails with [`FramingError::LineTooLong`]. Where you let it live,
    /// the rest of the line is thrown away; where you set raw mode, it comes raw.
    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        transport.fail(FramingError::LineTooLong { limit: beginning.len() - 1 });
    }

    /// The connection is gone; the last call, and it comes exactly once.
    fn connection_lost(&mut self, _transport: &LineTransport, _reason: &Reason) {}

    /// The peer has no more to send. Of a line without its end nothing is told. Unless you say
    /// otherwise the connection is closed.
    fn read_closed(&mut self, transport: &LineTransport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): all has left.
    fn write_closed(&mut self, _transport: &LineTransport) {}

    /// Reading was resumed after a pause; called before the lines that were held.
    fn reading_resumed(&mut self, _transport: &LineTransport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &LineTransport) {}

    /// A protocol that wraps others shows them here.
    fn find(&mut self, _type: TypeId) -> Option<&mut dyn Any> {
        None
    }
}

/// A [`Transport`] that sends lines, and switches its receiver to raw mode and back; cheap to
/// clone and to keep.
#[derive(Clone, Debug)]
pub struct LineTransport {
    transport: Transport,
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    delimiter: Delimiter,
    mode: Mode,
    /// Has the receiver called by the turn, to act on what changed outside of its callbacks; none
    /// where there is no raw mode.
    wake: Option<fn(&Transport)>,
}

/// What a transport records and its receiver acts on.
#[derive(Debug, Default)]
pub(super) struct Mode {
    raw: Cell<bool>,
    /// The receiver is at work: it sees by itself what changes.
    at_work: Cell<bool>,
    /// Where in memory the bytes end that `raw_data_received` was lent, and how many they are.
    lent: Cell<(usize, usize)>,
    /// How many of them were given back.
    back: Cell<usize>,
    /// Other bytes to be taken as lines. Law 9: the user's own.
    extra: RefCell<Vec<u8>>,
}

impl Mode {
    #[inline]
    pub(super) fn is_raw(&self) -> bool {
        self.raw.get()
    }

    #[inline]
    pub(super) fn set_at_work(&self, at_work: bool) {
        self.at_work.set(at_work);
    }

    /// Has `raw_data_received` called with `bytes`; how many it took.
    pub(super) fn lend(&self, bytes: &[u8], raw_data_received: impl FnOnce()) -> usize {
        self.lent.set((bytes.as_ptr_range().end as usize, bytes.len()));
        raw_data_received();
        self.lent.set((0, 0));
        bytes.len() - self.back.take()
    }

    /// What else is to be taken as if it had come.
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
        let shared = Shared { delimiter: delimiter.clone(), mode: Mode::default(), wake };
        LineTransport { transport: transport.clone(), shared: Rc::new(shared) }
    }

    #[inline]
    pub(super) fn mode(&self) -> &Mode {
        &self.shared.mode
    }

    /// Sends `line` and the delimiter, like [`write`](Transport::write) otherwise. A delimiter
    /// inside of `line` ends a line there, for the peer.
    pub fn send_line(&self, line: impl AsRef<[u8]>) {
        self.write(line);
        self.write(self.shared.delimiter.as_slice());
    }

    /// From now on bytes come as they are, to
    /// [`raw_data_received`](LineProtocol::raw_data_received): first what came behind the line
    /// that is being received.
    ///
    /// Under a [`LineOnlyReceiver`] this fails the connection with [`FramingError::NoRawMode`].
    pub fn set_raw_mode(&self) {
        if self.has_raw_mode() {
            self.shared.mode.raw.set(true);
            self.wake();
        }
    }

    /// From now on lines come again: first those in `extra`, which is the end of what
    /// `raw_data_received` was lent, and is not copied. Any other bytes are copied, and taken as
    /// if they had come after all that came.
    ///
    /// With [`set_raw_mode`](Self::set_raw_mode) behind it, `extra` comes raw once more, together
    /// with what follows: a way to wait for enough bytes.
    ///
    /// ```
    /// use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
    ///
    /// /// Speaks of bodies: a line with a length, then so many bytes.
    /// struct Bodies {
    ///     left: usize,
    /// }
    /// impl LineProtocol for Bodies {
    ///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
    ///         self.left = line.len(); // a real one reads a number here
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
        let mode = &self.shared.mode;
        mode.raw.set(false);
        let (end, length) = mode.lent.get();
        if extra.len() <= length && extra.as_ptr_range().end as usize == end {
            mode.back.set(extra.len());
        } else {
            mode.extra.borrow_mut().extend_from_slice(extra);
        }
        self.wake();
    }

    /// The way back to the protocol's `&mut self`, as [`Transport::connection`] gives it; its calls
    /// get a `&LineTransport`.
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
            && !self.shared.mode.at_work.get()
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

/// Hands on the next line, in line mode. A call for each line is worth 5 % (`benches/framing.rs`).
#[inline(always)]
pub(super) fn next_line<P: LineProtocol>(
    protocol: &mut P,
    lines: &mut Lines,
    transport: &LineTransport,
    bytes: &[u8],
) -> Option<usize> {
    match lines.next(bytes) {
        Next::Line(length) => {
            protocol.line_received(transport, &bytes[..length]);
            Some(length + lines.delimiter.len())
        }
        Next::TooLong(length) => {
            lines.skipping = true;
            protocol.line_length_exceeded(transport, &bytes[..length]);
            Some(length)
        }
        Next::Rest { length, ended } => {
            lines.skipping = !ended;
            Some(length)
        }
        Next::Incomplete => None,
    }
}
