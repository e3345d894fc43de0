//! Positions in the byte streams of a TCP connection, as the kernel counts them: they outlive the
//! process that used the connection.
//!
//! Contract: 51e.

use std::io;

/// How many bytes the owners of a socket have exchanged with the kernel since the connection began.
/// The kernel also counts a SYN that it has sent, and a FIN, as one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Bytes that were read from the socket.
    pub received: u64,
    /// Bytes that were written to the socket.
    pub sent: u64,
}

/// The positions of a TCP connection. Traffic does not change them, only reads and writes do.
///
/// # Errors
///
/// The system's error, such as `EOPNOTSUPP` for another kind of socket;
/// [`Unsupported`](io::ErrorKind::Unsupported) on a Linux before 4.6; `Interrupted` if traffic never
/// paused between two system calls.
#[cfg(target_os = "linux")]
pub fn positions(socket: &impl std::os::fd::AsFd) -> io::Result<Positions> {
    let socket = socket.as_fd();
    let mut before = linux::traffic(socket)?;
    for _ in 0..100 {
        let unread = linux::queued(socket, libc::FIONREAD)?;
        let unacknowledged = linux::queued(socket, libc::TIOCOUTQ)?;
        let traffic = linux::traffic(socket)?;
        if traffic == before {
            return Ok(Positions {
                received: traffic.received.saturating_sub(unread),
                sent: traffic.acknowledged + unacknowledged,
            });
        }
        before = traffic;
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Always an error: this system does not report them.
///
/// # Errors
///
/// [`Unsupported`](io::ErrorKind::Unsupported).
#[cfg(not(target_os = "linux"))]
pub fn positions<S>(_socket: &S) -> io::Result<Positions> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the peer of a TCP connection reads about as much as it sends: it has acknowledged at least
/// half as many bytes, and at most `most` bytes wait for room in its window. False if the system does
/// not report that.
#[cfg(target_os = "linux")]
pub fn is_answered(socket: &impl std::os::fd::AsFd, most: usize) -> bool {
    linux::traffic(socket.as_fd()).is_ok_and(|traffic| {
        traffic.acknowledged >= traffic.received / 2 && traffic.waiting as usize <= most
    })
}

/// Always false: this system does not report it.
#[cfg(not(target_os = "linux"))]
pub fn is_answered<S>(_socket: &S, _most: usize) -> bool {
    false
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::{AsRawFd, BorrowedFd};

    /// The kernel's counters of the traffic.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct Traffic {
        pub(super) acknowledged: u64,
        pub(super) received: u64,
        /// Written bytes that were never sent.
        pub(super) waiting: u32,
    }

    /// The length of `struct tcp_info` up to `tcpi_notsent_bytes`, and the four bytes after it.
    const LENGTH: usize = 152;

    pub(super) fn traffic(socket: BorrowedFd<'_>) -> io::Result<Traffic> {
        // `libc::tcp_info` has fewer fields.
        let mut info = [0u64; LENGTH / 8];
        let mut length = LENGTH as libc::socklen_t;
        // SAFETY: the descriptor is open while `socket` is borrowed; `info` and `length` live through
        // the call, and `length` says how long `info` is.
        let rc = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if rc < 0 {
            return Err(io::Error::last_os_error());
        }
        if (length as usize) < LENGTH {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let [.., acknowledged, received, _segments, last] = info;
        let [a, b, c, d, ..] = last.to_ne_bytes();
        Ok(Traffic { acknowledged, received, waiting: u32::from_ne_bytes([a, b, c, d]) })
    }

    /// The length of the queue that `request` names.
    pub(super) fn queued(socket: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u64> {
        let mut count: libc::c_int = 0;
        // SAFETY: the descriptor is open while `socket` is borrowed, and both requests write one c_int
        // through the pointer, which points to one.
        let rc = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(count.max(0) as u64) }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client =
            TcpStream::connect(port.local_addr().expect("an address")).expect("it listens");
        (port.accept().expect("a connection").0, client)
    }

    /// Bytes received and sent since `before`.
    fn since(before: Positions, socket: &TcpStream) -> (u64, u64) {
        let now = positions(socket).expect("a TCP socket");
        (now.received - before.received, now.sent - before.sent)
    }

    #[test]
    fn both_positions_move_with_reads_and_writes_only() {
        let (server, client) = pair();
        for (mut one, mut other) in [(&server, &client), (&client, &server)] {
            let (mine, theirs) = (positions(one).expect("TCP"), positions(other).expect("TCP"));
            one.write_all(b"hello").expect("room");
            assert_eq!(since(mine, one), (0, 5));
            other.peek(&mut [0; 5]).expect("bytes");
            assert_eq!(since(theirs, other), (0, 0), "unread bytes don't count");
            other.read_exact(&mut [0; 3]).expect("bytes");
            assert_eq!((since(theirs, other), since(mine, one)), ((3, 0), (0, 5)));
            other.read_exact(&mut [0; 2]).expect("bytes");
            assert_eq!((since(theirs, other), since(mine, one)), ((5, 0), (0, 5)));
        }
    }

    #[test]
    fn bytes_that_the_peer_does_not_take_are_sent_all_the_same() {
        let (mut server, client) = pair();
        let before = positions(&server).expect("TCP");
        server.set_nonblocking(true).expect("an option");
        let mut written = 0;
        while let Ok(count) = server.write(&[0; 65536]) {
            written += count as u64;
        }
        assert_eq!(since(before, &server), (0, written));
        drop(client);
    }

    #[test]
    fn a_peer_answers_while_it_takes_half_as_much_as_it_sends_and_its_window_is_open() {
        let (mut server, mut client) = pair();
        let most = 65_536;
        client.write_all(&[0; 2000]).expect("room");
        server.read_exact(&mut [0; 2000]).expect("bytes");
        assert!(!is_answered(&server, most), "nothing was written");
        server.write_all(&[0; 1001]).expect("room");
        client.read_exact(&mut [0; 1001]).expect("bytes");
        assert!(is_answered(&server, most));
        server.set_nonblocking(true).expect("an option");
        while server.write(&[0; 65_536]).is_ok() {}
        assert!(!is_answered(&server, most), "the client's window is closed");
        let (one, _other) = UnixStream::pair().expect("two sockets");
        assert!(!is_answered(&one, most));
    }

    #[test]
    fn a_fin_counts_as_a_byte() {
        let (server, mut client) = pair();
        let (mine, theirs) = (positions(&server).expect("TCP"), positions(&client).expect("TCP"));
        server.shutdown(Shutdown::Write).expect("it is connected");
        assert_eq!(client.read(&mut [0]).expect("the end"), 0);
        assert_eq!((since(mine, &server), since(theirs, &client)), ((0, 1), (1, 0)));
    }

    #[test]
    fn other_sockets_have_no_positions() {
        let (one, _other) = UnixStream::pair().expect("two sockets");
        assert!(positions(&one).is_err());
    }
}
