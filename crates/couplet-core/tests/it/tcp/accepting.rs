//! Rows 47 to 49: the kernel's accept queue, the descriptor limit, and TIME_WAIT.
#![cfg(target_os = "linux")]

use std::cell::OnceCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use couplet::reactor::Snapshot;
use couplet::{ListenError, ListenOptions, Port, Protocol, Reactor, Transport};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::apart::{Running, told};
use crate::logged::logged;
use crate::suite::kit::{Kit, LOOPBACK, Rig, own_address};
use crate::suite::peer::{B, Saw};
use crate::suite::recorder::{A, Log, Maker, On, Script};

/// A factory whose protocols log to A and echo the last received byte.
fn echoes(a: &A) -> Maker {
    a.makes(|| {
        Script::new().on_a(On::Data, |a, transport| {
            transport.write(a.received().last().map_or(&[][..], std::slice::from_ref));
        })
    })
}

#[test]
fn c47_a_round_of_accepts_is_bounded_and_adapts() {
    if !crate::apart::allow_descriptors(1024) {
        return;
    }
    let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a readable file");
    let limit: usize = limit.trim().parse().expect("a number");
    assert!(limit >= 200, "somaxconn is {limit}: too small for this test");
    let mut rig = Kit::mio().rig();
    let (a, calm) = (rig.end(), rig.end());
    let options = ListenOptions::default().backlog(512);
    let port = rig.reactor.listen((LOOPBACK, options), echoes(&a));
    let port = port.expect("a free port can be opened");
    let calm_port = rig.listen_with(calm.makes_many());
    rig.turn();
    let mut clients: Vec<B> = (0..150).map(|_| rig.peer(&port)).collect();
    let _calm_client = rig.peer(&calm_port);
    let round = |rig: &mut Rig| {
        let before = a.log.count("build");
        rig.turn();
        a.log.count("build") - before
    };
    assert_eq!(round(&mut rig), 100);
    assert_eq!(calm.log.count("build"), 1, "a flood at one port does not delay another");
    assert_eq!(round(&mut rig), 50, "the rest, though no new connection came");
    clients.extend((0..60).map(|_| rig.peer(&port)));
    let rounds = [(); 3].map(|()| round(&mut rig));
    assert_eq!(rounds, [51, 9, 0], "the short round set the bound");
    for b in &clients {
        b.send(b"x");
        rig.gets(b, b"x");
    }
}

/// Runs in a child process whose descriptors run out, because limits apply to a whole process.
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
                // The kernel assigns the lowest free number next.
                let free = std::fs::File::open("/dev/null").expect("a free descriptor");
                let next = std::os::fd::AsRawFd::as_raw_fd(&free) as u64;
                drop(free);
                self.limit_to(next);
            }
            // Not even the reserve descriptor can be reopened.
            b"none" => self.limit_to(0),
            b"raise" => {
                let before = self.before.take().expect("the limit was lowered");
                setrlimit(Resource::Nofile, before).expect("within the maximum");
            }
            b"quit" => {
                let reactor = self.reactor.clone();
                let stop = move |snapshot: Snapshot| {
                    println!("{CHILD}{}", snapshot.ports[0].counters.turned_away);
                    reactor.stop();
                };
                self.reactor.snapshot().map(stop).detach();
            }
            _ => {}
        }
        transport.write(command);
    }
}

const CHILD: &str = "child: ";

/// Serves until it receives "quit", and prints its address, turns and log for the parent.
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
    println!("{CHILD}{}", port.host().port().expect("a number"));
    if told().is_some_and(|told| told == "exempt") {
        let (reactor, keep) = (rig.reactor.clone(), kept.clone());
        let exempt = rig.listen_with(move || Child {
            reactor: reactor.clone(),
            port: keep.clone(),
            before: None,
        });
        exempt.accept_under_load(true);
        println!("{CHILD}{}", exempt.host().port().expect("a number"));
    }
    let (run, lines) = logged(|| rig.l.run(|_| Ok(())));
    run.expect("a stopped run succeeds");
    println!("{CHILD}{} turns, {}", rig.tapped.waits.borrow().len(), lines.join("; "));
}

/// A blocking connection to the child.
fn client(port: u16) -> TcpStream {
    super::client(&SocketAddr::new(LOOPBACK.ip(), port).into())
}

/// Sends a command and waits for its echo.
fn command(mut stream: &TcpStream, command: &str) {
    stream.write_all(command.as_bytes()).expect("the child is running");
    let mut answer = vec![0; command.len()];
    stream.read_exact(&mut answer).expect("the child answers");
    assert_eq!(answer, command.as_bytes());
}

/// Asserts that the client sees EOF or a reset.
fn assert_turned_away(mut client: TcpStream) {
    let end = client.read(&mut [0]);
    let ended = match &end {
        Ok(n) => *n == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    };
    assert!(ended, "{end:?}");
}

/// Runs `test` again in a child process. Returns the child and its port; in the child itself,
/// `None` after the run.
fn child(test: &str) -> Option<(Running, u16)> {
    if told().is_some() {
        run_child();
        return None;
    }
    let mut child = Running::start(&format!("tcp::accepting::{test}"), "");
    let port = child.says(CHILD).parse().expect("a number");
    Some((child, port))
}

// Without the reserve, pending connections would hang and the loop would spin.
#[test]
fn c48_out_of_descriptors_pending_connections_are_closed_and_the_port_lives() {
    let test = "c48_out_of_descriptors_pending_connections_are_closed_and_the_port_lives";
    let Some((mut child, port)) = child(test) else { return };
    let first = client(port);
    command(&first, "pause");
    command(&first, "limit");
    let together: Vec<TcpStream> = (0..5).map(|_| client(port)).collect();
    command(&first, "resume");
    together.into_iter().for_each(assert_turned_away);
    (0..5).for_each(|_| assert_turned_away(client(port)));
    command(&first, "are you well?");
    command(&first, "raise");
    command(&client(port), "a sixth is served");
    command(&first, "quit");
    assert_eq!(child.says(CHILD), "10", "turned away");
    let said = child.says(CHILD);
    let (turns, lines) = said.split_once(" turns, ").expect("the number of turns");
    assert_eq!(lines.matches("cannot accept").count(), 1, "for the whole block: {lines}");
    let count = lines.split("turned_away=").nth(1).and_then(|rest| rest.split(' ').next());
    let together: Option<u32> = count.and_then(|count| count.parse().ok());
    assert!(together >= Some(5), "all that were pending together: {lines}");
    let turns: usize = turns.parse().expect("a number");
    assert!(turns < 100, "{turns} turns: it spins");
    child.end();
}

// No new connection arrives: the port retries on its own.
#[test]
fn c48_a_port_that_backs_off_tries_again() {
    let Some((mut child, port)) = child("c48_a_port_that_backs_off_tries_again") else {
        return;
    };
    let first = client(port);
    command(&first, "none");
    let second = client(port);
    // The port is served before the second of these.
    (0..2).for_each(|_| command(&first, "are you well?"));
    command(&first, "raise");
    command(&second, "it is served after all");
    command(&first, "quit");
    assert_eq!(child.says(CHILD), "0", "turned away");
    let said = child.says(CHILD);
    assert!(said.contains("cannot accept"), "the port did not back off: {said}");
    child.end();
}

/// Whether the child answers on this connection; it may close it instead.
fn is_answered(mut stream: &TcpStream) -> bool {
    let mut answer = [0];
    stream.write_all(b"?").is_ok() && matches!(stream.read(&mut answer), Ok(1))
}

#[test]
fn c48a_the_descriptors_of_exempt_ports_are_kept_for_them_again_and_again() {
    let test = "c48a_the_descriptors_of_exempt_ports_are_kept_for_them_again_and_again";
    if told().is_some() {
        return run_child();
    }
    let mut child = Running::start(&format!("tcp::accepting::{test}"), "exempt");
    let [port, exempt] = [(); 2].map(|()| child.says(CHILD).parse().expect("a number"));
    let first = client(port);
    command(&first, "limit");
    for round in 0..3 {
        // The descriptors of the last round come back as their connections end.
        let mut served = Vec::new();
        for _ in 0..10_000 {
            let asks = client(exempt);
            if is_answered(&asks) {
                served.push(asks);
            }
            if served.len() == 16 {
                break;
            }
        }
        assert_eq!(served.len(), 16, "round {round}");
        for other in [port, exempt, port] {
            assert_turned_away(client(other));
        }
        assert!(served.iter().all(is_answered), "round {round}");
    }
    command(&first, "raise");
    command(&client(port), "others are served again");
    command(&first, "quit");
    child.says(CHILD);
    child.says(CHILD);
    child.end();
}

/// Starts a connect; true if the system accepted the connection immediately.
fn start_connect(to: SocketAddr) -> (Socket, bool) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    // In progress, or already connected.
    let _ = socket.connect(&to.into());
    let taken = is_writable(&socket);
    (socket, taken)
}

fn is_writable(socket: &Socket) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("poll succeeds") == 1
}

// The kernel drops a SYN beyond the backlog; its retransmission comes only after a second, and this
// test does not wait for it.
#[test]
fn c49_the_backlog_is_50() {
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let port = rig.listen_with(a.makes_many());
    let to = port.host().socket_addr().expect("a port has an address");
    // Linux accepts one more than the backlog.
    let queued: Vec<(Socket, bool)> = (0..52).map(|_| start_connect(to)).collect();
    let taken: Vec<bool> = queued.iter().map(|(_, taken)| *taken).collect();
    assert_eq!(taken.iter().position(|taken| !taken), Some(51), "{taken:?}");
    rig.until("the queue is served", || a.log.count("build") == 51);
    assert!(start_connect(to).1);
}

#[test]
fn c49_an_address_can_be_reused_while_old_connections_linger() {
    let mut rig = Kit::mio().rig();
    let ends = [rig.end(), rig.end()];
    let mut next = ends.clone().into_iter();
    let factory = move |_: &couplet::Address| Some(next.next()?.plays(Script::new()));
    let port = rig.reactor.listen(own_address(49, 0), factory);
    let port = port.expect("a free port can be opened");
    let b = rig.peer(&port);
    rig.until("connection_made", || ends[0].is_made());
    // A busy system may skip TIME_WAIT, so a second connection stays open.
    let _open = rig.peer(&port);
    rig.until("connection_made", || ends[1].is_made());
    let a = &ends[0];
    let address = port.host().socket_addr().expect("a port has an address");
    let log = Log::default();
    let second = rig.reactor.listen(address, Maker::new(&log, |_| None));
    assert!(second.is_err(), "the address is in use while the port listens");
    a.transport().lose_connection();
    assert_eq!(rig.take_to_the_end(&b), Saw::Fin);
    b.close();
    assert_eq!(rig.lost(a), "Done(Us)"); // we closed first: our end is in TIME_WAIT
    drop(port.stop_listening());
    rig.turns(2);
    let fresh = ListenOptions::default().reuse_addr(false);
    let refused = rig.reactor.listen((address, fresh), Maker::new(&log, |_| None));
    let error = refused.expect_err("the old connections linger");
    let error: &ListenError = error.downcast_ref().expect("a port in use");
    assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
    let again = rig.reactor.listen(address, Maker::new(&log, |_| None));
    assert!(again.is_ok(), "{again:?}");
}

// The system is asked for a connection's own address only if the protocol reads it.
#[test]
fn a_connection_to_a_wildcard_port_knows_our_address_whenever_it_is_asked() {
    let at = |port: &Port| SocketAddr::from(([127, 0, 0, 1], port.host().port().expect("a port")));
    let asked: fn(&Transport) -> String = |transport| transport.host().to_string();
    for when in [Some(On::Made), Some(On::Lost), None] {
        let mut rig = Kit::mio().rig();
        let (a, seen) = (rig.end(), Rc::new(OnceCell::new()));
        let (end, heard) = (a.clone(), seen.clone());
        let port = rig.reactor.listen(SocketAddr::from(([0; 4], 0)), move |_: &_| {
            let heard = heard.clone();
            Some(end.plays(match when {
                Some(when) => Script::new().once(when, move |transport| {
                    heard.set(asked(transport)).expect("asked once");
                }),
                None => Script::new(),
            }))
        });
        let port = port.expect("a free port");
        let client = TcpStream::connect(at(&port)).expect("it listens");
        rig.until("connection_made", || a.is_made());
        let kept = a.transport();
        drop(client);
        rig.lost(&a);
        rig.turns(2);
        let address = format!("tcp:{}", at(&port));
        assert_eq!(seen.get().unwrap_or(&address), &address, "{when:?}");
        assert_eq!(asked(&kept), address, "the socket is closed");
    }
}
