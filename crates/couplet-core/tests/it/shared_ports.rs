//! Row 103h: a port whose connections one loop distributes among all loops, here in one thread.

#![cfg(unix)]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::Mio;
use couplet::{Cluster, ListenError, Loop, LoopOptions, Protocol, Transport};
use socket2::{Domain, Socket, Type};

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
fn each_loop_has_the_options_of_the_wrappers_and_its_part_of_the_limits_that_are_shared() {
    let folder = Folder::new();
    let file = folder.path("log");
    for (bound, of_each_loop) in [
        ("throttle:$:read=1M:shared=yes", "throttle:$:read=250000:shared=yes"),
        ("throttle:$:write=1M:shared=yes", "throttle:$:write=250000:shared=yes"),
        ("throttle:$:read=8:write=3:shared=yes", "throttle:$:read=2:write=1:shared=yes"),
        ("throttle:$:read=8:write=3", "throttle:$:read=8:write=3"),
        ("haproxy:$", "haproxy:$"),
        ("haproxy:$:trusted=10.0.0.0/8:header-timeout=2.5", ""),
        ("haproxy:$:header-timeout=0.5", ""),
        ("log:$:form=hex:limit=9", ""),
        ("log:$:file=@:form=hex:limit=9", ""),
        (
            "log:haproxy:throttle:$:read=4:shared=yes:header-timeout=1:limit=9",
            "log:haproxy:throttle:$:read=1:shared=yes:header-timeout=1:limit=9",
        ),
    ] {
        let fill = |text: &str| text.replace('$', "tcp:0:interface=127.0.0.1").replace('@', &file);
        let expected = fill(if of_each_loop.is_empty() { bound } else { of_each_loop });
        let port = Cluster::new(4).bind(fill(bound)).expect("a free port");
        assert_eq!(port.to_string(), expected, "{bound}");
    }
}

/// On an address that no other test uses: for a port with `reuse_port`, the system may choose a
/// number that another such port of the same user has.
#[cfg(target_os = "linux")]
#[test]
fn a_port_that_is_bound_again_keeps_the_number_that_the_system_chose() {
    for loops in [1, 2] {
        let mut l = Loop::new().expect("a loop");
        let shared = Cluster::new(loops).bind("127.83.7.1:0:reuse_port=yes").expect("a free port");
        let at = shared.host().socket_addr().expect("a TCP port");
        // Keeps the number from other programs while nothing listens.
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        held.set_reuse_port(true).and_then(|()| held.bind(&at.into())).expect("it is shared");
        for _ in 0..3 {
            let port = shared.listen(&l.reactor(), || Who(b'a')).expect("its part of the port");
            assert_eq!(port.host(), *shared.host());
            for _ in 0..2 {
                turn_while(&mut l, || {
                    let mut client = TcpStream::connect(at).expect("it listens");
                    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
                    client.read_exact(&mut [0]).expect("it is served");
                });
                l.run_until(port.stop_listening().expect("it listens")).expect("it stops");
                port.start_listening().expect("the port is free");
                assert_eq!(port.host(), *shared.host());
            }
            l.run_until(port.stop_listening().expect("it listens")).expect("it stops");
        }
    }
}

#[test]
fn a_socket_file_that_is_bound_again_has_its_mode() {
    let (folder, mut l) = (Folder::new(), Loop::new().expect("a loop"));
    let path = folder.join("socket");
    let at = format!("unix:{}:mode=600", folder.path("socket"));
    let shared = Cluster::new(2).bind(at.as_str()).expect("a free path");
    for _ in 0..2 {
        let port = shared.listen(&l.reactor(), || Who(b'a')).expect("its part of the port");
        let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        l.run_until(port.stop_listening().expect("it listens")).expect("it stops");
        assert!(!path.exists());
    }
}

#[test]
fn a_shared_port_may_be_bound_again_as_an_endpoint() {
    let shared = Cluster::new(2).bind("throttle:127.0.0.1:0:read=1M").expect("a free port");
    let again = Cluster::new(3).bind(shared.clone()).expect("it is shared");
    assert_eq!((again.host(), again.to_string()), (shared.host(), shared.to_string()));
}

#[test]
fn a_shared_port_that_cannot_be_bound_is_an_error_with_its_address() {
    let folder = Folder::new();
    let path = folder.path("none/socket");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("it is bound");
    for loops in [1, 2] {
        for (text, address) in [
            (format!("unix:{path}"), format!("unix:{path}")),
            (at.to_string(), format!("tcp:{at}")),
        ] {
            let error = Cluster::new(loops).bind(text).expect_err("it cannot be bound");
            let error = error.downcast_ref::<ListenError>().expect("an error with an address");
            assert_eq!(error.address.to_string(), address, "{loops} loops");
        }
    }
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
