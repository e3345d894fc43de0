//! Rows 47 to 49: how a port accepts, what it does when it can't, and the queue and address that
//! it takes of the system.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Address, ListenOptions, Loop, Port, Protocol, Reason, Transport};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::logged::logged;
use crate::suite::far::{B, Saw};
use crate::suite::kit::{Kit, LOOPBACK, Rig};
use crate::suite::recorder::Script;

struct Echo;
impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

fn address(port: &Port) -> SocketAddr {
    port.host().socket_addr().expect("an IP address")
}

/// A port with a long queue, and how many protocols it has built.
fn counting_port(rig: &Rig) -> (Port, Rc<Cell<usize>>) {
    let built = Rc::new(Cell::new(0));
    let counter = built.clone();
    let factory = move || {
        counter.set(counter.get() + 1);
        Echo
    };
    let options = ListenOptions::default().backlog(512);
    let port = rig.reactor.listen_tcp_with(LOOPBACK, options, factory);
    (port.expect("a free port"), built)
}

#[test]
fn c47_a_round_of_accepts_is_bounded() {
    #[cfg(target_os = "linux")]
    {
        let longest = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a figure");
        let longest: usize = longest.trim().parse().expect("a number");
        assert!(longest >= 150, "this test needs net.core.somaxconn to be 150 or more");
    }
    let mut rig = Kit::mio().rig();
    let (flooded, of_flooded) = counting_port(&rig);
    let (other, of_other) = counting_port(&rig);
    rig.turn();
    let mut far_ends: Vec<B> = (0..150).map(|_| rig.far(&flooded)).collect();
    far_ends.extend((0..10).map(|_| rig.far(&other)));
    let mut built_by_turn = Vec::new();
    for _ in 0..3 {
        rig.turn();
        built_by_turn.push((of_flooded.get(), of_other.get()));
    }
    assert_eq!(built_by_turn, [(100, 10), (150, 10), (150, 10)]);
    for b in &far_ends {
        b.send(b"x");
        rig.until("an echo", || b.take_all() > 0);
    }
}

/// The clients of the test on descriptors: plain sockets that block.
mod plain {
    use super::*;

    pub(super) fn connected(to: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
        socket.connect(&to.into()).expect("the port queues it");
        socket
    }

    pub(super) fn read(socket: &Socket) -> std::io::Result<String> {
        let mut bytes = [0; 64];
        let n = { socket }.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
    }

    pub(super) fn ask(socket: &Socket, what: &str) -> String {
        { socket }.write_all(what.as_bytes()).expect("it is read");
        read(socket).expect("an answer within 10 s")
    }

    /// The end of the stream, or a reset: but an end, and no bytes before.
    pub(super) fn is_turned_away(socket: &Socket) -> bool {
        match read(socket) {
            Ok(text) => text.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// The child has the address of its parent here.
const PARENT: &str = "COUPLET_TEST_OUT_OF_DESCRIPTORS";

/// Limits are those of a process, and are not to be met by other tests: this test runs itself in a
/// child, and plays the clients. The child's connection to it is the one that was open before.
#[test]
fn c48_out_of_descriptors_the_pending_are_closed_and_the_port_lives() {
    if let Ok(parent) = std::env::var(PARENT) {
        return serve_without_descriptors(parent.parse().expect("an address"));
    }
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&LOOPBACK.into()).expect("a free port");
    listener.listen(1).expect("a free port");
    listener.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
    let here = listener.local_addr().ok().and_then(|address| address.as_socket());
    let mut child = Command::new(std::env::current_exe().expect("a test runs from a file"));
    let name = "tcp::accepting::c48_out_of_descriptors_the_pending_are_closed_and_the_port_lives";
    let child = child
        .args([name, "--exact", "--nocapture"])
        .env(PARENT, here.expect("an IP address").to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a test can be run");

    let (control, _) = listener.accept().expect("the child connects");
    control.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
    let port = plain::read(&control).expect("the child tells where it listens");
    let port: SocketAddr = port.parse().expect("an address");
    assert_eq!(plain::ask(&control, "limit"), "done");
    let waiting: Vec<Socket> = (0..5).map(|_| plain::connected(port)).collect();
    assert_eq!(plain::ask(&control, "accept"), "done");
    assert!(waiting.iter().all(plain::is_turned_away));
    assert!(
        (0..5).all(|_| plain::is_turned_away(&plain::connected(port))),
        "however long it lasts"
    );
    assert_eq!(plain::ask(&control, "raise"), "done", "what was open lives on");
    assert_eq!(plain::ask(&plain::connected(port), "served"), "served");
    let turns: u32 = plain::ask(&control, "stop").parse().expect("a number");
    assert!(turns < 100, "{turns} turns: it spins");
    let output = child.wait_with_output().expect("the child ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
}

/// The child's connection to its parent, which says what is to be done.
struct Control {
    port: Port,
    limit: Rlimit,
    turns: Rc<Cell<u32>>,
    stopped: Rc<Cell<bool>>,
}

impl Control {
    /// No descriptor can be opened that is not open now.
    fn limit(&self) {
        let next = std::fs::File::open("/dev/null").expect("there is one").as_raw_fd();
        let current = u64::try_from(next).ok();
        setrlimit(Resource::Nofile, Rlimit { current, ..self.limit }).expect("less is allowed");
    }
}

impl Protocol for Control {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(address(&self.port).to_string());
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match data {
            b"limit" => {
                self.port.pause_producing(); // so that all wait together
                self.limit();
            }
            b"accept" => self.port.resume_producing(),
            b"raise" => setrlimit(Resource::Nofile, self.limit).expect("it was allowed"),
            _ => {
                self.stopped.set(true);
                return transport.write(self.turns.get().to_string());
            }
        }
        transport.write("done");
    }

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        self.stopped.set(true); // the parent has failed
    }
}

fn serve_without_descriptors(parent: SocketAddr) {
    let ((), lines) = logged(|| {
        let mut l = Loop::new().expect("a poll descriptor");
        let reactor = l.reactor();
        let port = reactor.listen_tcp(LOOPBACK, || Echo).expect("a free port");
        let (turns, stopped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let mut control = Some(Control {
            port,
            limit: getrlimit(Resource::Nofile),
            turns: turns.clone(),
            stopped: stopped.clone(),
        });
        let factory = move |_: &Address| control.take();
        reactor.connect_tcp(&parent.ip().to_string(), parent.port(), factory);
        while !stopped.get() {
            l.turn(None).expect("the driver does not fail");
            turns.set(turns.get() + 1);
        }
    });
    assert!(matches!(&lines[..], [line] if line.contains("cannot accept")), "{lines:?}");
}

/// Begins to connect; writable means connected.
fn dial(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    // It may be on its way.
    let _ = socket.connect(&to.into());
    socket
}

fn is_writable(socket: &Socket, within: i64) -> bool {
    let timeout = Timespec { tv_sec: within, tv_nsec: 0 };
    let mut sockets = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut sockets, Some(&timeout)).expect("a poll") == 1
}

#[cfg(target_os = "linux")]
#[test]
fn c49_the_backlog_is_50() {
    let mut rig = Kit::mio().rig();
    let port = rig.listen_with(|| Echo);
    let to = address(&port);
    // Linux takes one more than it is told.
    let queued: Vec<Socket> = (0..51).map(|_| dial(to)).collect();
    assert!(queued.iter().all(|socket| is_writable(socket, 10)));
    let one_more = dial(to);
    assert!(!is_writable(&one_more, 0), "the queue is full");
    rig.turns(2);
    assert!(is_writable(&dial(to), 10), "there is room again");
}

#[test]
fn c49_an_address_can_be_taken_again_while_old_connections_linger() {
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let port = rig.listen(&a, Script::new());
    let b = rig.far(&port);
    rig.until("connection_made", || a.is_made());
    // Who closes first lingers.
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    b.fin();
    rig.lost(&a);
    port.stop_listening().expect("it listens").detach();
    rig.turns(2);

    let to = address(&port);
    let fresh = ListenOptions::default().reuse_addr(false);
    let error = rig.reactor.listen_tcp_with(to, fresh, || Echo).expect_err("one lingers");
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    let again = rig.reactor.listen_tcp(to, || Echo).expect("it can be taken again");
    let error = rig.reactor.listen_tcp(to, || Echo).expect_err("somebody listens");
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    let b = rig.far(&again);
    b.send(b"x");
    rig.until("an echo", || b.take_all() > 0);
}
