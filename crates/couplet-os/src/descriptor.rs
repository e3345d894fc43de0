//! Descriptors by number: inherited, or owned by code in another language.
//!
//! Contract: 145.
#![cfg(unix)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A duplicate of the inherited descriptor with this number, closed in children that execute
/// another program. The original stays open, so it can be duplicated again.
///
/// A descriptor opened by this program is refused: std and every crate that follows it open
/// descriptors close-on-exec, while an inherited one has survived an exec.
///
/// # Errors
///
/// `EBADF` if no open descriptor has this number; `PermissionDenied` if it is close-on-exec; the
/// system's error.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if flags(number)? & libc::FD_CLOEXEC != 0 {
        let text = "it was not inherited, but opened by this program";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    // SAFETY: F_DUPFD_CLOEXEC takes any two numbers, and touches no memory of ours. The descriptor with
    // this number is left open to every program that this one executes, so it is shared on purpose; it
    // is duplicated here, and not closed.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just opened it, so nothing else knows or owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Takes over the inherited descriptor with this number, which is closed in children that execute
/// another program from now on. Unlike [`inherited`], it leaves no second descriptor open.
///
/// # Errors
///
/// `EBADF` if no open descriptor has this number; `PermissionDenied` if it is close-on-exec, so was
/// opened by this program or taken before, or is a standard stream; the system's error.
pub fn take_inherited(number: RawFd) -> io::Result<OwnedFd> {
    let before = flags(number)?;
    if before & libc::FD_CLOEXEC != 0 || number <= libc::STDERR_FILENO {
        let text = "it was not inherited, or has an owner";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    // SAFETY: F_SETFD takes any number, and touches no memory of ours.
    if unsafe { libc::fcntl(number, libc::F_SETFD, before | libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open and has survived an exec, so code of this process has not opened it, as of
    // `inherited`; and it is taken only once, because it is close-on-exec from now on.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The descriptors that are open and not close-on-exec: a program that this process executes
/// inherits them.
///
/// # Errors
///
/// The system's error, such as a missing `/proc/self/fd`, which lists the descriptors.
pub fn inheritable() -> io::Result<Vec<RawFd>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let is_inheritable =
            |number: &RawFd| flags(*number).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0);
        found.extend(number.filter(is_inheritable));
    }
    Ok(found)
}

/// The flags of an open descriptor.
fn flags(number: RawFd) -> io::Result<libc::c_int> {
    // SAFETY: F_GETFD takes any number, and touches no memory of ours.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 { Err(io::Error::last_os_error()) } else { Ok(flags) }
}

/// Whether a write would be accepted now, or would fail.
///
/// # Errors
///
/// The system's error.
pub fn is_writable(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    let number = descriptor.as_raw_fd();
    let mut poll = libc::pollfd { fd: number, events: libc::POLLOUT, revents: 0 };
    // SAFETY: the pointer is to one pollfd on this stack.
    let count = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count > 0) }
}

/// The descriptor with this number, which other code of this process owns, such as an interpreter.
///
/// # Errors
///
/// `EBADF` if no open descriptor has this number.
///
/// # Safety
///
/// The owner keeps the descriptor open throughout `'a`.
pub unsafe fn borrow<'a>(number: RawFd) -> io::Result<BorrowedFd<'a>> {
    flags(number)?;
    // SAFETY: it is open, so it is not -1, and it stays open throughout `'a`: the caller's promise.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes over the descriptor with this number.
///
/// # Errors
///
/// `EBADF` if no open descriptor has this number.
///
/// # Safety
///
/// The owner has released the descriptor and will not close it, as after Python's `socket.detach`.
pub unsafe fn take(number: RawFd) -> io::Result<OwnedFd> {
    flags(number)?;
    // SAFETY: it is open, so it is not -1, and it has no other owner: the caller's promise.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn only_a_descriptor_without_close_on_exec_is_inheritable() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let closed_on_exec = reader.as_raw_fd();
        // SAFETY: the call takes two numbers, and touches no memory of ours.
        let kept = unsafe { libc::fcntl(closed_on_exec, libc::F_DUPFD, 3) };
        // SAFETY: the call has just opened it, so nothing else owns it.
        let _kept = unsafe { OwnedFd::from_raw_fd(kept) };
        let found = inheritable().expect("a list");
        assert!(found.contains(&kept) && !found.contains(&closed_on_exec), "{found:?}");
    }

    #[test]
    fn a_pipe_is_writable_until_it_is_full_and_without_a_reader() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        // SAFETY: F_SETFL touches no memory, and the descriptor is open.
        let done = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
        assert_eq!(done, 0);
        assert!(is_writable(writer.as_fd()).expect("an answer"));
        while writer.write(&[0; 4096]).is_ok() {}
        assert!(!is_writable(writer.as_fd()).expect("an answer"));
        drop(reader);
        assert!(is_writable(writer.as_fd()).expect("an answer"));
    }

    #[test]
    fn an_inherited_descriptor_is_duplicated_and_stays_open() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let number = reader.as_raw_fd();
        // SAFETY: F_SETFD touches no memory, and the descriptor is open.
        assert_eq!(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }, 0);
        let again = inherited(number).expect("it passes through exec");
        assert_ne!(again.as_raw_fd(), number);
        assert!(inherited(number).is_ok(), "it is still open");
    }

    #[test]
    fn a_descriptor_that_this_program_opened_is_refused() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        let error = inherited(reader.as_raw_fd()).expect_err("it is the test's own");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn an_inherited_descriptor_is_taken_once() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        let number = std::os::fd::IntoRawFd::into_raw_fd(reader);
        // SAFETY: F_SETFD touches no memory, and the descriptor is open.
        assert_eq!(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }, 0);
        let taken = take_inherited(number).expect("it passes through exec");
        assert_eq!(taken.as_raw_fd(), number);
        for error in [take_inherited(number), inherited(number), take_inherited(2)] {
            assert_eq!(error.expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
        }
        drop(taken);
        assert!(writer.write_all(b"x").is_err(), "no second descriptor is open");
    }

    #[test]
    fn a_number_that_is_not_open_is_an_error() {
        for number in [-1, i32::MAX] {
            // SAFETY: there is no such descriptor.
            let (lent, taken) = unsafe { (borrow(number), take(number)) };
            let errors = [inherited(number).err(), lent.err(), taken.err()];
            let number = |error: Option<io::Error>| error.and_then(|error| error.raw_os_error());
            assert_eq!(errors.map(number), [Some(libc::EBADF); 3]);
        }
    }

    #[test]
    fn a_descriptor_is_used_by_number_and_taken_over() {
        use std::io::{Read, Write};
        use std::os::fd::{AsFd, IntoRawFd};
        let (mut reader, mut writer) = io::pipe().expect("a pipe");
        // SAFETY: the reader outlives the borrowed descriptor.
        let lent = unsafe { borrow(reader.as_raw_fd()) }.expect("it is open");
        assert_eq!(lent.as_fd().as_raw_fd(), reader.as_raw_fd());
        writer.write_all(b"x").expect("room");
        reader.read_exact(&mut [0]).expect("it is still open");
        // SAFETY: the reader has just released it.
        drop(unsafe { take(reader.into_raw_fd()) }.expect("it is open"));
        assert!(writer.write_all(b"x").is_err(), "it was closed with what had taken it over");
    }
}
