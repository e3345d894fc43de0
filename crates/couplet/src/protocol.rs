//! The [`Protocol`] trait, which you implement.
//!
//! Twisted's `IProtocol` and `IHalfCloseableProtocol`.

use std::any::{Any, TypeId};
#[cfg(unix)]
use std::os::fd::OwnedFd;

use crate::error::Reason;
use crate::transport::Transport;

/// What to do when a connection is made, when bytes arrive, and when it is lost.
///
/// Each object serves one connection and never sees a socket: the same object runs over every
/// transport and driver, and in memory in a test. Every method but
/// [`data_received`](Self::data_received) has a default.
///
/// The loop calls these one at a time and from one place; requests to the transport inside one are
/// recorded and carried out afterwards. Callbacks return nothing: signal an error with
/// [`transport.fail(error)`](Transport::fail). That or a panic loses only this connection, with the
/// error or panic as the reason.
///
/// ```
/// use couplet::{Protocol, Reason, Transport};
///
/// /// Counts the bytes it receives, and reports the count when the peer shuts down its write side.
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
pub trait Protocol: Any + TypeName {
    /// The connection was made; the first call.
    fn connection_made(&mut self, _transport: &Transport) {}

    /// Bytes arrived: at least one, split at arbitrary points. They are borrowed for the call only.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// A descriptor arrived on a UNIX socket, with the bytes of the next
    /// [`data_received`](Self::data_received). The default closes it. Twisted's
    /// `fileDescriptorReceived`.
    #[cfg(unix)]
    fn descriptor_received(&mut self, _transport: &Transport, descriptor: OwnedFd) {
        drop(descriptor);
    }

    /// The connection is gone. This is the last call, and it is made exactly once.
    fn connection_lost(&mut self, _transport: &Transport, _reason: &Reason) {}

    /// The peer shut down its write side (FIN); all its bytes have been delivered. We may still
    /// write. The default closes the connection once everything written has left.
    fn read_closed(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): everything written and
    /// the FIN have left. We may still read.
    fn write_closed(&mut self, _transport: &Transport) {}

    /// The server is about to end, and asks this connection to finish what it has begun and then to
    /// close; called once, at any time ([`Reactor::drain`](crate::Reactor::drain)). The default does
    /// nothing: then the connection is closed when its time is up.
    fn draining(&mut self, _transport: &Transport) {}

    /// Reading was resumed after a pause; called before any new bytes. A framer delivers the
    /// messages it held back here.
    fn reading_resumed(&mut self, _transport: &Transport) {}

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, _transport: &Transport) {}

    /// A protocol that wraps others exposes them here: returns the inner protocol of this type, if
    /// there is one. [`Transport::connection`] uses it.
    fn find(&mut self, _type: TypeId) -> Option<&mut dyn Any> {
        None
    }

    /// An [upgrade](Transport::upgrade) puts `next` in the place of this protocol, which is dropped
    /// after this call. What is returned takes the place, and is given `unread` first: unless you
    /// say otherwise `next` as it is.
    ///
    /// A framer adds to `unread` what it holds. A wrapper that is to last as long as the connection
    /// passes the call on, and puts itself around the result.
    fn upgraded(&mut self, next: Box<dyn Protocol>, _unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        next
    }
}

/// For factories that build several kinds.
///
/// ```
/// use couplet::{Address, Protocol, Transport};
///
/// # struct Ours;
/// # impl Protocol for Ours { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
/// # struct Theirs;
/// # impl Protocol for Theirs { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
/// # fn example(reactor: &couplet::Reactor) -> couplet::Result<()> {
/// reactor.listen("tcp:8000", |peer: &Address| -> Option<Box<dyn Protocol>> {
///     let is_ours = peer.ip()?.is_loopback();
///     Some(if is_ours { Box::new(Ours) } else { Box::new(Theirs) })
/// })?;
/// # Ok(())
/// # }
/// ```
impl Protocol for Box<dyn Protocol> {
    fn connection_made(&mut self, transport: &Transport) {
        (**self).connection_made(transport);
    }

    #[inline]
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        (**self).data_received(transport, data);
    }

    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        (**self).descriptor_received(transport, descriptor);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        (**self).connection_lost(transport, reason);
    }

    fn read_closed(&mut self, transport: &Transport) {
        (**self).read_closed(transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        (**self).write_closed(transport);
    }

    fn draining(&mut self, transport: &Transport) {
        (**self).draining(transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        (**self).reading_resumed(transport);
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        (**self).handshake_completed(transport);
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        if (**self).type_id() == wanted {
            return Some(&mut **self as &mut dyn Any);
        }
        (**self).find(wanted)
    }

    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        (**self).upgraded(next, unread)
    }
}

/// The name of a type behind a `dyn Protocol`, for messages.
pub trait TypeName {
    #[doc(hidden)]
    fn type_name(&self) -> &'static str;
}

impl<T> TypeName for T {
    fn type_name(&self) -> &'static str {
        std::any::type_name::<T>()
    }
}
