//! One end of a connection that no driver serves: a pipe of a process, or a connection between two
//! programs of its host.

use std::io;

use couplet_core::Address;
use couplet_core::driver::{Adopted, CloseMode};

use super::driver::System;
use super::kernel::EndId;

/// The end, until a driver takes it; closed on drop.
struct Detached {
    system: System,
    end: Option<EndId>,
}

impl Drop for Detached {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            self.system.kernel.borrow_mut().close(end, CloseMode::Normal);
        }
    }
}

/// An end for a driver of this system's host to adopt, with the addresses of its peer and its own.
pub(super) fn adopted(system: &System, end: EndId, peer: Address, host: Address) -> Adopted {
    let detached = Detached { system: system.clone(), end: Some(end) };
    Adopted::new(peer, host, detached)
}

/// Takes the end that was adopted in this system.
pub(super) fn end_of(adopted: Adopted, system: &System) -> io::Result<EndId> {
    let foreign =
        || io::Error::new(io::ErrorKind::InvalidInput, "a connection of another driver's world");
    let mut detached = adopted.socket.downcast::<Detached>().map_err(|_| foreign())?;
    if detached.system.host != system.host {
        return Err(foreign());
    }
    detached.end.take().ok_or_else(foreign)
}
