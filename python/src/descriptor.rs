//! Descriptors that Python's code names by number. The only `unsafe` of this package: a program in Python
//! owns its descriptors without a type to say so, and trusts its reactor with them.

#![expect(unsafe_code, reason = "numbers of Python's become descriptors here, and nowhere else")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use couplet_os::descriptor;
use pyo3::prelude::*;

/// The number of a descriptor of Python's. INVARIANT: it comes from Python's code, as an argument.
#[derive(FromPyObject)]
pub(crate) struct Descriptor(i32);

impl Descriptor {
    /// A duplicate, closed on exec. Python's stays open.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: Python is waiting for this call, in which it is borrowed and duplicated.
        unsafe { descriptor::borrow(self.0) }?.try_clone_to_owned()
    }

    /// Python's own, to be watched until its `stop`.
    pub(crate) fn watched(&self) -> io::Result<BorrowedFd<'static>> {
        // SAFETY: a reader or a writer of a reactor keeps its descriptor open until it is removed, or
        // is removed by the reactor as soon as its `fileno` says that it is closed; nothing is read or
        // written by it here, it is only watched.
        unsafe { descriptor::borrow(self.0) }
    }

    /// Python's own, which has been detached from its socket.
    pub(crate) fn detached(self) -> io::Result<OwnedFd> {
        // SAFETY: `adopt` of the Python half passes what `socket.detach` returned.
        unsafe { descriptor::take(self.0) }
    }
}
