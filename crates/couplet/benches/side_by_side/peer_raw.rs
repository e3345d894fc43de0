//! The yardstick: an echo server written by hand over level-triggered epoll.
//!
//! It spares every system call that can be spared: `TCP_NODELAY` is inherited from the listener,
//! one read an event, no `epoll_ctl` but the one that adds a connection (and two when a send
//! buffer was full), none at close. One buffer serves all connections.

use std::collections::VecDeque;
use std::fmt::Display;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, Result, read, retry_on_intr, write};
use rustix::net::{SocketFlags, accept_with, sockopt};

const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: OwnedFd,
    /// Read, and not yet taken by the kernel. Nothing is read while it holds anything.
    unsent: VecDeque<u8>,
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    /// By descriptor number. A stale event for a number in use again finds nothing to read.
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
    close_first: bool,
}

/// Serves with one read buffer of `size` bytes until the process ends.
pub(crate) fn serve(
    size: usize,
    close_first: bool,
    ready: impl FnOnce(&dyn Display),
) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    ready(&listener.local_addr()?);

    let (connections, buffer) = (Vec::new(), vec![0; size]);
    let mut server = Server { epoll, listener, connections, buffer, close_first };
    let mut events = Vec::with_capacity(1024);
    loop {
        retry_on_intr(|| epoll::wait(&server.epoll, spare_capacity(&mut events), None))?;
        for event in events.drain(..) {
            match event.data.u64() {
                LISTENER => server.accept()?,
                fd => server.serve_one(fd as usize),
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => {
                    let fd = stream.as_raw_fd() as usize;
                    let data = EventData::new_u64(fd as u64);
                    epoll::add(&self.epoll, &stream, data, EventFlags::IN)?;
                    if self.connections.len() <= fd {
                        self.connections.resize_with(fd + 1, || None);
                    }
                    self.connections[fd] = Some(Connection { stream, unsent: VecDeque::new() });
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn serve_one(&mut self, fd: usize) {
        let Some(connection) = &mut self.connections[fd] else {
            return;
        };
        let alive = if connection.unsent.is_empty() {
            connection.echo(&self.epoll, &mut self.buffer, self.close_first)
        } else {
            connection.flush(&self.epoll, self.close_first)
        };
        if alive != Ok(true) {
            self.connections[fd] = None;
        }
    }
}

impl Connection {
    /// One read and one write; false: the connection has come to its end.
    fn echo(&mut self, epoll: &OwnedFd, buffer: &mut [u8], close_first: bool) -> Result<bool> {
        let data = match read(&self.stream, &mut *buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => &buffer[..length],
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error),
        };
        let sent = some_sent(write(&self.stream, data))?;
        if sent == data.len() {
            return Ok(!close_first);
        }
        self.unsent.extend(&data[sent..]);
        self.wait_for(epoll, EventFlags::OUT)?;
        Ok(true)
    }

    fn flush(&mut self, epoll: &OwnedFd, close_first: bool) -> Result<bool> {
        while !self.unsent.is_empty() {
            let sent = some_sent(write(&self.stream, self.unsent.as_slices().0))?;
            if sent == 0 {
                return Ok(true);
            }
            self.unsent.drain(..sent);
        }
        self.wait_for(epoll, EventFlags::IN)?;
        Ok(!close_first)
    }

    fn wait_for(&self, epoll: &OwnedFd, flags: EventFlags) -> Result<()> {
        let data = EventData::new_u64(self.stream.as_raw_fd() as u64);
        epoll::modify(epoll, &self.stream, data, flags)
    }
}

fn some_sent(written: Result<usize>) -> Result<usize> {
    match written {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => other,
    }
}
