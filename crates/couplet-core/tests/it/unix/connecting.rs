//! UNIX connects on the real system, and sockets made by the user.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use couplet::testing::success_of;
use couplet::{ConnectOptions, ListenOptions, PeerCredentials, SocketOption, UnixAddress, hooks};

use crate::needed::Folder;
use crate::suite::kit::{BOTH_ROLES, Kit};
use crate::suite::recorder::{Maker, On, Script};

#[test]
fn a_connect_to_no_socket_fails_with_the_systems_error() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let failure = |rig: &mut crate::suite::kit::Rig, name: &str| {
        let a = rig.end();
        rig.reactor
            .connect(UnixAddress::from(folder.join(name)), Maker::new(&a.log, |_| None))
            .detach();
        rig.until("a failure", || a.log.has("client_connection_failed"));
        a.log.entries()[2].clone()
    };
    let failed = |text: &str| format!("client_connection_failed(Failed({text}))");
    assert_eq!(failure(&mut rig, "nothing"), failed("no such file or directory"));
    drop(UnixListener::bind(folder.join("stale")).expect("a free path"));
    assert_eq!(failure(&mut rig, "stale"), failed("connection refused"));
}

#[test]
fn connects_wait_while_the_queue_of_the_port_is_full() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let address = socket2::SockAddr::unix(&path).expect("a short path");
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let listener = listener.expect("a socket");
    listener.bind(&address).expect("a free path");
    listener.listen(0).expect("it is bound");
    let _first = UnixStream::connect(&path).expect("the queue holds one");
    let (waiting, stopped) = ([rig.end(), rig.end(), rig.end()], rig.end());
    for a in &waiting {
        rig.reactor.connect(UnixAddress::from(path.clone()), a.once(Script::new())).detach();
    }
    let connector = hooks::connector(
        &rig.reactor,
        UnixAddress::from(path),
        ConnectOptions::default(),
        Maker::new(&stopped.log, |_| None),
    );
    rig.turns(5);
    assert!(waiting.iter().all(|a| a.log.len() == 0), "it is full");
    connector.stop_connecting();
    rig.turns(2);
    assert_eq!(stopped.log.count("client_connection_failed(Failed(the attempt was stopped))"), 1);
    listener.set_nonblocking(true).expect("an option");
    let mut accepted = Vec::new();
    rig.until("connections", || {
        accepted.extend(listener.accept());
        waiting.iter().all(|a| a.is_made())
    });
}

#[test]
fn connects_that_wait_for_a_queue_fail_when_its_port_stops() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    // Twice, with several that wait.
    for round in 1..=2 {
        let address = socket2::SockAddr::unix(&path).expect("a short path");
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
        let listener = listener.expect("a socket");
        listener.bind(&address).expect("a free path");
        listener.listen(0).expect("it is bound");
        let _first = UnixStream::connect(&path).expect("the queue holds one");
        let waiting = [rig.end(), rig.end(), rig.end()];
        for a in &waiting {
            let to = UnixAddress::from(path.clone());
            hooks::connector(
                &rig.reactor,
                to,
                ConnectOptions::default(),
                Maker::new(&a.log, |_| None),
            );
        }
        rig.turns(5);
        let failed = "client_connection_failed(Failed(connection refused))";
        assert!(waiting.iter().all(|a| a.log.count(failed) == 0), "it is full");
        drop(listener);
        rig.until("the failures", || waiting.iter().all(|a| a.log.has(failed)));
        assert!(waiting.iter().all(|a| a.log.count("client_connection_failed") == 1), "{round}");
        assert_eq!(rig.l.snapshot().connectors.len(), 0, "{round}");
        std::fs::remove_file(&path).expect("it stays");
    }
}

#[test]
fn a_socket_is_prepared_before_it_connects_and_an_error_fails_the_attempt() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let _listener = UnixListener::bind(&path).expect("a free path");
    let prepared = ConnectOptions::default().prepare(|socket| {
        assert!(socket.peer_addr().is_err(), "it is not connected yet");
        socket.set_recv_buffer_size(4096)
    });
    let a = rig.end();
    hooks::connector(&rig.reactor, UnixAddress::from(&path), prepared, a.once(Script::new()));
    rig.until("connection_made", || a.is_made());
    let size = Rc::new(Cell::new(0));
    let seen = size.clone();
    a.transport().with_socket(move |socket| socket.recv_buffer_size().map(|size| seen.set(size)));
    rig.until("its size", || size.get() > 0);
    assert!(size.get() <= 2 * 4096, "{}", size.get());
    let refuses = ConnectOptions::default().prepare(|_| Err(std::io::Error::other("by wish")));
    let b = rig.end();
    hooks::connector(&rig.reactor, UnixAddress::from(path), refuses, Maker::new(&b.log, |_| None));
    rig.until("the failure", || b.log.has("client_connection_failed(Failed(by wish))"));
}

#[test]
fn c51a_unix_sockets_are_adopted_too() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(b"early").expect("room");
    let (a, number) = (rig.end(), ours.as_raw_fd());
    let adopted =
        rig.reactor.adopt(ours, a.once(Script::new().once(On::Data, |t| t.write("answer"))));
    let adopted = adopted.expect("a connected socket");
    rig.until("bytes that came before", || a.received_len() == 5);
    let connection = success_of(adopted);
    assert_eq!(connection.transport().peer(), &UnixAddress::Unnamed.into());
    assert_eq!(hooks::descriptor(&connection.transport()), Some(number));
    let mut answer = [0; 6];
    theirs.read_exact(&mut answer).expect("an answer");
    // An adopted port leaves its file to its creator.
    let path = folder.join("port");
    let listener = UnixListener::bind(&path).expect("a free path");
    let log = a.log.clone();
    let port = rig.reactor.adopt_port(listener, Maker::new(&log, |_| None)).expect("it listens");
    assert_eq!(port.host(), UnixAddress::from(&path).into());
    let _client = UnixStream::connect(&path).expect("it listens");
    rig.until("a connection", || log.has("build(unix:*)"));
    port.stop_listening().expect("it listens").detach();
    rig.turns(2);
    assert_eq!(folder.names(), ["port"]);
}

#[test]
fn a_connection_has_its_descriptor_until_it_is_lost() {
    for role in BOTH_ROLES {
        let (mut rig, a, b) = Kit::mio().unix().pair(role, Script::new());
        let number = Rc::new(Cell::new(None));
        let seen = number.clone();
        a.transport().with_socket(move |socket| {
            seen.set(Some(socket.as_raw_fd()));
            Ok(())
        });
        rig.until("its socket", || number.get().is_some());
        assert_eq!(hooks::descriptor(&a.transport()), number.get(), "{role:?}");
        drop(b);
        rig.lost(&a);
        assert_eq!(hooks::descriptor(&a.transport()), None, "{role:?}");
    }
}

#[test]
fn c60a_bytes_that_have_arrived_before_a_write_error_are_read() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let a = rig.end();
    let script = Script::new().once(On::Data, |transport| transport.write("x"));
    rig.reactor
        .listen((UnixAddress::from(folder.join("port")), ListenOptions::default()), a.once(script))
        .expect("a free path");
    // More than one read; then the peer reads no more, and stays.
    let mut peer = UnixStream::connect(folder.join("port")).expect("it listens");
    peer.set_nonblocking(true).expect("an option");
    let sent = peer.write(&[7; 150_000]).expect("there is room");
    peer.shutdown(Shutdown::Read).expect("it is connected");
    rig.until("write_closed", || a.log.has("write_closed"));
    rig.until("all of it", || a.received_len() == sent);
    assert!(a.log.count("data") > 1 && !a.is_lost());
}

#[test]
fn c64_options_of_tcp_do_nothing() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let a = rig.end();
    let options = ListenOptions::default().reuse_port(true).no_delay(true);
    let port = rig
        .reactor
        .listen((UnixAddress::from(folder.join("port")), options), a.once(Script::new()));
    let b = rig.peer(&port.expect("a free path"));
    rig.until("connection_made", || a.is_made());
    let ((), lines) = crate::logged::logged(|| {
        a.transport().set_option(SocketOption::NoDelay(false));
        a.transport().set_option(SocketOption::KeepAlive(Some(std::time::Duration::from_secs(5))));
        a.transport().set_option(SocketOption::ResetUnlessClosed(true));
        rig.turns(2);
    });
    assert!(lines.is_empty(), "{lines:?}");
    b.send(b"still here");
    rig.until("bytes", || a.received_len() == 10);
}

#[cfg(target_os = "linux")]
#[test]
fn peer_credentials_identify_the_other_end() {
    for role in BOTH_ROLES {
        let (mut rig, a, b) = Kit::mio().unix().pair(
            role,
            Script::new().on(On::Made, |t| assert!(t.info::<PeerCredentials>().is_some())),
        );
        let peer = a.transport().info::<PeerCredentials>().expect("a UNIX socket");
        assert_eq!(peer.pid, std::process::id(), "{role:?}");
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        drop(b);
        rig.lost(&a);
        assert_eq!(a.transport().info::<PeerCredentials>(), Some(peer), "after the end too");
    }
    let (_rig, a, _b) = Kit::mio().accept(Script::new());
    assert_eq!(a.transport().info::<PeerCredentials>(), None);
}
