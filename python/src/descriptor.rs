//! Descriptors that Python code names by number. The only `unsafe` of this package: a Python
//! program owns its descriptors without a type that shows it, and trusts its reactor with them.

#![expect(unsafe_code, reason = "numbers of Python's become descriptors here, and nowhere else")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use couplet_os::descriptor;
use pyo3::prelude::*;

use crate::looping::system_error;

/// The numbers of the descriptors that a child of this process inherits.
#[pyfunction]
pub(crate) fn inheritable() -> PyResult<Vec<i32>> {
    descriptor::inheritable().map_err(system_error)
}

/// A descriptor number of Python's. INVARIANT: it is an argument passed by Python code.
#[derive(FromPyObject)]
pub(crate) struct Descriptor(i32);

impl Descriptor {
    /// A duplicate, closed on exec. Python's descriptor stays open.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        // SAFETY: Python waits for this call, which borrows the descriptor and duplicates it.
        unsafe { descriptor::borrow(self.0) }?.try_clone_to_owned()
    }

    /// Python's own descriptor, for a call into this package.
    pub(crate) fn lent(&self) -> io::Result<BorrowedFd<'_>> {
        // SAFETY: Python waits for the call that has this argument, and keeps the descriptor open.
        unsafe { descriptor::borrow(self.0) }
    }

    /// Python's own descriptor, watched until `stop`.
    pub(crate) fn watched(&self) -> io::Result<BorrowedFd<'static>> {
        // SAFETY: a reader or a writer of a reactor keeps its descriptor open until it is removed.
        // The reactor removes it as soon as its `fileno` reports that it is closed. The descriptor
        // is only watched: no bytes are read or written.
        unsafe { descriptor::borrow(self.0) }
    }

    /// Python's own descriptor, which Python has given up.
    pub(crate) fn detached(self) -> io::Result<OwnedFd> {
        // SAFETY: `adopt` in the Python half passes the result of `socket.detach`, `adopt_pipe` and the
        // inspector an end of a new pipe or a new terminal.
        unsafe { descriptor::take(self.0) }
    }
}
