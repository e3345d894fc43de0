//! Descriptors that a process inherits, by number.
#![cfg(unix)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// A duplicate of the open descriptor with this number, closed in children that execute another
/// program. The descriptor itself stays open.
///
/// # Errors
///
/// `EBADF` where none with this number is open; what else the system says.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes any two numbers, and touches no memory of ours. The descriptor
    // with this number is neither used nor closed, whoever owns it.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it, so nothing else knows it, and it is owned here alone.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_duplicate_is_another_descriptor_of_the_same_file() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let number = reader.as_raw_fd();
        let again = duplicate(number).expect("it is open");
        assert_ne!(again.as_raw_fd(), number);
        drop(reader);
        assert!(duplicate(again.as_raw_fd()).is_ok());
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        for number in [-1, i32::MAX] {
            let error = duplicate(number).expect_err("not open");
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
    }
}
