//! The [`Protocol`] trait, which you implement.
//!
//! Twisted's `IProtocol` and `IHalfCloseableProtocol`.
//!
//! Contract: 58, 59, 105a, 162.

use std::any::{Any, TypeId, type_name};
use std::borrow::Cow;
#[cfg(unix)]
use std::os::fd::OwnedFd;

use crate::error::Reason;
use crate::transport::Transport;

/// The callbacks of a connection: when it is made, when bytes arrive, and when it is lost.
///
/// Each object serves one connection and never sees a socket: the same object runs over every
/// transport and driver, and in memory in a test. Every method but
/// [`data_received`](Self::data_received) has a default.
///
/// The loop makes the calls one at a time and from one place; requests to the transport during a
/// call are recorded and carried out afterwards. Callbacks return nothing: signal an error with
/// [`transport.fail(error)`](Transport::fail). An error or a panic ends only this connection, with
/// the error or panic as the reason.
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
pub trait Protocol: Any + Named {
    /// The connection was made. This is the first call.
    fn connection_made(&mut self, _transport: &Transport) {}

    /// Bytes arrived, borrowed for the call only: at least one, split at arbitrary points.
    fn data_received(&mut self, transport: &Transport, data: &[u8]);

    /// The connection was lost. This is the last call, and it is made exactly once.
    fn connection_lost(&mut self, _transport: &Transport, _reason: &Reason) {}

    /// The peer shut down its write side (FIN); all its bytes have been delivered. We may still
    /// write. The default closes the connection once everything written has been sent.
    fn read_closed(&mut self, transport: &Transport) {
        transport.lose_connection();
    }

    /// After [`lose_write_connection`](Transport::lose_write_connection): everything written and
    /// the FIN have been sent. We may still read.
    ///
    /// Also called when a write error ends only our direction, as when a program closes its input:
    /// unsent output is dropped, and [`Transport::write_error`] returns the error.
    fn write_closed(&mut self, _transport: &Transport) {}

    /// The server is shutting down and asks this connection to finish its work and then close;
    /// called once, at any time ([`Reactor::drain`](crate::Reactor::drain)). The default does
    /// nothing, and the connection is closed at the deadline. Also called when the loop stops without
    /// a drain: then the connection closes immediately, and only output written in this call leaves.
    fn draining(&mut self, _transport: &Transport) {}

    /// Reading was resumed after a pause. Called before any new bytes are delivered. A framer
    /// delivers its held messages here.
    fn reading_resumed(&mut self, _transport: &Transport) {}

    /// The callbacks for special connections, if the protocol has any: `Some(self)` in a protocol that
    /// implements [`ProtocolExtension`]. Called before each of them.
    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        None
    }
}

/// Callbacks that few protocols need: for TLS, for descriptors, for protocols that continue in another
/// process, and for wrappers. A protocol returns itself in [`Protocol::extension`].
///
/// A wrapper that implements [`inner`](Self::inner) passes all of them on, unless it implements them.
///
/// ```
/// use couplet::{Protocol, ProtocolExtension, Transport};
///
/// /// Counts the bytes of any protocol.
/// struct Counted<P> {
///     protocol: P,
///     bytes: usize,
/// }
///
/// impl<P: Protocol> Protocol for Counted<P> {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         self.bytes += data.len();
///         self.protocol.data_received(transport, data);
///     }
///     // … and the other callbacks.
///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
///         Some(self)
///     }
/// }
///
/// impl<P: Protocol> ProtocolExtension for Counted<P> {
///     fn inner(&mut self) -> Option<&mut dyn Protocol> {
///         Some(&mut self.protocol)
///     }
/// }
/// ```
pub trait ProtocolExtension {
    /// The protocol inside of a wrapper. `None` by default.
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        None
    }

    /// The secure handshake is complete. Called on secure transports only.
    fn handshake_completed(&mut self, transport: &Transport) {
        if let Some(inner) = self.inner() {
            inner.handshake_completed(transport);
        }
    }

    /// A descriptor arrived on a UNIX socket, with the bytes of the next
    /// [`data_received`](Protocol::data_received). Unless the protocol takes it, it is closed.
    /// Twisted's `fileDescriptorReceived`.
    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        if let Some(inner) = self.inner() {
            inner.descriptor_received(transport, descriptor);
        }
    }

    /// Returns the inner protocol of this type, for a protocol that wraps others; `None` if it has
    /// no such protocol. [`Transport::connection`] uses it.
    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        self.inner()?.find_or_self(wanted)
    }

    /// The name of the protocol's type, for people who read logs and snapshots. A wrapper of any
    /// protocol may return the name of the protocol inside.
    fn type_name(&mut self) -> &'static str {
        type_name::<Self>()
    }

    /// An [upgrade](Transport::upgrade) to `next` replaces this protocol with the returned one,
    /// which receives `unread` first. This protocol is dropped after the call. The default returns
    /// `next`.
    ///
    /// A framer appends its held bytes to `unread`. A wrapper that should last as long as the
    /// connection calls `upgraded` of its inner protocol, and wraps the result.
    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        match self.inner() {
            Some(inner) => inner.upgraded(next, unread),
            None => next,
        }
    }

    /// Another process can continue the connection: a restarted program, with a protocol made from
    /// the returned value. After that value this protocol gets no further call: it is dropped, without
    /// `connection_lost`, and has to cancel calls that would write later. `None`, the default,
    /// refuses, and the connection stays.
    ///
    /// The loop moves the socket, the settings, unsent output, and unread input. A framer adds the
    /// bytes that it holds back. The other process sets the limits of wrappers again. Called by
    /// [`Reactor::hand_over`](crate::Reactor::hand_over).
    fn hand_over(&mut self) -> Option<HandOver> {
        self.inner()?.hand_over()
    }
}

/// The name of any type, which a trait object gives too.
pub trait Named {
    /// The name of the type.
    fn own_type_name(&self) -> &'static str;
}

// Not for `dyn Protocol`, which has the name of the type inside.
impl<T> Named for T {
    fn own_type_name(&self) -> &'static str {
        type_name::<T>()
    }
}

/// The callbacks of an [extension](ProtocolExtension), with the defaults of a protocol without one.
impl dyn Protocol {
    /// See [`ProtocolExtension::handshake_completed`].
    pub fn handshake_completed(&mut self, transport: &Transport) {
        if let Some(extension) = self.extension() {
            extension.handshake_completed(transport);
        }
    }

    /// See [`ProtocolExtension::descriptor_received`].
    #[cfg(unix)]
    pub fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        if let Some(extension) = self.extension() {
            extension.descriptor_received(transport, descriptor);
        }
    }

    /// This protocol, or the one of this type inside it.
    pub(crate) fn find_or_self(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        // Checked first: a borrow returned from one arm would be held in the other.
        if (self as &dyn Any).type_id() == wanted {
            return Some(self as &mut dyn Any);
        }
        self.extension()?.find(wanted)
    }

    /// See [`ProtocolExtension::type_name`].
    pub fn type_name(&mut self) -> &'static str {
        // Taken first, for the same reason.
        let own = Named::own_type_name(&*self);
        self.extension().map_or(own, |extension| extension.type_name())
    }

    /// See [`ProtocolExtension::upgraded`].
    pub fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        match self.extension() {
            Some(extension) => extension.upgraded(next, unread),
            None => next,
        }
    }

    /// See [`ProtocolExtension::hand_over`].
    pub fn hand_over(&mut self) -> Option<HandOver> {
        self.extension()?.hand_over()
    }
}

/// The state of a protocol, for the protocol that continues its connection in another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandOver {
    kind: Cow<'static, str>,
    state: Vec<u8>,
    unread: Vec<u8>,
}

impl HandOver {
    /// Most bytes of a state.
    pub const MOST: usize = 64 * 1024;
    /// Most bytes of a kind.
    pub const MOST_KIND: usize = 256;

    /// A state in any form, with the kind by which the other process chooses a protocol. `None`, so
    /// that the connection stays, if they are longer than
    /// [`MOST_KIND`](Self::MOST_KIND) and [`MOST`](Self::MOST).
    pub fn new(kind: impl Into<Cow<'static, str>>, state: impl Into<Vec<u8>>) -> Option<HandOver> {
        let (kind, state) = (kind.into(), state.into());
        let fits = kind.len() <= HandOver::MOST_KIND && state.len() <= HandOver::MOST;
        fits.then(|| HandOver { kind, state, unread: Vec::new() })
    }

    /// Adds bytes that the protocol has received and not used, ahead of those that were added before:
    /// the next protocol gets them first.
    #[must_use]
    pub fn with_unread(mut self, bytes: impl Into<Vec<u8>>) -> HandOver {
        let mut unread = bytes.into();
        unread.append(&mut self.unread);
        self.unread = unread;
        self
    }

    /// Adds bytes after those that were added before.
    pub(crate) fn append_unread(&mut self, bytes: &mut Vec<u8>) {
        self.unread.append(bytes);
    }

    /// The kind, the state, and the unread bytes.
    pub(crate) fn into_parts(self) -> (String, Vec<u8>, Vec<u8>) {
        (self.kind.into_owned(), self.state, self.unread)
    }
}

/// For factories that build several types of protocol.
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

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Box<dyn Protocol> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut **self)
    }

    fn type_name(&mut self) -> &'static str {
        (**self).type_name()
    }
}
