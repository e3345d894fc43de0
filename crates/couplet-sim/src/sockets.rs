//! Sockets controlled directly by the test: streams, listeners and datagram sockets, for hosts
//! without a program. On a host with one, the sockets close when the program ends.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use couplet_core::Address;
use couplet_core::driver::{CloseMode, DatagramOptions, ListenOptions};

use super::kernel::datagrams::Taken;
use super::kernel::stream::Read;
use super::kernel::{EndId, Kernel, WorldAction};
use super::{Host, Sim};

impl Sim {
    /// Starts a connect from this host, which proceeds as the world runs; once connected,
    /// [`is_open`](Socket::is_open) returns true.
    ///
    /// # Errors
    ///
    /// The system's error: out of descriptors, network unreachable.
    pub fn socket(&self, from: Host, to: impl Into<Address>) -> io::Result<Socket> {
        let end = self.kernel.borrow_mut().connect(from.0, to.into(), None)?;
        Ok(Socket { kernel: self.kernel.clone(), end })
    }

    /// Listens on this host; the test accepts the connections.
    ///
    /// # Errors
    ///
    /// The system's error: address in use, out of descriptors.
    pub fn listen(
        &self,
        host: Host,
        address: impl Into<Address>,
        backlog: u32,
    ) -> io::Result<Listening> {
        let options = ListenOptions::default().backlog(backlog);
        let address = self.kernel.borrow_mut().bind(host.0, address.into(), &options)?;
        let boot = self.kernel.borrow().hosts[host.0 as usize].boot;
        Ok(Listening { kernel: self.kernel.clone(), host: host.0, boot, address })
    }

    /// Opens a datagram socket on this host; port 0 picks a free port.
    ///
    /// # Errors
    ///
    /// The system's error: address in use, out of descriptors.
    pub fn datagrams(&self, host: Host, port: u16) -> io::Result<Datagrams> {
        let v4 = self.kernel.borrow().hosts[host.0 as usize].v4;
        let (address, options) = (Address::udp((v4, port)), DatagramOptions::default());
        let address = self.kernel.borrow_mut().open_socket(host.0, address, &options)?;
        let boot = self.kernel.borrow().hosts[host.0 as usize].boot;
        Ok(Datagrams { kernel: self.kernel.clone(), host: host.0, boot, address })
    }
}

/// The kernel, unless this boot of the host has ended.
fn kernel_since(kernel: &RefCell<Kernel>, host: u32, boot: u32) -> Option<RefMut<'_, Kernel>> {
    let kernel = kernel.borrow_mut();
    (kernel.hosts[host as usize].boot == boot).then_some(kernel)
}

/// A listening socket controlled by the test. Closed on drop.
pub struct Listening {
    kernel: Rc<RefCell<Kernel>>,
    host: u32,
    /// Distinguishes it from sockets opened by the host after a restart.
    boot: u32,
    address: Address,
}

impl Listening {
    /// The local address.
    pub fn address(&self) -> Address {
        self.address.clone()
    }

    /// Accepts the next connection, if one is queued.
    pub fn accept(&self) -> Option<Socket> {
        let mut kernel = kernel_since(&self.kernel, self.host, self.boot)?;
        let end = kernel.accept(self.host, &self.address)?;
        Some(Socket { kernel: self.kernel.clone(), end })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.kernel.borrow_mut().unbind(self.host, self.boot, &self.address);
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One end of a connection, controlled by the test. [Closed](Self::close) on drop.
pub struct Socket {
    kernel: Rc<RefCell<Kernel>>,
    end: EndId,
}

impl Socket {
    /// True once connected, until this end closes.
    pub fn is_open(&self) -> bool {
        self.kernel.borrow_mut().end(self.end).is_some_and(|end| end.is_open())
    }

    /// Sends as many bytes as fit in the send buffer, and returns the count.
    ///
    /// # Errors
    ///
    /// `ConnectionReset` if the connection is broken, `BrokenPipe` after [`fin`](Self::fin) or
    /// [`close`](Self::close), `NotConnected` if the connection no longer exists.
    pub fn push(&self, data: &[u8]) -> io::Result<usize> {
        self.kernel.borrow_mut().send(self.end, data)
    }

    /// Takes at most `n` of the received bytes.
    pub fn take(&self, n: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut kernel = self.kernel.borrow_mut();
        if kernel.end(self.end).is_some_and(|end| end.is_readable()) {
            let read = kernel.read(self.end, n, &mut bytes);
            debug_assert!(matches!(read, Read::Bytes));
        }
        bytes
    }

    /// Sends a FIN; bytes can still be received.
    pub fn fin(&self) {
        self.kernel.borrow_mut().shut_write(self.end);
    }

    /// Closes like `close(2)`: with a reset if received bytes were not taken.
    pub fn close(&self) {
        self.kernel.borrow_mut().close(self.end, CloseMode::Normal);
    }

    /// Closes with a reset.
    pub fn reset(&self) {
        self.kernel.borrow_mut().close(self.end, CloseMode::Reset);
    }

    /// Whether the peer's FIN has arrived and every byte before it was taken.
    pub fn saw_fin(&self) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        let end = kernel.end(self.end);
        end.is_some_and(|end| end.fin && !end.is_readable() && end.error().is_none())
    }

    /// The error that broke the connection, if any.
    pub fn error(&self) -> Option<io::ErrorKind> {
        self.kernel.borrow_mut().end(self.end)?.error()
    }

    /// The local address.
    pub fn address(&self) -> Option<Address> {
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

/// A datagram socket controlled by the test. Closed on drop.
pub struct Datagrams {
    kernel: Rc<RefCell<Kernel>>,
    host: u32,
    boot: u32,
    address: Address,
}

impl Datagrams {
    /// The local address.
    pub fn address(&self) -> SocketAddr {
        self.address.socket_addr().expect("an Internet socket")
    }

    /// Sends a datagram; the network may still lose, duplicate, delay or truncate it.
    ///
    /// # Errors
    ///
    /// `NotConnected` if the socket no longer exists: the host crashed, or its program was killed.
    pub fn send_to(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let kernel = kernel_since(&self.kernel, self.host, self.boot);
        let mut kernel = kernel.ok_or(io::ErrorKind::NotConnected)?;
        let to = (Some(&Address::udp(to)), None);
        kernel.send_datagram(self.host, &self.address, to, bytes)
    }

    /// Takes the next received datagram and its sender's address.
    pub fn take(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut kernel = kernel_since(&self.kernel, self.host, self.boot)?;
        match kernel.take_datagram(self.host, &self.address) {
            Taken::Datagram(datagram, _) => Some((datagram.from.socket_addr()?, datagram.bytes)),
            Taken::Error(_) | Taken::Nothing => None,
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.kernel.borrow_mut().close_socket(self.host, self.boot, &self.address);
    }
}

impl fmt::Debug for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datagrams").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Runs the world until this host's loop has an event, or until the time `until`. This is the wait
/// of a loop that runs the world itself.
///
/// # Errors
///
/// `WouldBlock` if no event can ever happen.
pub(super) fn run_world(kernel: &RefCell<Kernel>, host: u32, until: Option<u64>) -> io::Result<()> {
    loop {
        let (now, next, news) = {
            let kernel = kernel.borrow();
            let woken = !kernel.woken_hosts.take().is_empty();
            (kernel.now, kernel.next_at(), woken || kernel.hosts[host as usize].has_notices())
        };
        // Process every event that is due now before the loop sees any of them.
        if next.is_none_or(|at| at > now) && (news || until.is_some_and(|until| until <= now)) {
            return Ok(());
        }
        match (next, until) {
            (Some(at), until) if until.is_none_or(|until| at <= until) => {
                let due = kernel.borrow_mut().step();
                if let WorldAction::Job(host, ticket, job) = due {
                    job();
                    kernel.borrow_mut().job_done(host, ticket);
                }
            }
            (_, Some(until)) => kernel.borrow_mut().now = until.max(now),
            (_, None) => {
                let text = "nothing can ever happen: no bytes, no timers and no tasks are pending";
                return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
            }
        }
        kernel.borrow_mut().hosts[host as usize].begin_round();
    }
}
