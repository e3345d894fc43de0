//! The two halves of a stream.

use std::fmt;
use std::rc::Rc;

use super::shared::{SharedStream, StreamHandle};
use crate::Transport;

/// The reading half of a [`Stream`](super::Stream), from its [`split`](super::Stream::split).
pub struct ReadHalf {
    owner: Rc<StreamHandle>,
}

/// The writing half of a [`Stream`](super::Stream), from its [`split`](super::Stream::split).
/// Dropping it ends our side of the stream after all output was sent.
pub struct WriteHalf {
    owner: Rc<StreamHandle>,
}

pub(super) fn split(owner: Rc<StreamHandle>) -> (ReadHalf, WriteHalf) {
    (ReadHalf { owner: owner.clone() }, WriteHalf { owner })
}

impl ReadHalf {
    pub(super) fn shared(&self) -> &SharedStream {
        &self.owner.0
    }

    /// The transport underneath.
    pub fn transport(&self) -> &Transport {
        &self.shared().transport
    }
}

impl ReadHalf {
    /// See [`Stream::draining`](super::Stream::draining).
    pub fn draining(&self) -> impl Future<Output = ()> + use<> {
        self.shared().draining()
    }
}

impl WriteHalf {
    pub(super) fn shared(&self) -> &SharedStream {
        &self.owner.0
    }

    /// The transport underneath.
    pub fn transport(&self) -> &Transport {
        &self.shared().transport
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.transport().lose_write_connection();
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf").field("peer", self.transport().peer()).finish_non_exhaustive()
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf").field("peer", self.transport().peer()).finish_non_exhaustive()
    }
}
