//! The [`Protocol`]: what you write.
//!
//! Twisted's `IProtocol` and `IHalfCloseableProtocol`.

use std::any::{Any, TypeId};

use crate::error::Reason;
use crate::transport::Transport;

/// What to do when a connection is made, when bytes arrive, when it is lost.
///
/// One object speaks on one connection, and never sees a socket: the same object runs over every
/// transport and driver, and in a test in memory. All but
/// [`data_received`](Self::data_received) have a default.
///
/// The loop calls these one at a time and from one place; whatever you ask of the transport inside
/// one is recorded and done afterwards. Callbacks return nothing: what goes wrong inside one is
/// [`transport.fail(error)`](Transport::fail) or a panic; either loses this connection alone, with
/// it as the reason.
///
/// ```
/// use couplet::{Protocol, Reason, Transport};
///
/// /// Counts what it is sent, and says so when the peer has no more to send.
/// #[derive(Default)]
/// struct Counter {
///     bytes: usize,
/// }
///
/// impl Protocol for Counter {
///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
///         self.bytes += data.len();
///     }
///     fn read_closed(&mut self, transport: &Transport) {
///         transport.write(format!("{} bytes\n", self.bytes));
///         transport.lose_connection();
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Protocol`",
    label = "does not implement `Protocol`",
    note = "a `LineProtocol` needs a framer around it: `LineReceiver::new(…)` makes a `Protocol` of it, and `NetstringReceiver::new(…)` or `IntReceiver::new(…)` of a `StringProtocol`"
)]
pub trait Protocol: Any {
    /// The connection was made; the first call.
    fn connection_made(&mut self, _transport: &Transport) {}

    /// Bytes arrived: at least one, cut anywhere. They are lent for the time of the call.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// The connection is gone; the last call, and it comes exactly once.
    fn connection_lost(&mut self, _transport: &Transport, _reason: &Reason) {}

    /// The peer has no more to send (a FIN came, after all its bytes). We may still write. Unless
    /// you say otherwise the connection is closed, after what was written has left.
    fn read_closed(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): all has left, the FIN
    /// too. We may still read.
    fn write_closed(&mut self, _transport: &Transport) {}

    /// Reading was resumed after a pause; called before any new byte. A framer gives out here what
    /// it held.
    fn reading_resumed(&mut self, _transport: &Transport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &Transport) {}

    /// A protocol that wraps others shows them here: the one of this type, if it is inside.
    /// [`Transport::connection`] finds it by this.
    fn find(&mut self, _type: TypeId) -> Option<&mut dyn Any> {
        None
    }
}
