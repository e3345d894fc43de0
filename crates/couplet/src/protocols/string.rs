//! [`StringProtocol`]: what is given the strings of a framer with lengths, and the
//! [`StringTransport`] that it answers on.

use std::any::{Any, TypeId};
use std::ops::Deref;

use super::error::StringTooLong;
use super::int::{Prefix, put_length};
use super::netstring::Header;
use crate::{Connection, Reason, Transport};

/// A limit that a header's length can be added to. No buffer is larger.
pub(super) fn most(bytes: usize) -> usize {
    bytes.min(isize::MAX.unsigned_abs())
}

/// What is given whole strings, by a [`NetstringReceiver`](super::NetstringReceiver) or an
/// [`IntReceiver`](super::IntReceiver): the same object serves under each.
///
/// Its other callbacks are those of a [`Protocol`](crate::Protocol), under the same names.
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
    /// The connection was made; the first call.
    fn connection_made(&mut self, _transport: &StringTransport) {}

    /// A whole string came. It is lent for the time of the call.
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]);

    /// The connection is gone; the last call, and it comes exactly once.
    fn connection_lost(&mut self, _transport: &StringTransport, _reason: &Reason) {}

    /// The peer has no more to send. Of a string that was cut off by that nothing is told. Unless
    /// you say otherwise the connection is closed.
    fn read_closed(&mut self, transport: &StringTransport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): all has left.
    fn write_closed(&mut self, _transport: &StringTransport) {}

    /// Reading was resumed after a pause; called before the strings that were held.
    fn reading_resumed(&mut self, _transport: &StringTransport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &StringTransport) {}

    /// A protocol that wraps others shows them here.
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

/// What stands around a string.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Netstring,
    /// A length of so many bytes that counts to `max`.
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

    /// Sends `string` as one message, like [`write`](Transport::write) otherwise. The limit of
    /// what is received does not count here.
    ///
    /// # Errors
    ///
    /// When its length does not fit into the prefix of an [`IntReceiver`](super::IntReceiver);
    /// nothing is written. A netstring can be of any length.
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

    /// The way back to the protocol's `&mut self`, as [`Transport::connection`] gives it; its calls
    /// get a `&StringTransport`.
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
