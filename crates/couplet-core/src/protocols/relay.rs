//! [`Relay`]: joins two connections, passing half-closes, resets and backpressure from each to the
//! other. Twisted's `portforward`.
//!
//! Contract: 71a, 71d.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use crate::{Protocol, Reason, Transport, hooks};

/// One of two protocols that forward everything to each other. Created by [`Relay::pair`].
///
/// Each serves its own connection, set up in either order by a factory or by
/// [`Reactor::connect_protocol`](crate::Reactor::connect_protocol). Until both are made, reading
/// from the first is paused, so none of its peer's bytes are lost. Then
///
/// - bytes flow both ways. While more than 16 KiB wait for one side, reading from the other is paused:
///   at most that and one read is in memory per direction. [`Transport::set_write_marks`] sets
///   other marks, on connections that are made;
/// - one peer's FIN is passed on to the other peer, after all bytes before it; the other direction
///   stays open;
/// - a write error that ends only one direction ([`Transport::write_error`]), as of a program that
///   stops reading its input, drops the bytes for that peer; its own bytes still reach the other
///   peer, to their end;
/// - a reset, a timeout, a failed connect, the end of a [drain](crate::Reactor::drain) or any other
///   unclean end aborts the other connection, so that no peer mistakes a truncated stream for a
///   complete one. But a peer that is lost after the end of its stream, such as a server that
///   answers without reading the whole request, does not cost the other peer the rest of that
///   stream: while any of it is [unacknowledged](crate::hooks::unacknowledged), the other connection is
///   flushed and closed;
/// - if our side closes one connection with [`lose_connection`](Transport::lose_connection), the
///   other is flushed and closed too.
///
/// Once a peer has ended its stream, both connections are aborted when neither moves a byte for the
/// [half-close timeout](crate::transport::Timeout::HalfClose). A relay has no other timeouts; set them
/// with [`Timeout::Idle`](crate::transport::Timeout::Idle).
///
/// ```
/// use couplet::protocols::Relay;
/// # use couplet::{Protocol, Transport, testing::hold};
/// # struct Echo;
/// # impl Protocol for Echo {
/// #     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
/// #         transport.write(data);
/// #     }
/// # }
/// # fn main() -> couplet::Result<()> {
/// couplet::run(|reactor| {
///     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
///     let server = format!("tcp:{}", port.host().socket_addr().expect("a TCP port"));
///     let connecting = reactor.clone();
///     reactor.listen("tcp:0:interface=127.0.0.1", move || {
///         let (near, far) = Relay::pair();
///         connecting.connect_protocol(&server, far).detach();
///         near
///     })?;
/// #   reactor.stop();
///     Ok(())
/// })
/// # }
/// ```
///
/// A protocol that relays after its own handshake (SOCKS, CONNECT) is
/// [upgraded](crate::transport::Upgrade::with_unread) to a `Relay`, with the bytes after the handshake.
pub struct Relay {
    joint: Rc<Joint>,
    side: Side,
    /// The peer's stream was received to its end.
    is_complete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// State shared by both sides.
struct Joint {
    left: RefCell<SideState>,
    right: RefCell<SideState>,
}

enum SideState {
    /// The connection is not made yet.
    Awaited(Vec<u8>),
    Open(Transport),
    /// The connection has ended cleanly.
    Finished,
    /// The connection was cut off, so its stream may be truncated.
    Broken,
}

impl Relay {
    /// Two connected protocols, for two connections.
    pub fn pair() -> (Relay, Relay) {
        let end = || RefCell::new(SideState::Awaited(Vec::new()));
        let joint = Rc::new(Joint { left: end(), right: end() });
        let relay = |side| Relay { joint: joint.clone(), side, is_complete: false };
        (relay(Side::Left), relay(Side::Right))
    }

    /// The other side's transport, while it is open.
    pub fn other(&self) -> Option<Transport> {
        self.joint.transport(self.side.other())
    }

    /// Pauses reading until the other side has drained. This side is not registered as a producer
    /// there, because a close would then wait for it.
    fn pause(&self, transport: &Transport, other: &Transport) {
        transport.pause_producing();
        // Weak, because each side may wait for the other.
        let (joint, side) = (Rc::downgrade(&self.joint), self.side);
        let resume = move |_| {
            if let Some(transport) = joint.upgrade().and_then(|joint| joint.transport(side)) {
                transport.resume_producing();
            }
            Ok(())
        };
        other.writable().add_both(resume).detach();
    }

    fn end(&self, end: SideState) {
        drop(self.joint.end(self.side).replace(end));
    }
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

impl Joint {
    fn end(&self, side: Side) -> &RefCell<SideState> {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    fn transport(&self, side: Side) -> Option<Transport> {
        match &*self.end(side).borrow() {
            SideState::Open(transport) => Some(transport.clone()),
            SideState::Awaited(_) | SideState::Finished | SideState::Broken => None,
        }
    }
}

/// Reading from one side pauses when more bytes than the second number wait for the other, and resumes
/// at the first.
const MARKS: (usize, usize) = (8 * 1024, 16 * 1024);

impl Protocol for Relay {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_write_marks(MARKS.0, MARKS.1);
        let open = SideState::Open(transport.clone());
        if let SideState::Awaited(early) = self.joint.end(self.side).replace(open) {
            transport.write(early);
        }
        if let Some(other) = self.other() {
            hooks::share_progress(transport, &other);
            return other.resume_producing();
        }
        match &*self.joint.end(self.side.other()).borrow() {
            SideState::Finished => transport.lose_connection(),
            SideState::Broken => transport.abort_connection(),
            SideState::Awaited(_) | SideState::Open(_) => transport.pause_producing(),
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match &mut *self.joint.end(self.side.other()).borrow_mut() {
            SideState::Awaited(early) => early.extend_from_slice(data),
            SideState::Open(other) => {
                other.write(data);
                if other.is_full() {
                    self.pause(transport, other);
                }
            }
            SideState::Finished | SideState::Broken => {}
        }
    }

    fn read_closed(&mut self, _: &Transport) {
        self.is_complete = true;
        if let Some(other) = self.other() {
            other.lose_write_connection();
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        // After an error of our direction, the peer's stream is still whole.
        let clean = reason.is_clean() || self.is_complete && transport.write_error().is_some();
        self.end(if clean { SideState::Finished } else { SideState::Broken });
        let Some(other) = self.other() else { return };
        match reason {
            // The reactor's stop also ends and flushes the other side; a drain does not.
            Reason::Shutdown if transport.reactor().is_stopping() => {}
            _ if clean => other.lose_connection(),
            // A reset would drop the rest of a whole stream.
            Reason::Lost(_) if self.is_complete && hooks::unacknowledged(&other) > 0 => {
                other.lose_connection();
            }
            _ => other.abort_connection(),
        }
    }
}

impl Drop for Relay {
    /// A side without a connection will never get one: its connect failed.
    fn drop(&mut self) {
        if matches!(&*self.joint.end(self.side).borrow(), SideState::Awaited(_)) {
            self.end(SideState::Broken);
            if let Some(other) = self.other() {
                other.abort_connection();
            }
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = |side| self.joint.transport(side);
        f.debug_struct("Relay")
            .field("transport", &transport(self.side))
            .field("other", &transport(self.side.other()))
            .finish()
    }
}
