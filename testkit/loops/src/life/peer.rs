//! The raw peer of a life: the other end of the wire, in clear or speaking TLS.

use couplet::Reason;
use couplet::testing::Wire;

use crate::sealed::{Raw, Sealed};

/// All counts are bytes of the streams. Over TLS these are plaintext: the number of bytes on the
/// wire is not checked, and `pump` sends the rest of a record that did not fit into the network.
pub(super) struct Peer {
    wire: Wire,
    sealed: Option<Sealed>,
}

impl Peer {
    pub(super) fn new(wire: Wire, sealed: Option<Sealed>) -> Peer {
        Peer { wire, sealed }
    }

    /// Sends a header below TLS, outside of the stream.
    pub(super) fn push_below(&self, header: &[u8]) -> usize {
        self.wire.try_push(header).expect("it is open")
    }

    /// Continues the handshake, and sends the bytes that did not fit.
    pub(super) fn pump(&mut self) {
        if let Some(sealed) = &mut self.sealed {
            sealed.pump(&self.wire);
        }
    }

    /// Sends as many bytes as fit; `None` on a broken connection.
    pub(super) fn send(&mut self, data: &[u8]) -> Option<usize> {
        match &mut self.sealed {
            Some(sealed) if !self.wire.saw_reset() => Some(sealed.send(&self.wire, data)),
            Some(_) => None,
            None => self.wire.send(data),
        }
    }

    /// Takes at most `n` bytes; over TLS, the plaintext of `n` bytes of the wire, or of more bytes
    /// if these contain none.
    pub(super) fn take(&mut self, n: usize) -> Vec<u8> {
        match &mut self.sealed {
            Some(sealed) => sealed.take(&self.wire, n).0,
            None => self.wire.take_most(n),
        }
    }

    /// Ends the peer's stream.
    pub(super) fn fin(&mut self) {
        match &mut self.sealed {
            Some(sealed) => sealed.fin(&self.wire),
            None => self.wire.fin(),
        }
    }

    /// Sends a FIN after the bytes sent so far, over TLS without a close_notify.
    pub(super) fn cut(&mut self) {
        self.wire.fin();
    }

    /// Closes as `close(2)` does. Over TLS this truncates the stream.
    pub(super) fn close(&mut self) {
        self.wire.close();
    }

    pub(super) fn reset(&mut self) {
        self.wire.reset();
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Whether bytes are waiting to be taken.
    pub(super) fn has_waiting(&self) -> bool {
        self.wire.waiting() + self.sealed.as_ref().map_or(0, Sealed::waiting) > 0
    }

    pub(super) fn saw_fin(&self) -> bool {
        self.wire.saw_fin()
    }

    /// Whether the near end's stream has ended properly: with a FIN, over TLS with a close_notify.
    pub(super) fn saw_the_end(&self) -> bool {
        self.sealed.as_ref().map_or(self.wire.saw_fin(), Sealed::heard_goodbye)
    }

    pub(super) fn saw_reset(&self) -> bool {
        self.wire.saw_reset()
    }

    /// The error in the near end's TLS, if any.
    pub(super) fn failure(&self) -> Option<&Reason> {
        self.sealed.as_ref().and_then(Sealed::failure)
    }

    /// Whether the near end has closed its socket.
    pub(super) fn is_closed(&self) -> bool {
        self.wire.is_closed()
    }
}
