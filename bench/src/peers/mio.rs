//! mio as its documentation teaches it: edge-triggered, read until `WouldBlock`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};

use couplet_os::read_buffer::ReadBuffer;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::kind::Role;

const LISTENER: Token = Token(usize::MAX);

struct Connection {
    stream: TcpStream,
    unsent: VecDeque<u8>,
}

/// Serves with one read buffer of `size` bytes until the process ends.
pub(super) fn serve(listener: std::net::TcpListener, size: usize, role: Role) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;

    let close_first = role == Role::EchoOne;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = ReadBuffer::new(size);
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&poll, &listener, &mut connections, &mut free)?;
                continue;
            }
            let slot = event.token().0;
            let Some(connection) = &mut connections[slot] else {
                continue;
            };
            if !connection.echo(&mut buffer, close_first).unwrap_or(false) {
                poll.registry().deregister(&mut connection.stream)?;
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

fn accept(
    poll: &Poll,
    listener: &TcpListener,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let slot = free.pop().unwrap_or(connections.len());
        if slot == connections.len() {
            connections.push(None);
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(slot), both)?;
        connections[slot] = Some(Connection { stream, unsent: VecDeque::new() });
    }
}

impl Connection {
    /// Reads and writes until either would block; returns false at the end of the connection.
    fn echo(&mut self, buffer: &mut [u8], close_first: bool) -> io::Result<bool> {
        loop {
            while !self.unsent.is_empty() {
                match some(self.stream.write(self.unsent.as_slices().0))? {
                    Some(sent) => drop(self.unsent.drain(..sent)),
                    None => return Ok(true),
                }
            }
            let data = match some(self.stream.read(buffer))? {
                None => return Ok(true),
                Some(0) => return Ok(false),
                Some(length) => &buffer[..length],
            };
            let sent = some(self.stream.write(data))?.unwrap_or(0);
            if sent < data.len() {
                self.unsent.extend(&data[sent..]);
            } else if close_first {
                return Ok(false);
            }
        }
    }
}

/// `None` if the call would block.
fn some(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
