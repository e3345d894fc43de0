//! Rows 103h, 103k and 103l: a port whose connections one loop distributes among all loops, here in one thread.

#![cfg(unix)]

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Mutex;
#[cfg(target_os = "linux")]
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use couplet::endpoints::{Sharing, server_from_string};
use couplet::{
    Address, Cluster, HandOver, ListenError, ListeningSocket, LoadLimits, Loop, LoopOptions, Port,
    Protocol, ProtocolExtension, Reason, Transport,
};
use couplet_core::driver::Mio;
use socket2::{Domain, SockRef, Socket, Type};

use crate::logged::logged;
use crate::needed::Folder;
use crate::suite::tap::{Tap, Tapped};
use couplet_testkit_loops::doubles::on_made;
use couplet_testkit_loops::{PATIENCE, turn_while};

fn who(name: u8) -> impl Protocol {
    on_made(move |transport| transport.write([name]))
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
        port.listen(&l.reactor(), move || who(name)).expect("its part of the port");
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
    // The second connection is due to the other loop, which has the fewest, but stays here; the
    // other loop's count does not grow.
    assert_eq!(serve(false), b'a');
    let (who, lines) = logged(|| serve(true));
    assert_eq!(who, b'a');
    assert!(lines.iter().any(|line| line.contains("cannot hand a connection")), "{lines:?}");
    assert_eq!([serve(false), serve(false)], [b'b', b'b']);
    drop(served);
}

#[test]
fn c103g_each_loop_has_the_options_of_the_wrappers_and_its_part_of_the_limits_that_are_shared() {
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
            let port = shared.listen(&l.reactor(), || who(b'a')).expect("its part of the port");
            assert_eq!(port.host(), *shared.host());
            for _ in 0..2 {
                let is_served = || {
                    let mut client = TcpStream::connect(at).expect("it listens");
                    client.set_read_timeout(Some(PATIENCE)).expect("a socket");
                    client.read_exact(&mut [0]).is_ok()
                };
                // A child that another test is starting may briefly hold the port that has stopped, and
                // then resets its clients.
                turn_while(&mut l, || while !is_served() {});
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
        let port = shared.listen(&l.reactor(), || who(b'a')).expect("its part of the port");
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
    let _listening = port.listen(&l.reactor(), || who(b'a')).expect("its part of the port");
    let at = port.host().socket_addr().expect("a TCP port");
    turn_while(&mut l, || {
        let clients = (0..CLIENTS).map(|_| TcpStream::connect(at).expect("it listens"));
        for mut client in clients.collect::<Vec<_>>() {
            client.set_read_timeout(Some(PATIENCE)).expect("a socket");
            client.read_exact(&mut [0]).expect("the loop that listens serves all");
        }
    });
}

fn turn_all(loops: &mut [Loop], mut done: impl FnMut() -> bool) {
    let late = loops[0].reactor().now() + PATIENCE;
    while !done() {
        assert!(loops[0].reactor().now() < late, "it does not come");
        for l in &mut *loops {
            l.turn(Some(Duration::from_millis(1))).expect("a turn");
        }
    }
}

/// Counts itself while it is connected, and can move.
struct Counted(Rc<Cell<usize>>);

impl Protocol for Counted {
    fn connection_made(&mut self, _: &Transport) {
        self.0.set(self.0.get() + 1);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.0.set(self.0.get() - 1);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Counted {
    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new("counted", [])
    }
}

/// Two loops that share a port at this endpoint, on the sockets of `choose`, with a count each.
fn sharing(
    endpoint: &str,
    choose: impl Fn(Option<&Address>) -> Option<ListeningSocket> + Send + Sync + 'static,
    options: &LoopOptions,
) -> (Vec<Loop>, Vec<Port>, Vec<Rc<Cell<usize>>>) {
    let sharing = Sharing::new(2).on_one_socket(choose);
    let shared = server_from_string(endpoint).unwrap().share(&sharing).expect("a port");
    let loops: Vec<Loop> =
        (0..2).map(|_| Loop::with_options(options.clone()).expect("a loop")).collect();
    let counts: Vec<Rc<Cell<usize>>> = (0..2).map(|_| Rc::default()).collect();
    let listen = |(l, count): (&Loop, &Rc<Cell<usize>>)| {
        let count = count.clone();
        shared.listen(&l.reactor(), move || Counted(count.clone())).expect("its part of the port")
    };
    let ports = loops.iter().zip(&counts).map(listen).collect();
    (loops, ports, counts)
}

#[test]
fn c103k_a_socket_that_no_loop_has_used_can_be_taken() {
    let shared = |endpoint: &str, loops| {
        let sharing = Sharing::new(loops);
        server_from_string(endpoint).unwrap().share(&sharing).expect("a port")
    };
    for endpoint in ["tcp:127.0.0.1:0", "throttle:127.0.0.1:0:read=1M"] {
        let port = shared(endpoint, 1);
        let host = port.host().clone();
        let socket = port.into_socket().expect("one loop, one socket");
        assert_eq!(socket.address().expect("it is bound"), host, "{endpoint}");
    }
    let used = shared("tcp:127.0.0.1:0", 1);
    let l = Loop::new().expect("a loop");
    let _port = used.listen(&l.reactor(), || Counted(Rc::default())).expect("it listens");
    assert!(used.into_socket().is_none());
    if cfg!(target_os = "linux") {
        assert!(shared("tcp:127.0.0.1:0", 2).into_socket().is_none(), "each loop has its own");
    }
}

#[test]
fn c103k_a_chosen_socket_is_shared_and_any_loop_duplicates_it() {
    for kind in ["tcp", "throttle:tcp", "fd"] {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = socket.local_addr().expect("it is bound");
        let endpoint = match kind {
            "fd" => "fd:9999".to_owned(),
            "tcp" => format!("tcp:{at}"),
            _ => format!("{kind}:{at}:read=1M"),
        };
        let chosen = Mutex::new(Some(ListeningSocket::from(socket)));
        let choose = move |_: Option<&Address>| chosen.lock().unwrap().take();
        let (mut loops, ports, counts) = sharing(&endpoint, choose, &LoopOptions::default());
        let clients = [0; 4].map(|_| TcpStream::connect(at).expect("it listens"));
        turn_all(&mut loops, || counts.iter().all(|count| count.get() == 2));
        for port in &ports {
            let duplicate = Rc::new(RefCell::new(None));
            let (slot, done) = (duplicate.clone(), duplicate.clone());
            port.duplicate().map(move |socket| *slot.borrow_mut() = Some(socket)).detach();
            turn_all(&mut loops, || done.borrow().is_some());
            let duplicate = duplicate.take().expect("a socket");
            assert_eq!(duplicate.address().expect("it is bound"), at.into(), "{kind}");
        }
        drop(clients);
    }
}

/// On an address that no other test uses.
#[cfg(target_os = "linux")]
#[test]
fn c103k_a_socket_is_chosen_again_each_time_a_loop_listens_after_all_have_stopped() {
    let chosen = Arc::new(AtomicUsize::new(0));
    let counted = chosen.clone();
    let sharing = Sharing::new(2).on_one_socket(move |address: Option<&Address>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let at = address.and_then(Address::socket_addr).expect("a TCP address");
        // Shared, because a child that another test is starting may briefly hold the one before.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let bound = socket.set_reuse_port(true).and_then(|()| socket.bind(&at.into()));
        bound.and_then(|()| socket.listen(5)).expect("the port is free");
        Some(ListeningSocket::from(std::net::TcpListener::from(socket)))
    });
    let shared = server_from_string("127.83.7.2:0").unwrap().share(&sharing).expect("a port");
    let mut l = Loop::new().expect("a loop");
    for round in 1..=3 {
        let port = shared.listen(&l.reactor(), || who(b'a')).expect("its part of the port");
        assert_eq!((chosen.load(Ordering::Relaxed), &port.host()), (round, shared.host()));
        l.run_until(port.stop_listening().expect("it listens")).expect("it stops");
    }
}

#[test]
fn c103k_the_file_of_a_shared_unix_socket_stays_if_it_belongs_to_another_process() {
    for is_kept in [false, true] {
        let folder = Folder::new();
        let endpoint = format!("unix:{}", folder.path("socket"));
        let (mut loops, ports, _) = sharing(&endpoint, |_| None, &LoopOptions::default());
        turn_all(&mut loops, || ports.iter().all(Port::is_listening));
        ports[1].keep_socket_file(is_kept);
        loops.iter_mut().for_each(|l| drop(l.turn(Some(Duration::ZERO))));
        ports.iter().for_each(|port| port.stop_listening().expect("it listens").detach());
        assert_eq!(folder.join("socket").exists(), is_kept);
        assert_eq!(folder.join("socket.lock").exists(), is_kept);
    }
}

/// A port that one loop has for itself, and the number of its connections.
fn unshared(l: &Loop) -> (SocketAddr, Rc<Cell<usize>>) {
    let count = Rc::<Cell<usize>>::default();
    let counted = count.clone();
    let port = l.reactor().listen("localhost:0", move || Counted(counted.clone())).unwrap();
    (port.host().socket_addr().unwrap(), count)
}

#[test]
fn c103l_a_loop_that_is_full_gets_no_connection_of_another() {
    let options = LoopOptions::default().load_limits(LoadLimits::default().connections(3));
    let (mut loops, ports, counts) = sharing("127.0.0.1:0", |_| None, &options);
    let at = ports[0].host().socket_addr().expect("a TCP port");
    // The second loop also serves a port that is not shared.
    let (other, own) = unshared(&loops[1]);
    let mut clients = vec![TcpStream::connect(other).unwrap()];
    turn_all(&mut loops, || own.get() == 1);
    clients.extend((0..9).map(|_| TcpStream::connect(at).expect("it listens")));
    let all = || counts.iter().map(|count| count.get()).collect::<Vec<_>>();
    turn_all(&mut loops, || all() == [3, 2]);
    for _ in 0..50 {
        loops.iter_mut().for_each(|l| drop(l.turn(Some(Duration::from_millis(1)))));
        assert_eq!((all(), own.get()), (vec![3, 2], 1));
    }
    // Waiting clients are served when others have ended.
    clients.drain(..6);
    turn_all(&mut loops, || all().iter().sum::<usize>() == 4);
}

#[test]
fn c103l_two_ports_of_a_loop_do_not_exceed_its_limit() {
    let options = LoopOptions::default().load_limits(LoadLimits::default().connections(2));
    let (mut loops, ports, counts) = sharing("127.0.0.1:0", |_| None, &options);
    let at = ports[0].host().socket_addr().expect("a TCP port");
    let (other, own) = unshared(&loops[1]);
    let mut clients = vec![TcpStream::connect(other).unwrap(), TcpStream::connect(at).unwrap()];
    turn_all(&mut loops, || own.get() == 1 && counts[0].get() == 1);
    // The first loop accepts a connection. The second has fewer of that port, but its last place is due
    // to the client that waits at its unshared port.
    clients.extend([TcpStream::connect(other).unwrap(), TcpStream::connect(at).unwrap()]);
    for _ in 0..20 {
        loops[0].turn(Some(Duration::from_millis(1))).unwrap();
    }
    turn_all(&mut loops, || own.get() == 2);
    for _ in 0..50 {
        loops.iter_mut().for_each(|l| drop(l.turn(Some(Duration::from_millis(1)))));
        let open = counts.iter().map(|count| count.get()).collect::<Vec<_>>();
        assert_eq!((open, own.get()), (vec![2, 0], 2));
    }
    drop(clients);
}

#[test]
fn c103k_a_connection_that_was_taken_over_belongs_to_the_shared_port() {
    let (mut loops, ports, counts) = sharing("127.0.0.1:0", |_| None, &LoopOptions::default());
    let at = ports[0].host().socket_addr().expect("a TCP port");
    let client = TcpStream::connect(at).expect("it listens");
    turn_all(&mut loops, || counts[0].get() == 1);
    let id = loops[0].snapshot().connections[0].id;
    let (other, count) = (loops[1].reactor(), counts[1].clone());
    let moved = loops[0].reactor().hand_over(id).add_callback(move |handed| {
        other.take_over(handed.expect("it moves"), Counted(count))?.detach();
        Ok(())
    });
    moved.detach();
    turn_all(&mut loops, || counts[1].get() == 1);
    // A protocol that has moved gets no `connection_lost`.
    counts[0].set(0);
    // The moved connection counts in the second loop, so the next one goes to the first.
    let second = TcpStream::connect(at).expect("it listens");
    turn_all(&mut loops, || counts[0].get() == 1);
    ports[1].drain(Duration::ZERO).detach();
    turn_all(&mut loops, || counts[1].get() == 0);
    assert_eq!(counts[0].get(), 1);
    drop((client, second));
}

#[test]
fn c103l_a_connection_that_ends_on_its_way_to_another_loop_takes_no_place() {
    let options = LoopOptions::default().load_limits(LoadLimits::default().connections(3));
    let (mut loops, ports, counts) = sharing("127.0.0.1:0", |_| None, &options);
    let at = ports[0].host().socket_addr().expect("a TCP port");
    let connect = || TcpStream::connect(at).expect("it listens");
    let first = connect();
    turn_all(&mut loops, || counts[0].get() == 1);
    let turns = |l: &mut Loop| {
        (0..10).for_each(|_| assert!(l.turn(Some(Duration::from_millis(1))).expect("a turn")));
    };
    for _ in 0..3 {
        // It is due to the second loop, and reset before that gets it.
        let gone = connect();
        turns(&mut loops[0]);
        SockRef::from(&gone).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(gone);
        let ((), lines) = logged(|| turns(&mut loops[1]));
        let failed = lines.iter().filter(|line| line.contains("cannot serve a connection"));
        assert_eq!(failed.count(), 1, "{lines:?}");
    }
    let second = connect();
    turn_all(&mut loops, || counts[1].get() == 1);
    assert_eq!(counts[0].get(), 1);
    drop((first, second));
}
