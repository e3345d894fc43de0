//! What a test holds in its own hand: sockets of a host without a program, and datagrams. On a host
//! with a program they go when that ends.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::kernel::stream::{Read, Stage};
use super::kernel::{Due, EndId, Kernel};
use super::{Host, Sim};
use crate::driver::{CloseMode, ListenOptions};

impl Sim {
    /// A connection from this host, in the test's hand. It is open when the world has gone on for
    /// long enough, and [`is_open`](Socket::is_open) says so.
    ///
    /// # Errors
    ///
    /// What the host's system says: no descriptors, no route.
    pub fn socket(&self, from: Host, to: SocketAddr) -> io::Result<Socket> {
        let end = self.kernel.borrow_mut().connect(from.0, to, None)?;
        Ok(Socket { kernel: self.kernel.clone(), end })
    }

    /// A port of this host, in the test's hand.
    ///
    /// # Errors
    ///
    /// What the host's system says: address in use, no descriptors.
    pub fn listen(&self, host: Host, address: SocketAddr, backlog: u32) -> io::Result<Listening> {
        let options = ListenOptions::default().backlog(backlog);
        let address = self.kernel.borrow_mut().bind(host.0, address, &options)?;
        let boot = self.kernel.borrow().hosts[host.0 as usize].boot;
        Ok(Listening { kernel: self.kernel.clone(), host: host.0, boot, address })
    }

    /// A socket for datagrams on this host; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// What the host's system says: address in use, no descriptors.
    pub fn datagrams(&self, host: Host, port: u16) -> io::Result<Datagrams> {
        let address = self.kernel.borrow_mut().open_socket(host.0, port)?;
        let boot = self.kernel.borrow().hosts[host.0 as usize].boot;
        Ok(Datagrams { kernel: self.kernel.clone(), host: host.0, boot, address })
    }
}

/// A port in the test's hand. Dropping it closes it.
pub struct Listening {
    kernel: Rc<RefCell<Kernel>>,
    host: u32,
    /// What a host had open before it went down is not this.
    boot: u32,
    address: SocketAddr,
}

impl Listening {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection.
    pub fn accept(&self) -> Option<Socket> {
        let end = self.kernel.borrow_mut().accept(self.host, self.address)?;
        Some(Socket { kernel: self.kernel.clone(), end })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.kernel.borrow_mut().unbind(self.host, self.boot, self.address);
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One end of a connection in the test's hand. Dropping it [closes](Self::close) it.
pub struct Socket {
    kernel: Rc<RefCell<Kernel>>,
    end: EndId,
}

impl Socket {
    /// The connection was made and this end has not closed.
    pub fn is_open(&self) -> bool {
        self.kernel.borrow_mut().end(self.end).is_some_and(|end| end.stage == Stage::Open)
    }

    /// Sends bytes; the number of those for which there is room.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` when the connection is broken, `BrokenPipe` behind [`fin`](Self::fin) or
    /// [`close`](Self::close), `NotConnected` when nothing is left of it.
    pub fn push(&self, data: &[u8]) -> io::Result<usize> {
        self.kernel.borrow_mut().send(self.end, data)
    }

    /// Takes at most `n` of the bytes that have come.
    pub fn take(&self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut kernel = self.kernel.borrow_mut();
        if kernel.end(self.end).is_some_and(|end| end.is_readable()) {
            let read = kernel.read(self.end, n, &mut bytes);
            debug_assert!(matches!(read, Read::Bytes));
        }
        bytes
    }

    /// Sends the end of the stream; bytes can still be taken.
    pub fn fin(&self) {
        self.kernel.borrow_mut().shut_write(self.end);
    }

    /// Closes as `close(2)` does: a reset where something was not taken.
    pub fn close(&self) {
        self.kernel.borrow_mut().close(self.end, CloseMode::Normal);
    }

    /// Closes with a reset.
    pub fn reset(&self) {
        self.kernel.borrow_mut().close(self.end, CloseMode::Reset);
    }

    /// The other end's FIN has come, and everything before it was taken.
    pub fn saw_fin(&self) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        let end = kernel.end(self.end);
        end.is_some_and(|end| end.fin && !end.is_readable() && end.error.is_none())
    }

    /// What has broken the connection.
    pub fn error(&self) -> Option<io::ErrorKind> {
        self.kernel.borrow_mut().end(self.end)?.error
    }

    /// The address of this end.
    pub fn address(&self) -> Option<SocketAddr> {
        Some(self.kernel.borrow_mut().addresses(self.end)?.0)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// A socket for datagrams in the test's hand. Dropping it closes it.
pub struct Datagrams {
    kernel: Rc<RefCell<Kernel>>,
    host: u32,
    boot: u32,
    address: SocketAddr,
}

impl Datagrams {
    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one. What becomes of it is the network's.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the host has lost the socket: it crashed, or its program was killed.
    pub fn send_to(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.kernel.borrow_mut().send_datagram(self.address, to, bytes)
    }

    /// The next one that has come, and from where.
    pub fn take(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let datagram = self.kernel.borrow_mut().take_datagram(self.host, self.address)?;
        Some((datagram.from, datagram.bytes))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.kernel.borrow_mut().close_socket(self.host, self.boot, self.address);
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The wait of a loop that has the world for itself: until there is something for it, or this time
/// has come.
///
/// # Errors
///
/// `WouldBlock` when nothing can ever happen.
pub(super) fn turn_the_world(
    kernel: &RefCell<Kernel>,
    host: u32,
    until: Option<u64>,
) -> io::Result<()> {
    loop {
        let (now, next, news) = {
            let kernel = kernel.borrow();
            let rung = !kernel.bells.take().is_empty();
            (kernel.now, kernel.next_at(), rung || kernel.hosts[host as usize].has_news())
        };
        // What happens at this very moment has happened before the loop looks.
        if next.is_none_or(|at| at > now) && (news || until.is_some_and(|until| until <= now)) {
            return Ok(());
        }
        match (next, until) {
            (Some(at), until) if until.is_none_or(|until| at <= until) => {
                let due = kernel.borrow_mut().step();
                if let Due::Job(host, ticket, job) = due {
                    job();
                    kernel.borrow_mut().job_done(host, ticket);
                }
            }
            (_, Some(until)) => kernel.borrow_mut().now = until.max(now),
            (_, None) => {
                let text =
                    "nothing can ever happen: no bytes, no timers and no tasks are on their way";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
        }
        kernel.borrow_mut().hosts[host as usize].begin_round();
    }
}
