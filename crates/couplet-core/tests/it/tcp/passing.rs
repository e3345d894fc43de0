//! Row 22d: the socket of a port, passed on to another process: here to another loop.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use couplet::endpoints::{ServerEndpoint, server_from_string};
use couplet::factory::ErasedFactory;
use couplet::testing::{Manner, failure_of, success_of};
use couplet::{Failure, ListenError, ListeningSocket, Port, Reactor};

use super::{TCP, client};
use crate::needed::Folder;
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::Echo;

/// An endpoint on a socket that another loop has bound for it.
#[derive(Debug)]
struct Passed {
    endpoint: Arc<dyn ServerEndpoint>,
    socket: Mutex<Option<ListeningSocket>>,
}

impl Passed {
    /// The endpoint of this text on a duplicate of a port's socket, as another process gets it.
    fn from(rig: &mut Rig, port: &Port, text: &str) -> Passed {
        let socket = ListeningSocket::from_descriptors(descriptors(rig, port)).expect("it listens");
        let endpoint = server_from_string(text).expect("an endpoint");
        Passed { endpoint, socket: Mutex::new(Some(socket)) }
    }
}

impl ServerEndpoint for Passed {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> couplet::Result<Port> {
        let socket = self.socket.lock().unwrap().take().expect("it listens once");
        self.endpoint.listen(reactor, factory.on_socket(move |_| Some(socket)))
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

fn descriptors(rig: &mut Rig, port: &Port) -> Vec<OwnedFd> {
    let duplicate = port.duplicate();
    rig.turns(2);
    success_of(duplicate).into_descriptors().expect("descriptors")
}

fn kind(failure: &Failure) -> Option<ErrorKind> {
    failure.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

fn stop(rig: &mut Rig, port: &Port) {
    port.stop_listening().expect("it listens").detach();
    rig.turns(2);
}

#[test]
fn c22d_a_port_listens_on_the_socket_of_another_under_all_its_layers() {
    for text in [TCP, "throttle:log:tcp:0:interface=127.0.0.1:read=1M"] {
        let (mut first, mut second) = (Kit::mio().rig(), Kit::mio().rig());
        let old = first.reactor.listen(text, || Echo).expect("a free port");
        let (host, passed) = (old.host(), Passed::from(&mut first, &old, text));
        stop(&mut first, &old);
        // The client waits in the queue, which no port serves.
        let mut client = client(&host);
        client.write_all(b"hello").expect("room");
        let port = second.reactor.listen(passed, || Echo).expect("its socket listens");
        assert_eq!((port.host(), port.to_string()), (old.host(), old.to_string()));
        client.set_nonblocking(true).expect("an option");
        let mut echo = [0; 5];
        second.until("an echo", || client.read_exact(&mut echo).is_ok());
        assert_eq!(&echo, b"hello");
        // Stopped and started again it binds its own address.
        stop(&mut second, &port);
        port.start_listening().expect("a free port");
        assert_ne!(port.host(), old.host(), "which is any free port");
    }
}

#[test]
fn c22d_the_file_of_a_unix_socket_stays_for_the_other_process() {
    let (mut first, mut second, folder) = (Kit::mio().rig(), Kit::mio().rig(), Folder::new());
    let path = folder.join("port");
    let text = format!("unix:{}", path.display());
    let old = first.reactor.listen(&*text, || Echo).expect("a free path");
    let passed = Passed::from(&mut first, &old, &text);
    // A port on a duplicate leaves the socket file and its lock in place until it owns them.
    let unused = Passed::from(&mut first, &old, &text);
    drop(second.reactor.listen(unused, || Echo).expect("its socket listens"));
    drop(second);
    let names = ["port", "port.lock"];
    assert_eq!(folder.names(), names);
    old.keep_socket_file(true);
    stop(&mut first, &old);
    drop(first);
    assert_eq!(folder.names(), names);
    second = Kit::mio().rig();
    let taken = second.reactor.listen(&*text, || Echo).expect_err("the lock is passed on too");
    let taken = taken.downcast_ref::<ListenError>().map(|error| error.source.kind());
    assert_eq!(taken, Some(ErrorKind::AddrInUse));
    let port = second.reactor.listen(passed, || Echo).expect("its socket listens");
    port.keep_socket_file(false);
    second.turns(2);
    UnixStream::connect(&path).expect("it listens");
    stop(&mut second, &port);
    assert!(folder.names().is_empty());
}

#[test]
fn c22d_a_port_without_a_lock_is_passed_on_too() {
    let (mut rig, folder) = (Kit::mio().rig(), Folder::new());
    let text = format!("unix:{}:lockfile=0", folder.join("port").display());
    let port = rig.reactor.listen(&*text, || Echo).expect("a free path");
    assert_eq!(descriptors(&mut rig, &port).len(), 1);
    let passed = Passed::from(&mut rig, &port, &text);
    let other = rig.reactor.listen(passed, || Echo).expect("its socket listens");
    other.keep_socket_file(false);
    stop(&mut rig, &other);
    assert!(folder.names().is_empty());
    // A port whose file was removed is passed on without it.
    assert_eq!(descriptors(&mut rig, &port).len(), 1);
}

#[test]
fn c22d_no_other_descriptor_is_a_port() {
    let none = ListeningSocket::from_descriptors([]);
    assert_eq!(none.expect_err("no descriptor").kind(), ErrorKind::InvalidInput);
    let (one, _other) = UnixStream::pair().expect("descriptors");
    let connected = ListeningSocket::from_descriptors([one.into()]);
    assert_eq!(connected.expect_err("it doesn't listen").kind(), ErrorKind::InvalidInput);
    let file = std::fs::File::open(Path::new("/dev/null")).expect("a device");
    ListeningSocket::from_descriptors([file.into()]).expect_err("no socket");
    let name = Folder::new();
    let socket = UnixListener::bind(name.join("port")).expect("a free path");
    ListeningSocket::from_descriptors([socket.into()]).expect("a socket without a lock");
}

#[test]
fn c22d_a_port_that_stops_has_no_duplicate() {
    let mut rig = Kit::mio().rig();
    let listen = |rig: &Rig| rig.reactor.listen(TCP, || Echo);
    let port = listen(&rig).expect("a free port");
    // Asked before the stop, it is answered first.
    let (early, stopped) = (port.duplicate(), port.stop_listening());
    stopped.expect("it listens").detach();
    let late = port.duplicate();
    rig.turns(2);
    success_of(early);
    for refused in [late, port.duplicate()] {
        let words = failure_of(refused).to_string();
        assert!(words.starts_with("the port "), "{words}");
    }
    let port = listen(&rig).expect("a free port");
    let asked = port.duplicate();
    drop(rig);
    failure_of(asked);
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let port = listen(&rig).expect("a free port");
    let asked = port.duplicate();
    rig.turns(2);
    assert_eq!(kind(&failure_of(asked)), Some(ErrorKind::Unsupported));
}
