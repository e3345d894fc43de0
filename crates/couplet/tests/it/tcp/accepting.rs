//! Rows 47 to 49: the kernel's queue of connections, its limit of descriptors, and TIME_WAIT.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_types, reason = "plain sockets play the clients")]

use std::cell::OnceCell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use couplet::{ListenOptions, Port, Protocol, Reactor, Transport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::logged::logged;
use crate::suite::kit::{Kit, LOOPBACK, own_address};
use crate::suite::peer::{B, Saw};
use crate::suite::recorder::{A, Log, Maker, On, Script};

/// Sends back what it is sent.
fn echo(received: &A) -> Script {
    let end = received.clone();
    Script::new().on(On::Data, move |transport| {
        transport.write(end.received().last().map_or(&[][..], std::slice::from_ref));
    })
}

#[test]
fn c47_a_round_of_accepts_is_bounded_and_adapts() {
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux says");
    let limit: usize = limit.trim().parse().expect("a number");
    assert!(limit >= 200, "the system queues {limit} connections at most: too few for this test");
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let end = a.clone();
    let factory = Maker::new(&a.log, move |_| Some(end.plays(echo(&end))));
    let options = ListenOptions::default().backlog(512);
    let port = rig.reactor.listen_tcp_with(LOOPBACK, options, factory);
    let port = port.expect("a free port can be opened");
    let calm = rig.end();
    let end = calm.clone();
    let calm_port = rig.listen_with(Maker::new(&calm.log, move |_| Some(end.plays(Script::new()))));
    rig.turn();
    let mut clients: Vec<B> = (0..150).map(|_| rig.peer(&port)).collect();
    let _calm_client = rig.peer(&calm_port);
    let mut round = || {
        let before = a.log.count("build");
        rig.turn();
        a.log.count("build") - before
    };
    assert_eq!(round(), 100);
    assert_eq!(calm.log.count("build"), 1, "a flood at one port holds up no other");
    assert_eq!(round(), 50, "with nothing new");
    clients.extend((0..60).map(|_| rig.peer(&port)));
    let mut round = || {
        let before = a.log.count("build");
        rig.turn();
        a.log.count("build") - before
    };
    assert_eq!([round(), round(), round()], [50, 10, 0], "the short round set the bound");
    for b in &clients {
        b.send(b"x");
        rig.until("an echo", || b.take_all() > 0);
    }
}

/// Of the child, whose descriptors run out: limits hold for a whole process.
struct Child {
    reactor: Reactor,
    port: Rc<OnceCell<Port>>,
    before: Option<Rlimit>,
}

impl Child {
    fn limit_to(&mut self, descriptors: u64) {
        let before = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: Some(descriptors), maximum: before.maximum };
        setrlimit(Resource::Nofile, limit).expect("a lower limit is allowed");
        self.before = Some(before);
    }
}

impl Protocol for Child {
    fn data_received(&mut self, transport: &Transport, command: &[u8]) {
        match command {
            b"pause" => self.port.get().expect("it listens").pause_producing(),
            b"resume" => self.port.get().expect("it listens").resume_producing(),
            b"limit" => {
                // The lowest number that is free is the next to be given.
                let free = std::fs::File::open("/dev/null").expect("there is one more");
                let next = std::os::fd::AsRawFd::as_raw_fd(&free) as u64;
                drop(free);
                self.limit_to(next);
            }
            // Not even what is held in reserve can be given anew.
            b"none" => self.limit_to(0),
            b"raise" => {
                let before = self.before.take().expect("it was lowered");
                setrlimit(Resource::Nofile, before).expect("within the maximum");
            }
            b"quit" => self.reactor.stop(),
            _ => {}
        }
        transport.write(command);
    }
}

/// Serves until it is told to quit, and prints what the parent wants to know.
fn run_child() {
    let mut rig = Kit::mio().rig();
    rig.tapped.nap.set(Duration::from_secs(60));
    let reactor = rig.reactor.clone();
    let kept: Rc<OnceCell<Port>> = Rc::default();
    let keep = kept.clone();
    let port = rig.listen_with(move || Child {
        reactor: reactor.clone(),
        port: keep.clone(),
        before: None,
    });
    kept.get_or_init(|| port.clone());
    println!("child: {}", port.host().port().expect("a number"));
    let (run, lines) = logged(|| rig.l.run(|_| Ok(())));
    run.expect("a run that is stopped ends well");
    println!("child: {} turns, {}", rig.tapped.waits.borrow().len(), lines.join("; "));
}

/// A child that ends with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The parent's hand on a connection to the child: all calls wait, for 10 s at most.
fn client(port: u16) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::new(LOOPBACK.ip(), port)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("an option");
    stream
}

fn tell(mut stream: &TcpStream, command: &str) {
    stream.write_all(command.as_bytes()).expect("the child is there");
    let mut answer = vec![0; command.len()];
    stream.read_exact(&mut answer).expect("the child answers");
    assert_eq!(answer, command.as_bytes());
}

/// The end of the stream, or a reset.
fn is_turned_away(mut client: TcpStream) {
    let end = client.read(&mut [0]);
    let ended = match &end {
        Ok(n) => *n == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    };
    assert!(ended, "{end:?}");
}

/// Runs `test` once more as the child, and gives it with its port and the lines that it says.
/// `None` in the child itself, which then has run.
fn child(test: &str) -> Option<(Running, u16, impl FnMut() -> String)> {
    const CHILD: &str = "COUPLET_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        run_child();
        return None;
    }
    let child = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", &format!("tcp::accepting::{test}"), "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be run");
    let mut child = Running(child);
    let mut said = BufReader::new(child.0.stdout.take().expect("it was piped")).lines();
    let mut says = move || loop {
        let line = said.next().expect("the child says more").expect("it can be read");
        if let Some((_, said)) = line.split_once("child: ") {
            return said.to_owned();
        }
    };
    let port = says().parse().expect("a number");
    Some((child, port, says))
}

// Without the reserve the pending connections would hang, and the loop would spin.
#[test]
fn c48_out_of_descriptors_the_pending_are_closed_and_the_port_lives() {
    let test = "c48_out_of_descriptors_the_pending_are_closed_and_the_port_lives";
    let Some((mut child, port, mut says)) = child(test) else { return };
    let first = client(port);
    tell(&first, "pause");
    tell(&first, "limit");
    let together: Vec<TcpStream> = (0..5).map(|_| client(port)).collect();
    tell(&first, "resume");
    together.into_iter().for_each(is_turned_away);
    (0..5).for_each(|_| is_turned_away(client(port)));
    tell(&first, "are you well?");
    tell(&first, "raise");
    tell(&client(port), "a sixth is served");
    tell(&first, "quit");
    let said = says();
    let (turns, lines) = said.split_once(" turns, ").expect("the number of turns");
    assert_eq!(lines.matches("cannot accept").count(), 1, "for the whole block: {lines}");
    let count = lines.split("turned_away=").nth(1).and_then(|rest| rest.split(' ').next());
    let together: Option<u32> = count.and_then(|count| count.parse().ok());
    assert!(together >= Some(5), "all who waited together: {lines}");
    let turns: usize = turns.parse().expect("a number");
    assert!(turns < 100, "{turns} turns: it spins");
    assert!(child.0.wait().expect("it ends").success());
}

// Nothing new comes: it is the port that tries again.
#[test]
fn c48_a_port_that_rests_tries_again() {
    let Some((mut child, port, mut says)) = child("c48_a_port_that_rests_tries_again") else {
        return;
    };
    let first = client(port);
    tell(&first, "none");
    let second = client(port);
    // The port has its turn before the second of these.
    (0..2).for_each(|_| tell(&first, "are you well?"));
    tell(&first, "raise");
    tell(&second, "it is served after all");
    tell(&first, "quit");
    let said = says();
    assert!(said.contains("cannot accept"), "it did not rest: {said}");
    assert!(child.0.wait().expect("it ends").success());
}

/// Begins to connect; whether the system has taken the connection at once.
fn begins(to: SocketAddr) -> (Socket, bool) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    // It is under way, or through already.
    let _ = socket.connect(&to.into());
    let taken = is_writable(&socket);
    (socket, taken)
}

fn is_writable(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("a poll") == 1
}

// Who comes too many is dropped, and tries again only after a second: nobody waits for that here.
#[test]
fn c49_the_backlog_is_50() {
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let end = a.clone();
    let port = rig.listen_with(Maker::new(&a.log, move |_| Some(end.plays(Script::new()))));
    let to = port.host().socket_addr().expect("a port has an address");
    // Linux takes one more than the backlog says.
    let queued: Vec<(Socket, bool)> = (0..52).map(|_| begins(to)).collect();
    let taken: Vec<bool> = queued.iter().map(|(_, taken)| *taken).collect();
    assert_eq!(taken.iter().position(|taken| !taken), Some(51), "{taken:?}");
    rig.until("the queue is served", || a.log.count("build") == 51);
    assert!(begins(to).1);
}

#[test]
fn c49_an_address_can_be_taken_again_while_old_connections_linger() {
    let mut rig = Kit::mio().rig();
    let ends = [rig.end(), rig.end()];
    let mut next = ends.clone().into_iter();
    let factory = move |_: &couplet::Address| Some(next.next()?.plays(Script::new()));
    let port = rig.reactor.listen_tcp(own_address(49, 0), factory);
    let port = port.expect("a free port can be opened");
    let b = rig.peer(&port);
    rig.until("connection_made", || ends[0].is_made());
    // A busy system may have no room for TIME_WAIT: another connection is still open.
    let _open = rig.peer(&port);
    rig.until("connection_made", || ends[1].is_made());
    let a = &ends[0];
    let address = port.host().socket_addr().expect("a port has an address");
    let log = Log::default();
    let second = rig.reactor.listen_tcp(address, Maker::new(&log, |_| None));
    assert!(second.is_err(), "while it listens the address is taken");
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    b.close();
    assert_eq!(rig.lost(a), "Done(Us)"); // we closed first: our end is in TIME_WAIT
    drop(port.stop_listening());
    rig.turns(2);
    let fresh = ListenOptions::default().reuse_addr(false);
    let refused = rig.reactor.listen_tcp_with(address, fresh, Maker::new(&log, |_| None));
    let error = refused.expect_err("the old connections linger");
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    let again = rig.reactor.listen_tcp(address, Maker::new(&log, |_| None));
    assert!(again.is_ok(), "{again:?}");
}
