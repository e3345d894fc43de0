//! Descriptors by number: inherited, or told by other languages.
#![cfg(unix)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// A descriptor of other code in this process, which told us its number: an interpreter's, say. This
/// neither owns it nor keeps it open. Use it only while its owner has it open: a number that has come to
/// name another descriptor reaches that one.
#[derive(Debug)]
pub struct Foreign(RawFd);

impl Foreign {
    /// The descriptor with this number.
    ///
    /// # Errors
    ///
    /// `EBADF` where none with this number is open.
    pub fn new(number: RawFd) -> io::Result<Foreign> {
        // SAFETY: F_GETFD takes any number, and touches no memory of ours.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Foreign(number))
    }

    /// Takes it over from an owner that has let go of it, and will not close it, as Python's
    /// `socket.detach` does.
    pub fn into_owned(self) -> OwnedFd {
        // SAFETY: it was open when this was made (so it is not -1), and its owner has let go of it.
        unsafe { OwnedFd::from_raw_fd(self.0) }
    }
}

impl AsFd for Foreign {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it was open when this was made (so it is not -1), and its owner keeps it open for as
        // long as this is used (see the type).
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
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
    fn a_foreign_descriptor_is_used_by_number_and_may_be_taken_over() {
        use std::io::{Read, Write};
        use std::os::fd::IntoRawFd;
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        let foreign = Foreign::new(reader.as_raw_fd()).expect("it is open");
        assert_eq!(foreign.as_fd().as_raw_fd(), reader.as_raw_fd());
        writer.write_all(b"x").expect("room");
        reader.read_exact(&mut [0]).expect("it is still open");
        let number = reader.into_raw_fd();
        drop(Foreign::new(number).expect("it is open").into_owned());
        assert!(writer.write_all(b"x").is_err(), "it was closed by the one who took it over");
        assert_eq!(Foreign::new(-1).expect_err("none").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        for number in [-1, i32::MAX] {
            let error = duplicate(number).expect_err("not open");
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
    }
}
