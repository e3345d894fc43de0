//! The yardstick: an echo and a relay written by hand over level-triggered epoll, without avoidable
//! system calls. `TCP_NODELAY` is inherited from the listener, each event is one read, and
//! `epoll_ctl` is called only to add a connection (and twice if a send buffer was full), not at
//! close. One buffer serves all connections.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use couplet_os::read_buffer::ReadBuffer;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, Result, read, retry_on_intr, write};
use rustix::net::{SocketFlags, accept_with, sockopt};

use crate::kind::Role;

const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: OwnedFd,
    /// The other connection of a relay, to which received bytes are written. Other roles write to
    /// `stream`.
    forward: Option<Forward>,
    /// Bytes that the kernel has not taken. While there are any, nothing is read.
    unsent: VecDeque<u8>,
    /// Bytes to send once all events of a poll are handled.
    held: Vec<u8>,
}

struct Forward {
    /// The other connection's stream, as a second descriptor, so that epoll can distinguish them.
    to: OwnedFd,
    partner: usize,
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    /// By descriptor number. After a stale event for a reused number, the read finds nothing.
    connections: Vec<Option<Connection>>,
    buffer: ReadBuffer,
    role: Role,
    /// Whether a fan-out is sent once all events of a poll are handled.
    holds: bool,
}

/// Serves with one read buffer of `size` bytes until the process ends.
pub(super) fn serve(
    listener: TcpListener,
    size: usize,
    role: Role,
    holds: bool,
) -> std::io::Result<()> {
    sockopt::set_tcp_nodelay(&listener, true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;

    let (connections, buffer) = (Vec::new(), ReadBuffer::new(size));
    let mut server = Server { epoll, listener, connections, buffer, role, holds };
    let mut events = Vec::with_capacity(1024);
    loop {
        retry_on_intr(|| epoll::wait(&server.epoll, spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => server.accept()?,
                fd => {
                    if server.serve_one(fd as usize) != Ok(true) {
                        server.end(fd as usize);
                    }
                }
            }
        }
        if server.holds {
            server.send_held();
        }
    }
}

impl Server {
    fn send_held(&mut self) {
        for connection in self.connections.iter_mut().flatten() {
            let held = std::mem::take(&mut connection.held);
            if !held.is_empty() {
                // A failed connection gets its own event.
                let _ = connection.send(&self.epoll, &held);
                connection.held = held;
                connection.held.clear();
            }
        }
    }

    fn accept(&mut self) -> std::io::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => match self.role {
                    Role::Relay(server) => self.join(stream, server)?,
                    _ => self.add(stream, None)?,
                },
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Connects to the server, which takes no time on loopback, and relays both ways.
    fn join(&mut self, near: OwnedFd, server: SocketAddr) -> std::io::Result<()> {
        let far = TcpStream::connect(server)?;
        far.set_nonblocking(true)?;
        far.set_nodelay(true)?;
        let far = OwnedFd::from(far);
        let to_far = Forward { to: far.try_clone()?, partner: far.as_raw_fd() as usize };
        let to_near = Forward { to: near.try_clone()?, partner: near.as_raw_fd() as usize };
        self.add(near, Some(to_far))?;
        self.add(far, Some(to_near))
    }

    fn add(&mut self, stream: OwnedFd, forward: Option<Forward>) -> std::io::Result<()> {
        let fd = stream.as_raw_fd() as usize;
        let data = EventData::new_u64(fd as u64);
        epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
        if let Some(forward) = &forward {
            epoll::add(&self.epoll, &forward.to, data, EventFlags::empty())?;
        }
        if self.connections.len() <= fd {
            self.connections.resize_with(fd + 1, || None);
        }
        self.connections[fd] =
            Some(Connection { stream, forward, unsent: VecDeque::new(), held: Vec::new() });
        Ok(())
    }

    /// One read and its writes, or a write of bytes left over; returns false at the end of the
    /// connection.
    fn serve_one(&mut self, fd: usize) -> Result<bool> {
        let Some(connection) = &mut self.connections[fd] else {
            return Ok(true);
        };
        if connection.unsent.is_empty() {
            let data = match read(&connection.stream, &mut self.buffer[..]) {
                Ok(0) => return Ok(false),
                Ok(length) => &self.buffer[..length],
                Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
                Err(error) => return Err(error),
            };
            if self.role == Role::FanOut {
                for connection in self.connections.iter_mut().flatten() {
                    if self.holds {
                        connection.held.extend_from_slice(data);
                    } else {
                        // A failed connection gets its own event.
                        let _ = connection.send(&self.epoll, data);
                    }
                }
                return Ok(true);
            }
            connection.send(&self.epoll, data)?;
        } else {
            connection.flush(&self.epoll)?;
        }
        Ok(self.role != Role::EchoOne || !connection.unsent.is_empty())
    }

    fn end(&mut self, fd: usize) {
        let ended = self.connections[fd].take();
        if let Some(forward) = ended.and_then(|connection| connection.forward) {
            self.connections[forward.partner] = None;
        }
    }
}

impl Connection {
    fn to(&self) -> BorrowedFd<'_> {
        self.forward.as_ref().map_or(self.stream.as_fd(), |forward| forward.to.as_fd())
    }

    fn send(&mut self, epoll: &OwnedFd, data: &[u8]) -> Result<()> {
        let waits = !self.unsent.is_empty();
        let sent = if waits { 0 } else { some_sent(write(self.to(), data))? };
        if sent < data.len() {
            self.unsent.extend(&data[sent..]);
            if !waits {
                self.wait_for(epoll, EventFlags::OUT)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, epoll: &OwnedFd) -> Result<()> {
        while !self.unsent.is_empty() {
            let sent = some_sent(write(self.to(), self.unsent.as_slices().0))?;
            if sent == 0 {
                return Ok(());
            }
            self.unsent.drain(..sent);
        }
        self.wait_for(epoll, EventFlags::IN)
    }

    fn wait_for(&self, epoll: &OwnedFd, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(self.stream.as_raw_fd() as u64);
        let Some(forward) = &self.forward else {
            return epoll::modify(epoll, &self.stream, data, flags);
        };
        epoll::modify(epoll, &self.stream, data, flags & EventFlags::IN)?;
        epoll::modify(epoll, &forward.to, data, flags & EventFlags::OUT)
    }
}

fn some_sent(written: Result<usize>) -> Result<usize> {
    match written {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => other,
    }
}
