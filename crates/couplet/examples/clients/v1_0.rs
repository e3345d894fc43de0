//! Part 3, client 1.0: our own sockets; the reactor calls back when one is readable.
//!
//! `cargo run --example clients -- v1_0 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::{Cell, OnceCell};
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use couplet::{Interest, Reactor, Watch};

pub(crate) struct PoetrySocket {
    task: usize,
    socket: TcpStream,
    poem: String,
}

impl AsFd for PoetrySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl PoetrySocket {
    /// Reads all available bytes; returns true at the end of the poem.
    fn do_read(&mut self) -> io::Result<bool> {
        let mut piece = [0; 1024];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(n) => {
                    println!("task {}: {n} bytes of poetry", self.task);
                    self.poem.push_str(&String::from_utf8_lossy(&piece[..n]));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Watches a socket until its poem has ended; the last one to end stops the reactor.
fn watch(reactor: &Reactor, socket: PoetrySocket, waiting: Rc<Cell<usize>>) -> couplet::Result<()> {
    let own: Rc<OnceCell<Watch<PoetrySocket>>> = Rc::default();
    let (slot, stopping) = (own.clone(), reactor.clone());
    let watch = reactor.watch(socket, Interest::Readable, move |socket, _ready| {
        match socket.do_read() {
            Ok(false) => return,
            Ok(true) => println!("task {}: a poem of {} bytes", socket.task, socket.poem.len()),
            Err(error) => println!("task {}: no poem: {error}", socket.task),
        }
        slot.get().expect("it is set before the first turn").stop().detach();
        waiting.set(waiting.get() - 1);
        if waiting.get() == 0 {
            stopping.stop();
        }
    })?;
    let _ = own.set(watch);
    Ok(())
}

/// Gets the poems over blocking or non-blocking sockets.
pub(crate) fn get_poems(servers: Vec<SocketAddr>, blocking: bool) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let waiting = Rc::new(Cell::new(servers.len()));
        for (task, server) in (1..).zip(servers) {
            let socket = TcpStream::connect(server)?;
            socket.set_nonblocking(!blocking)?;
            watch(reactor, PoetrySocket { task, socket, poem: String::new() }, waiting.clone())?;
        }
        Ok(())
    })
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    get_poems(servers, false)
}
