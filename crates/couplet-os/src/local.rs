//! What is asked of a connected socket on demand: its local address, and its options.
#![expect(clippy::disallowed_types, reason = "a socket of the driver, asked for its name")]

use std::io;
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpStream};

#[cfg(unix)]
use std::os::fd::{AsFd as AsSocket, AsRawFd, FromRawFd, RawFd as Raw};
#[cfg(windows)]
use std::os::windows::io::{AsRawSocket, AsSocket, FromRawSocket, RawSocket as Raw};

/// A connected socket, by number, whose address and options can be looked up. This neither owns the socket nor
/// keeps it open: call [`get`](Self::get) and [`ask`](Self::ask) only while its owner has it open.
#[derive(Clone, Copy, Debug)]
pub struct LocalAddress(Raw);

impl LocalAddress {
    /// Of this socket.
    pub fn of(socket: &impl AsSocket) -> LocalAddress {
        #[cfg(unix)]
        return LocalAddress(socket.as_fd().as_raw_fd());
        #[cfg(windows)]
        return LocalAddress(socket.as_socket().as_raw_socket());
    }

    /// The number.
    pub fn number(self) -> Raw {
        self.0
    }

    /// The address (getsockname).
    ///
    /// # Errors
    ///
    /// What the system says, such as `EBADF` where the socket was closed.
    pub fn get(self) -> io::Result<SocketAddr> {
        self.ask(TcpStream::local_addr)
    }

    /// Calls `question` with the socket, to learn more of it, such as an option. It must change nothing.
    pub fn ask<T>(self, question: impl FnOnce(&TcpStream) -> T) -> T {
        // SAFETY: the owner has the socket open (see the type). It is asked and never closed here: a
        // number that had come to name another socket would give the answer of that one.
        #[cfg(unix)]
        let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(self.0) });
        // SAFETY: as above.
        #[cfg(windows)]
        let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_socket(self.0) });
        question(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_asked_and_stays_open() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let later = LocalAddress::of(&stream);
        let address = stream.local_addr().expect("connected");
        assert_eq!((later.get().ok(), later.get().ok()), (Some(address), Some(address)));
        stream.set_nodelay(true).expect("an option");
        assert_eq!(later.ask(TcpStream::nodelay).ok(), Some(true));
        drop(stream);
        assert!(later.get().is_err());
    }
}
