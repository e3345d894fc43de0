//! [`StringProtocol`], which receives length-prefixed strings, and its [`StringTransport`], which
//! sends them.
//!
//! Contract: 168.

use std::any::{Any, TypeId};
use std::ops::Deref;

use super::Decoded;
use super::error::{FramingError, StringTooLong};
use super::int::{Prefix, put_length};
use super::netstring::Header;

use crate::{Connection, HandOver, Reason, Transport};

/// Caps a limit so that adding a header's length can't overflow. No buffer can be larger.
pub(super) fn cap_limit(bytes: usize) -> usize {
    bytes.min(isize::MAX.unsigned_abs())
}

/// The common part of [`step`](super::Framer::step): delivers the string decoded from `bytes`, or
/// fails the transport.
#[inline]
pub(super) fn deliver(
    protocol: &mut impl StringProtocol,
    transport: &StringTransport,
    bytes: &[u8],
    decoded: Result<Option<Decoded<'_>>, FramingError>,
) -> Option<usize> {
    match decoded {
        Ok(found) => {
            let (string, rest) = found?;
            protocol.string_received(transport, string);
            Some(bytes.len() - rest.len())
        }
        Err(error) => {
            transport.fail(error);
            None
        }
    }
}

/// A protocol that receives complete strings from a [`NetstringReceiver`](super::NetstringReceiver)
/// or an [`IntReceiver`](super::IntReceiver): the same object works with either.
///
/// The other callbacks have the same names and meanings as in [`Protocol`](crate::Protocol).
///
/// ```
/// use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport};
/// use couplet::testing::hold;
///
/// struct Echo;
/// impl StringProtocol for Echo {
///     fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
///         if let Err(too_long) = transport.send_string(string) {
///             transport.fail(too_long);
///         }
///     }
/// }
///
/// let mut held = hold(NetstringReceiver::new(Echo));
/// held.push(b"5:hello,0:,");
/// assert_eq!(held.wire.take(), b"5:hello,0:,");
/// ```
pub trait StringProtocol: Any {
    /// The connection was made. This is the first call.
    fn connection_made(&mut self, _transport: &StringTransport) {}

    /// A complete string arrived, borrowed for the call only.
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]);

    /// A descriptor arrived on a UNIX socket. Strings in the bytes that it came with are delivered
    /// later, as are strings held back by a pause. The default closes it.
    #[cfg(unix)]
    fn descriptor_received(
        &mut self,
        _transport: &StringTransport,
        descriptor: std::os::fd::OwnedFd,
    ) {
        drop(descriptor);
    }

    /// The connection was lost. This is the last call, and it is made exactly once.
    fn connection_lost(&mut self, _transport: &StringTransport, _reason: &Reason) {}

    /// The peer shut down its write side. An incomplete last string is not delivered. The default
    /// closes the connection.
    fn read_closed(&mut self, transport: &StringTransport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): everything written and
    /// the FIN have been sent.
    fn write_closed(&mut self, _transport: &StringTransport) {}

    /// The server is shutting down and asks this connection to finish and close: see
    /// [`Protocol::draining`](crate::Protocol::draining). The default does nothing.
    fn draining(&mut self, _transport: &StringTransport) {}

    /// Reading was resumed after a pause. Called before the held strings are delivered.
    fn reading_resumed(&mut self, _transport: &StringTransport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &StringTransport) {}

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

/// A [`Transport`] that sends strings in the framing of its connection; cheap to clone and to keep.
#[derive(Clone, Debug)]
pub struct StringTransport {
    transport: Transport,
    format: Format,
}

/// The framing around a string.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Netstring,
    /// A length prefix of `size` bytes that holds at most `max`.
    Int {
        size: usize,
        max: usize,
    },
}

impl Format {
    pub(super) fn int<N: Prefix>() -> Format {
        Format::Int { size: N::SIZE, max: N::MAX }
    }
}

impl StringTransport {
    pub(super) fn new(transport: &Transport, format: Format) -> StringTransport {
        StringTransport { transport: transport.clone(), format }
    }

    /// Sends `string` as one message; otherwise like [`write`](Transport::write). The receive
    /// limit does not apply.
    ///
    /// # Errors
    ///
    /// If its length does not fit in the prefix of an [`IntReceiver`](super::IntReceiver);
    /// nothing is written. A netstring can have any length.
    pub fn send_string(&self, string: impl AsRef<[u8]>) -> Result<(), StringTooLong> {
        let string = string.as_ref();
        match self.format {
            Format::Netstring => {
                self.write(Header::new(string.len()));
                self.write(string);
                self.write(b",");
            }
            Format::Int { size, max } => {
                self.write(&put_length(string.len(), max)?[8 - size..]);
                self.write(string);
            }
        }
        Ok(())
    }

    /// A handle that leads back to the protocol's `&mut self`, like [`Transport::connection`]; its
    /// calls get a `&StringTransport`.
    pub fn connection<P: 'static>(&self) -> Connection<P, StringTransport> {
        Connection::new(self.clone())
    }
}

impl AsRef<Transport> for StringTransport {
    fn as_ref(&self) -> &Transport {
        &self.transport
    }
}

impl Deref for StringTransport {
    type Target = Transport;

    fn deref(&self) -> &Transport {
        &self.transport
    }
}
