//! What a port does when the system gives an error in place of a connection. None of them is the
//! port's end.

use std::io::{self, ErrorKind};

/// How accepting goes on after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// Nobody waits any more.
    Drained,
    /// The next call may give a connection: this one was interrupted, or a firewall forbids the
    /// one it was for.
    GoOn,
    /// The connection was gone, or its network: the round ends.
    EndRound,
    /// No descriptor is left, here (EMFILE) or in the whole system (ENFILE): who waits is turned
    /// away with the one in reserve.
    NoDescriptor,
    /// No memory is left, or what nobody has foreseen: the port rests.
    Rest,
}

impl AcceptError {
    pub(super) fn of(error: &io::Error) -> AcceptError {
        // EPROTO has no kind.
        const EPROTO: i32 =
            if cfg!(any(target_os = "linux", target_os = "android")) { 71 } else { 100 };
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::WouldBlock, _) => AcceptError::Drained,
            (ErrorKind::Interrupted | ErrorKind::PermissionDenied, _) => AcceptError::GoOn,
            // EMFILE, ENFILE, and what Windows says.
            (_, Some(24 | 23 | 10024)) => AcceptError::NoDescriptor,
            // Linux tells a new connection's errors to who accepts it.
            (
                ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::TimedOut
                | ErrorKind::NetworkDown
                | ErrorKind::NetworkUnreachable
                | ErrorKind::HostUnreachable,
                _,
            )
            | (_, Some(EPROTO)) => AcceptError::EndRound,
            _ => AcceptError::Rest,
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn c48_each_accept_error_has_its_answer() {
        let table = [
            (Errno::WOULDBLOCK, AcceptError::Drained),
            (Errno::INTR, AcceptError::GoOn),
            (Errno::PERM, AcceptError::GoOn),
            (Errno::CONNABORTED, AcceptError::EndRound),
            (Errno::PROTO, AcceptError::EndRound),
            (Errno::NETDOWN, AcceptError::EndRound),
            (Errno::HOSTUNREACH, AcceptError::EndRound),
            (Errno::MFILE, AcceptError::NoDescriptor),
            (Errno::NFILE, AcceptError::NoDescriptor),
            (Errno::NOBUFS, AcceptError::Rest),
            (Errno::NOMEM, AcceptError::Rest),
            (Errno::INVAL, AcceptError::Rest),
        ];
        for (errno, answer) in table {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(AcceptError::of(&error), answer, "{error}");
        }
    }
}
