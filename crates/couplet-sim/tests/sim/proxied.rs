//! TLS behind a PROXY header in a simulated network: a chat in storms, and handshakes that are cut
//! after every byte. No line is lost, changed or attributed to another client, and each connection
//! that does not open is counted, with a reason.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow::Continue;
use std::rc::Rc;
use std::time::Instant;

use couplet::endpoints::{ProxyServer, TcpServer};
use couplet::factory::Layered;
use couplet::layers::tls::{ClientTls, ServerTls};
use couplet::layers::{Layers, Outbox, ProxyHeader, ProxyReader, ProxyVersion, ProxyWriter, Up};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::sim::{Fault, Host, Link, Sim, Socket, Trial, Weather};
use couplet::transport::Timeout;
use couplet::{Address, ConnectError, Factory, Reactor, Reason, Result, TlsProblem, hooks};

use super::kit::{ms, s};
use super::secure::both;
use crate::logged::logged;
use crate::secure::NAME;

fn server_tls() -> ServerTls {
    both().0.clone()
}

fn client_tls() -> ClientTls {
    both().1.clone()
}

/// The header of a client, whose number is its port.
fn header(name: u16) -> ProxyWriter {
    let at = |port| Address::from(SocketAddr::from(([192, 0, 2, 1], port)));
    let header = ProxyHeader::new(at(name), at(443));
    ProxyWriter::new(&header, ProxyVersion::V2).expect("addresses of one family")
}

/// Parses a line of the chat: the number of its author, the author's session, and its number in
/// that session.
fn parse(line: &[u8]) -> (u16, u64, u32) {
    let line = std::str::from_utf8(line).expect("text");
    let words: Vec<&str> = line.split(' ').collect();
    let [name, session, number] = words[..] else { panic!("{line:?}") };
    let parsed = (name.parse(), session.parse(), number.parse());
    let (Ok(name), Ok(session), Ok(number)) = parsed else { panic!("{line:?}") };
    (name, session, number)
}

/// The server's members, and the number of connections opened since its start.
#[derive(Default)]
struct Room {
    members: RefCell<BTreeMap<u64, LineTransport>>,
    opened: Cell<u64>,
}

/// A member's connection to the server, which sends each line to everyone.
struct Member {
    room: Rc<Room>,
    seat: u64,
    heard: u32,
}

impl LineProtocol for Member {
    fn connection_made(&mut self, transport: &LineTransport) {
        self.room.members.borrow_mut().insert(self.seat, transport.clone());
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let (name, _, number) = parse(line);
        assert_eq!(transport.peer().port(), Some(name), "the header says who it is");
        assert_eq!(number, self.heard + 1, "each line, in order");
        self.heard = number;
        for member in self.room.members.borrow().values() {
            member.send_line(line);
        }
    }

    fn connection_lost(&mut self, _: &LineTransport, _: &Reason) {
        self.room.members.borrow_mut().remove(&self.seat);
    }
}

/// Serves the chat to clients behind a proxy at one of these addresses.
fn serve(reactor: &Reactor, room: &Rc<Room>, trusted: IpAddr) -> Result<()> {
    let (room, tls) = (room.clone(), server_tls());
    let member = move || {
        room.opened.set(room.opened.get() + 1);
        let member = Member { room: room.clone(), seat: room.opened.get(), heard: 0 };
        LineReceiver::new(member).with_delimiter(b"\n")
    };
    let member = Layered::new(member, move |reactor, _| tls.layer(reactor.now()));
    let endpoint = ProxyServer::new(TcpServer::new(([0, 0, 0, 0], 443).into())).trust(trusted, 8);
    reactor.listen(endpoint, member).map(drop)
}

/// Says a line from time to time, and checks the lines that it receives.
struct Talker {
    name: u16,
    session: u64,
    said: u32,
    /// The number of the last line received from each session.
    heard: BTreeMap<(u16, u64), u32>,
    tally: Rc<Tally>,
}

/// Observations of the clients of a world.
#[derive(Default)]
struct Tally {
    heard: Cell<u32>,
    /// The sessions whose lines were received.
    sessions: RefCell<BTreeSet<(u16, u64)>>,
    /// The reasons of connects that failed after TCP had connected.
    not_opened: RefCell<Vec<Reason>>,
}

impl Talker {
    fn say(&mut self, transport: &LineTransport) {
        self.said += 1;
        transport.send_line(format!("{} {} {}", self.name, self.session, self.said));
        let pause = ms(20 + hooks::random(transport.reactor()) % 300);
        transport.connection().call_later(pause, Self::say);
    }
}

impl LineProtocol for Talker {
    fn connection_made(&mut self, transport: &LineTransport) {
        self.session = hooks::random(transport.reactor());
        transport.set_timeout(Timeout::Idle, Some(s(3)));
        self.say(transport);
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let (name, session, number) = parse(line);
        let own = (name, session) == (self.name, self.session);
        let before = self.heard.insert((name, session), number).or(own.then_some(0));
        assert!(before.is_none_or(|before| number == before + 1), "after {before:?}: {number}");
        self.tally.sessions.borrow_mut().insert((name, session));
        self.tally.heard.set(self.tally.heard.get() + 1);
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        // TCP repairs the damage of the network: nothing looks like an attack.
        assert!(!matches!(reason, Reason::Tls(_)), "{reason}");
    }
}

/// A talker over TLS, behind a header with its number.
fn talker(name: u16, tally: &Rc<Tally>) -> impl Factory + use<> {
    let tally = tally.clone();
    let talker = move || {
        let (heard, tally) = (BTreeMap::new(), tally.clone());
        let talker = Talker { name, session: 0, said: 0, heard, tally };
        LineReceiver::new(talker).with_delimiter(b"\n")
    };
    let tls = client_tls();
    let talker =
        Layered::new(talker, move |reactor, _| tls.layer(NAME, reactor.now()).expect("a DNS name"));
    Layered::new(talker, move |_, _| header(name))
}

/// Connects again and again.
fn keep_talking(reactor: &Reactor, name: u16, tally: &Rc<Tally>) {
    let (inner, tally) = (reactor.clone(), tally.clone());
    let task = reactor.spawn(async move {
        loop {
            match inner.connect("tcp:server:443", talker(name, &tally)).await {
                Ok(talk) => {
                    inner.sleep(s(4)).await?;
                    talk.transport().lose_connection();
                }
                Err(failed) => match failed.downcast_ref::<ConnectError>() {
                    Some(ConnectError::NotOpened(reason)) => {
                        tally.not_opened.borrow_mut().push(reason.clone());
                    }
                    Some(_) => {}
                    None => return Err(failed),
                },
            }
            inner.sleep(ms(hooks::random(&inner) % 50)).await?;
        }
    });
    task.add_both(|_: Result<()>| Ok(())).detach();
}

/// Resets bursts of connections: the later resets hit the handshakes that follow the first.
fn plan_resets(sim: &mut Sim, server: Host) {
    let mut state = sim.seed();
    let mut roll = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for _ in 0..6 {
        let mut at = ms(1000 + roll(38_000));
        for _ in 0..6 {
            sim.fault(at, s(0), Fault::Reset(server, 1 + roll(2) as u32));
            at += ms(1 + roll(150));
        }
    }
}

/// A chat of three in any weather.
fn chat(sim: &mut Sim, tally: &Rc<Tally>) -> Result<()> {
    let current: Rc<RefCell<Rc<Room>>> = Rc::default();
    let started = current.clone();
    let server = sim.host("server", move |reactor| {
        // After a crash, nothing of the previous room is left.
        *started.borrow_mut() = Rc::default();
        serve(reactor, &started.borrow(), [10, 0, 0, 0].into())
    });
    for (name, port) in [("one", 1), ("two", 2), ("three", 3)] {
        let tally = tally.clone();
        sim.host(name, move |reactor| {
            keep_talking(reactor, port, &tally);
            Ok(())
        });
    }
    sim.draw_faults(s(40));
    plan_resets(sim, server);
    sim.run_for(s(60))?;
    let Some(snapshot) = sim.snapshot(server) else { return sim.fail("the server is back") };
    let port = &snapshot.ports[0];
    let opening = snapshot.connections.iter().filter(|c| c.state == "opening").count() as u64;
    let opened = current.borrow().opened.get();
    if port.counters.accepted != opened + port.counters.not_opened + opening {
        return sim.fail(format!("{opened} opened and {opening} are opening of {port:?}"));
    }
    Ok(())
}

#[test]
fn a_chat_behind_proxies_loses_nothing_in_any_storm() {
    let tally = Rc::<Tally>::default();
    for seed in 3..60 {
        let report = Trial::new(seed, Weather::Storm).run(&|sim| chat(sim, &tally));
        assert_eq!(report.failure, None, "seed {seed}");
    }
    assert!(tally.heard.get() > 5000, "{}", tally.heard.get());
    let reasons = tally.not_opened.borrow();
    assert!(reasons.len() > 20, "the faults met only {} handshakes", reasons.len());
    for reason in &*reasons {
        let expected = match reason {
            Reason::Tls(error) => error.problem == TlsProblem::HandshakeTimedOut,
            reason => matches!(reason, Reason::Lost(_)),
        };
        assert!(expected, "{reason}");
    }
}

/// One end of a connection, which the test resets after this many bytes.
struct Cut {
    socket: Socket,
    layers: Layers,
    above: Outbox,
    plain: Vec<u8>,
    sent: usize,
    most: usize,
    now: Instant,
}

impl Cut {
    /// A client that sends one line.
    fn client(socket: Socket, most: usize, now: Instant, line: &str) -> Cut {
        let mut above = Outbox::new(Rc::default());
        let mut layers = Layers::new(header(CUT), &Rc::default());
        let tls = client_tls().layer(NAME, now).expect("a DNS name");
        layers.push(tls, &mut above, now).expect("nothing was received");
        above.extend(line.as_bytes());
        Cut { socket, layers, above, plain: Vec::new(), sent: 0, most, now }
    }

    fn server(socket: Socket, most: usize, now: Instant) -> Cut {
        let mut above = Outbox::new(Rc::default());
        let mut layers = Layers::new(ProxyReader::new(now), &Rc::default());
        layers.push(server_tls().layer(now), &mut above, now).expect("nothing was received");
        Cut { socket, layers, above, plain: Vec::new(), sent: 0, most, now }
    }

    fn pump(&mut self) {
        let bytes = self.socket.take(usize::MAX);
        let plain = &mut self.plain;
        let _ = self.layers.feed(&bytes, self.now, |up| {
            match up {
                Up::Data(data) => plain.extend_from_slice(data),
                Up::Closed | Up::Failed(_) => panic!("{up:?}"),
                _ => {}
            }
            Continue(())
        });
        loop {
            self.layers.down(&mut self.above, self.now);
            let (bottom, left) = (self.layers.bottom(), self.most - self.sent);
            if bottom.is_empty() || left == 0 {
                return;
            }
            let n = bottom.first().len().min(left);
            assert_eq!(self.socket.push(&bottom.first()[..n]).expect("it is open"), n);
            bottom.advance(n);
            self.sent += n;
        }
    }

    /// Pumps until all permitted bytes are sent, or `done` holds, then resets. Returns the number
    /// of bytes sent.
    fn run(mut self, sim: &mut Sim, done: impl Fn(&Cut) -> bool) -> usize {
        for _ in 0..100 {
            sim.run_for(ms(5)).expect("no invariant is violated");
            if self.socket.is_open() {
                self.pump();
                if self.sent == self.most || done(&self) {
                    // The bytes sent arrive before the reset.
                    sim.run_for(ms(5)).expect("no invariant is violated");
                    self.socket.reset();
                    sim.run_for(ms(5)).expect("no invariant is violated");
                    return self.sent;
                }
            }
        }
        panic!("stuck after {} bytes", self.sent)
    }
}

/// The number of the client that is cut.
const CUT: u16 = 7;

#[test]
fn a_server_counts_a_client_reset_after_any_byte_and_gets_none_of_its_lines() {
    let (mut sim, tally, room) = (Sim::new(1), Rc::<Tally>::default(), Rc::<Room>::default());
    sim.set_default_link(Link::constant(ms(1)));
    let (serving, talking) = (room.clone(), tally.clone());
    let server = sim.host("server", move |reactor| serve(reactor, &serving, [10, 0, 0, 0].into()));
    sim.host("neighbour", move |reactor| {
        reactor.connect("tcp:server:443", talker(1, &talking)).detach();
        Ok(())
    });
    let client = sim.bare_host("client");
    sim.run_until(s(9), |_| room.opened.get() == 1).expect("no invariant is violated");
    let now = room.members.borrow()[&1].reactor().now();
    let mut cut = |most: usize| {
        let socket = sim.socket(client, sim.at(server, 443)).expect("a descriptor is free");
        let line = format!("{CUT} {most} 1\n");
        let cut = Cut::client(socket, most, now, &format!("{line:0>25}"));
        let (sent, logged) =
            logged(|| cut.run(&mut sim, |cut| cut.plain.ends_with(line.as_bytes())));
        let port = sim.snapshot(server).expect("it runs").ports[0].clone();
        (sent, logged, port)
    };
    let (whole, _, _) = cut(usize::MAX);
    let (mut last, mut opened) = ((room.opened.get(), 0), Vec::new());
    for most in 0..whole {
        let (sent, logged, port) = cut(most);
        assert_eq!(sent, most);
        let now = (room.opened.get(), port.counters.not_opened);
        assert_eq!(now.0 + now.1, last.0 + last.1 + 1, "counted once, after {most} bytes");
        opened.push(now.0 > last.0);
        let reasons = logged
            .iter()
            .filter(|line| line.contains("reason=connection lost: connection reset"))
            .count();
        let expected = usize::from(most > 0 && now.1 > last.1);
        assert_eq!((reasons, logged.len()), (expected, expected), "{most} bytes: {logged:?}");
        last = now;
    }
    assert!(opened.is_sorted() && opened.contains(&true), "open behind the handshake: {opened:?}");
    let heard = tally.sessions.borrow();
    let of_the_cut = heard.iter().filter(|(name, _)| *name == CUT).collect::<Vec<_>>();
    assert_eq!(of_the_cut, [&(CUT, usize::MAX as u64)], "only whole lines are heard");
    assert!(tally.heard.get() > 100, "the neighbour continues: {}", tally.heard.get());
}

#[test]
fn a_connect_that_was_reset_after_any_byte_fails_with_the_reason() {
    let (mut sim, tally) = (Sim::new(1), Rc::<Tally>::default());
    sim.set_default_link(Link::constant(ms(1)));
    let server = sim.bare_host("server");
    let port = sim.listen(server, sim.at(server, 443), 5).expect("the port is free");
    let opened: Rc<Cell<u32>> = Rc::default();
    let now: Rc<Cell<Option<Instant>>> = Rc::default();
    let (talking, count, time) = (tally.clone(), opened.clone(), now.clone());
    sim.host("client", move |reactor| {
        let (inner, tally, count) = (reactor.clone(), talking.clone(), count.clone());
        time.set(Some(reactor.now()));
        let task = reactor.spawn(async move {
            loop {
                match inner.connect("tcp:server:443", talker(1, &tally)).await {
                    Ok(_) => count.set(count.get() + 1),
                    Err(failed) => match failed.downcast_ref() {
                        Some(ConnectError::NotOpened(reason)) => {
                            tally.not_opened.borrow_mut().push(reason.clone());
                        }
                        _ => return Err::<(), _>(failed),
                    },
                }
                inner.sleep(ms(1)).await?;
            }
        });
        task.detach();
        Ok(())
    });
    let mut cut = |most: usize| loop {
        sim.run_for(ms(1)).expect("no invariant is violated");
        if let Some(socket) = port.accept() {
            let cut = Cut::server(socket, most, now.get().expect("it has started"));
            return cut.run(&mut sim, |cut| !cut.plain.is_empty());
        }
    };
    let whole = cut(usize::MAX);
    assert_eq!(opened.get(), 1);
    let mut after = Vec::new();
    for most in 0..whole {
        let before = opened.get() as usize + tally.not_opened.borrow().len();
        assert_eq!(cut(most), most);
        let counted = opened.get() as usize + tally.not_opened.borrow().len();
        assert_eq!(counted, before + 1, "counted once, after {most} bytes");
        after.push(opened.get());
    }
    let reasons = tally.not_opened.borrow();
    assert!(reasons.iter().all(|reason| matches!(reason, Reason::Lost(_))), "{reasons:?}");
    assert!(after.is_sorted() && reasons.len() > 500, "{after:?}");
}
