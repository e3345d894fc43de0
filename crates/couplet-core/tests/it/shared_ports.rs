//! Row 103h: a port whose connections one loop distributes among all loops, here in one thread.

#![cfg(unix)]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::Mio;
use couplet::{Cluster, Loop, LoopOptions, Protocol, Transport};

use crate::apart::turn_while;
use crate::logged::logged;
use crate::needed::Folder;
use crate::suite::tap::{Tap, Tapped};

/// Sends its name.
struct Who(u8);

impl Protocol for Who {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write([self.0]);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn tapped() -> (Loop, Rc<Tapped>) {
    let mio = Mio::new(64 * 1024).expect("a poll descriptor");
    let (tap, tapped) = Tap::new(Box::new(mio));
    (Loop::with_driver(tap, LoopOptions::default()), tapped)
}

#[test]
fn c103h_a_connection_that_cannot_be_handed_on_is_served_where_it_was_accepted() {
    let folder = Folder::new();
    let at = format!("unix:{}:backlog=1", folder.path("socket"));
    let port = Cluster::new(2).bind(at.as_str()).expect("a free path");
    let (mut loops, taps): (Vec<Loop>, Vec<Rc<Tapped>>) = (0..2).map(|_| tapped()).unzip();
    for (l, name) in loops.iter().zip(*b"ab") {
        port.listen(&l.reactor(), move || Who(name)).expect("its part of the port");
    }
    let mut served = Vec::new();
    let mut serve = |keeps: bool| {
        taps[0].keeps_sockets.set(keeps);
        let mut client = UnixStream::connect(folder.join("socket")).expect("it listens");
        client.set_nonblocking(true).expect("a socket");
        client.write_all(b"?").expect("room");
        let (mut who, read) = ([0], Cell::new(false));
        while !read.get() {
            for l in &mut loops {
                l.turn(Some(Duration::from_millis(1))).expect("a turn");
            }
            read.set(client.read(&mut who).is_ok());
        }
        served.push(client);
        who[0]
    };
    // The second connection is due to the other loop, which has the fewest. It stays here, and the
    // other loop's count does not grow.
    assert_eq!(serve(false), b'a');
    let (who, lines) = logged(|| serve(true));
    assert_eq!(who, b'a');
    assert!(lines.iter().any(|line| line.contains("cannot hand a connection")), "{lines:?}");
    assert_eq!([serve(false), serve(false)], [b'b', b'b']);
    drop(served);
}

#[test]
fn loops_that_do_not_listen_yet_get_no_clients() {
    const CLIENTS: usize = 64;
    let port = Cluster::new(4).bind("127.0.0.1:0").expect("a free port");
    let mut l = Loop::new().expect("a loop");
    let _listening = port.listen(&l.reactor(), || Who(b'a')).expect("its part of the port");
    let at = port.host().socket_addr().expect("a TCP port");
    turn_while(&mut l, || {
        let clients = (0..CLIENTS).map(|_| TcpStream::connect(at).expect("it listens"));
        for mut client in clients.collect::<Vec<_>>() {
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
            client.read_exact(&mut [0]).expect("the loop that listens serves all");
        }
    });
}
