//! Part 2, the select client: our own sockets and our own loop. An owned loop is driven by hand, so
//! the program keeps its own `while` around it, as a `select` program does.
//!
//! `cargo run --example clients -- select 127.0.0.1:10000 127.0.0.1:10001`

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use couplet::{Interest, Loop, Watch};

/// The result of one read from a socket.
enum Found {
    Piece(Vec<u8>),
    End,
}

fn look(socket: &mut TcpStream) -> Option<Found> {
    let mut piece = [0; 1024];
    match socket.read(&mut piece) {
        Ok(0) => Some(Found::End),
        Ok(n) => Some(Found::Piece(piece[..n].to_vec())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(_) => Some(Found::End),
    }
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    let mut l = Loop::new()?;
    let found: Rc<RefCell<Vec<(usize, Found)>>> = Rc::default();
    let mut tasks: BTreeMap<usize, (Watch<TcpStream>, Vec<u8>)> = BTreeMap::new();
    for (task, server) in (1..).zip(servers) {
        let socket = TcpStream::connect(server)?;
        socket.set_nonblocking(true)?;
        let ready = found.clone();
        let watch = l.reactor().watch(socket, Interest::Readable, move |socket, _ready| {
            ready.borrow_mut().extend(look(socket).map(|found| (task, found)));
        })?;
        tasks.insert(task, (watch, Vec::new()));
    }
    while !tasks.is_empty() {
        l.turn(None)?; // in place of `select`
        for (task, found) in found.take() {
            let Some((watch, poem)) = tasks.get_mut(&task) else { continue };
            match found {
                Found::Piece(piece) => {
                    println!("task {task}: {} bytes of poetry", piece.len());
                    poem.extend(piece);
                }
                Found::End => {
                    println!("task {task}: a poem of {} bytes", poem.len());
                    watch.stop().detach();
                    tasks.remove(&task);
                }
            }
        }
    }
    Ok(())
}
