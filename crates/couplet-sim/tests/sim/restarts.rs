//! Restarts of a program: connections that continue in its successor, and those that do not. Rows 22d
//! and 51d of the contract.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::sim::{Fault, Host, Sim, Socket, Weather, check};
use couplet::{Address, HandOver, Protocol, Reactor, Reason, Shutdown};

use super::kit::{Diary, Logger, ms, s};

/// Numbers the lines that it echoes.
struct Numbered {
    count: u32,
    diary: Diary,
}

impl LineProtocol for Numbered {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.count += 1;
        let line = String::from_utf8_lossy(line);
        transport.send_line(format!("{}: {line}", self.count));
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        self.diary.add(format!("lost: {reason:?}"));
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        HandOver::new("numbered", self.count.to_be_bytes())
    }
}

fn numbered(count: u32, diary: &Diary) -> impl Protocol + use<> {
    LineReceiver::new(Numbered { count, diary: diary.clone() })
}

/// A host that numbers lines, also of clients behind a proxy, and takes connections over.
fn server(sim: &mut Sim, diary: &Diary) -> Host {
    let (its, next) = (diary.clone(), diary.clone());
    let server = sim.host("server", move |reactor| {
        its.add("starts");
        let (its, proxied) = (its.clone(), its.clone());
        reactor.listen("haproxy:tcp:81", move || numbered(0, &proxied))?;
        reactor.listen("tcp:80", move || numbered(0, &its)).map(drop)
    });
    sim.take_over(server, move |reactor, handed| {
        let count = handed.state().try_into().map(u32::from_be_bytes)?;
        reactor.take_over(handed, numbered(count, &next))?.detach();
        Ok(())
    });
    server
}

/// The same, whose program takes some time to stop.
fn slow_server(sim: &mut Sim, stops: Duration, diary: &Diary) -> Host {
    let (its, next) = (diary.clone(), diary.clone());
    let server = sim.host("slow", move |reactor| {
        its.add("slow starts");
        let (its, stopping) = (its.clone(), reactor.clone());
        reactor.on(Shutdown::Before, move || stopping.sleep(stops));
        reactor.listen("tcp:80", move || numbered(0, &its)).map(drop)
    });
    sim.take_over(server, move |reactor, handed| {
        reactor.take_over(handed, numbered(0, &next))?.detach();
        Ok(())
    });
    server
}

/// A world with a server and a connection to it.
fn served() -> (Sim, Host, Socket, Diary) {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let server = server(&mut sim, &diary);
    let client = sim.bare_host("client");
    sim.run_for(ms(500)).unwrap();
    let socket = sim.socket(client, sim.at(server, 80)).unwrap();
    sim.run_for(ms(500)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
    (sim, server, socket, diary)
}

fn text(socket: &Socket) -> String {
    String::from_utf8(super::kit::all(socket)).unwrap()
}

#[test]
fn c51d_a_line_that_a_restart_cuts_is_whole_for_the_next_program() {
    let (mut sim, server, socket, diary) = served();
    sim.fault(s(2), s(0), Fault::Restart(server));
    socket.push(b"a rose\r\nis a").unwrap();
    sim.run_for(s(2)).unwrap();
    assert_eq!(diary.take(), ["starts"], "no connection_lost");
    socket.push(b" rose\r\n").unwrap();
    sim.run_for(s(1)).unwrap();
    assert_eq!(text(&socket), "1: a rose\r\n2: is a rose\r\n");
    drop(socket);
    sim.run_for(s(1)).unwrap();
    assert_eq!(diary.take(), ["lost: Done(Peer)"]);
    sim.finish().unwrap();
}

#[test]
fn a_connect_during_a_restart_waits_for_the_next_program() {
    let (mut sim, server, socket, diary) = served();
    let client = sim.hosts()[1];
    let slow = slow_server(&mut sim, s(1), &diary);
    sim.run_for(ms(500)).unwrap();
    sim.fault(s(2), s(0), Fault::Restart(slow));
    sim.run_for(ms(600)).unwrap();
    let late = [(); 3].map(|()| sim.socket(client, sim.at(slow, 80)).unwrap());
    for it in &late {
        it.push(b"x\r\n").unwrap();
    }
    sim.run_for(ms(500)).unwrap();
    assert!(late.iter().all(|it| it.is_open() && it.error().is_none() && text(it).is_empty()));
    sim.run_for(s(1)).unwrap();
    assert_eq!(late.each_ref().map(text), ["1: x\r\n"; 3]);
    assert_eq!(diary.take(), ["slow starts", "slow starts"]);
    drop((late, socket, server));
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

#[test]
fn connections_that_are_not_handed_over_end_with_their_program() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let its = diary.clone();
    let server = sim.host("server", move |reactor| {
        its.add("starts");
        let (its, unknown) = (its.clone(), its.clone());
        reactor.listen("tcp:80", move || Logger(its.clone()))?;
        reactor.listen("tcp:81", move || numbered(0, &unknown)).map(drop)
    });
    let client = sim.bare_host("client");
    sim.run_for(ms(100)).unwrap();
    let sockets = [80, 81].map(|port| sim.socket(client, sim.at(server, port)).unwrap());
    sim.run_for(ms(100)).unwrap();
    sim.fault(s(1), s(0), Fault::Restart(server));
    sim.run_for(s(2)).unwrap();
    assert!(sockets.iter().all(|socket| socket.saw_fin() && socket.error().is_none()));
    let mut said = diary.take();
    said.sort();
    assert_eq!(said, ["lost: Shutdown", "lost: Shutdown", "made", "starts", "starts"]);
    drop(sockets);
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

/// Listens on two other ports at each start.
fn wandering(reactor: &Reactor, starts: &Cell<u16>, diary: &Diary) -> couplet::Result<()> {
    starts.set(starts.get() + 1);
    for first in [79, 89] {
        let (its, port) = (diary.clone(), format!("tcp:{}", first + starts.get()));
        reactor.listen(&*port, move || Logger(its.clone()))?;
    }
    Ok(())
}

#[test]
fn a_port_that_the_next_program_does_not_open_is_closed() {
    let (mut sim, starts) = (Sim::new(1), Rc::new(Cell::new(0)));
    let server = sim.host("server", move |reactor| wandering(reactor, &starts, &Diary::default()));
    let client = sim.bare_host("client");
    sim.fault(s(1), s(0), Fault::Restart(server));
    sim.run_for(s(2)).unwrap();
    let ports = [80, 90, 81, 91];
    let connected = ports.map(|port| sim.socket(client, sim.at(server, port)).unwrap());
    sim.run_for(s(1)).unwrap();
    assert_eq!(connected.map(|socket| socket.error().is_none()), [false, false, true, true]);
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

#[test]
fn connections_that_were_handed_over_outlive_a_kill_of_the_program_and_no_crash() {
    for (fault, survives) in
        [(Fault::Kill as fn(Host) -> Fault, true), (Fault::Crash as fn(Host) -> Fault, false)]
    {
        let (mut sim, diary) = (Sim::new(1), Diary::default());
        let server = slow_server(&mut sim, s(5), &diary);
        let client = sim.bare_host("client");
        sim.run_for(ms(100)).unwrap();
        let socket = sim.socket(client, sim.at(server, 80)).unwrap();
        sim.fault(s(1), s(0), Fault::Restart(server));
        sim.fault(s(2), s(1), fault(server));
        // Two wait for the next program: one comes before the end of the last one, one after it.
        sim.run_for(ms(1400)).unwrap();
        let queued = sim.socket(client, sim.at(server, 80)).unwrap();
        sim.run_for(s(1)).unwrap();
        let late = sim.socket(client, sim.at(server, 80)).unwrap();
        sim.run_for(s(8)).unwrap();
        let sockets = [(socket, survives), (queued, survives), (late, true)];
        for (socket, survives) in &sockets {
            socket.push(b"x\r\n").ok();
            sim.run_for(s(1)).unwrap();
            let expected = if *survives { "1: x\r\n" } else { "" };
            assert_eq!(text(socket), expected, "{survives}");
            assert_eq!(socket.error().is_none(), *survives);
        }
        drop(sockets);
        sim.run_for(s(1)).unwrap();
        sim.finish().unwrap();
    }
}

#[test]
fn a_port_has_the_options_of_the_program_that_opened_it_last() {
    let (mut sim, starts) = (Sim::new(1), Cell::new(0));
    let server = sim.host("server", move |reactor| {
        let backlog = [1, 4, 2, 9][starts.replace(starts.get() + 1)];
        let port = format!("tcp:80:backlog={backlog}");
        reactor.listen(&*port, || Logger(Diary::default())).map(drop)
    });
    let client = sim.bare_host("client");
    for backlog in [1, 4, 2] {
        sim.run_for(ms(500)).unwrap();
        sim.fault(sim.elapsed(), s(2), Fault::Pause(server));
        let one = |_| {
            sim.run_for(ms(50)).unwrap();
            sim.socket(client, sim.at(server, 80)).unwrap()
        };
        let sockets: Vec<_> = (0..8).map(one).collect();
        sim.run_for(ms(500)).unwrap();
        let open = sockets.iter().filter(|socket| socket.is_open()).count();
        assert_eq!(open, backlog + 1, "one more than the backlog, as on Linux");
        sim.run_for(s(10)).unwrap();
        assert!(sockets.iter().all(Socket::is_open));
        drop(sockets);
        sim.run_for(s(1)).unwrap();
        sim.fault(sim.elapsed(), s(0), Fault::Restart(server));
        sim.run_for(ms(500)).unwrap();
    }
    sim.finish().unwrap();
}

#[test]
fn a_restart_during_a_restart_does_nothing() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let server = slow_server(&mut sim, s(2), &diary);
    let client = sim.bare_host("client");
    sim.run_for(ms(100)).unwrap();
    let socket = sim.socket(client, sim.at(server, 80)).unwrap();
    for at in [1000, 1500, 2900] {
        sim.fault(ms(at), s(0), Fault::Restart(server));
    }
    sim.run_for(s(5)).unwrap();
    assert_eq!(diary.take(), ["slow starts", "slow starts"]);
    socket.push(b"x\r\n").unwrap();
    sim.run_for(s(1)).unwrap();
    assert_eq!(text(&socket), "1: x\r\n");
    drop(socket);
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

#[test]
fn the_connections_of_a_restart_wait_for_a_next_program_that_fails_at_first() {
    let (mut sim, diary) = (Sim::new(1), Diary::default());
    let (its, next, starts) = (diary.clone(), diary.clone(), Cell::new(0));
    let server = sim.host("server", move |reactor| {
        starts.set(starts.get() + 1);
        its.add("starts");
        if [2, 3, 5].contains(&starts.get()) {
            return Err(couplet::Failure::msg("not yet"));
        }
        let its = its.clone();
        reactor.listen("tcp:80", move || numbered(0, &its)).map(drop)
    });
    sim.take_over(server, move |reactor, handed| {
        let count = handed.state().try_into().map(u32::from_be_bytes)?;
        reactor.take_over(handed, numbered(count, &next))?.detach();
        Ok(())
    });
    let client = sim.bare_host("client");
    sim.run_for(ms(100)).unwrap();
    let mut sockets = vec![sim.socket(client, sim.at(server, 80)).unwrap()];
    for (restart, tries) in [(1, 4), (2, 2)] {
        sim.fault(sim.elapsed() + s(1), s(0), Fault::Restart(server));
        sim.run_for(ms(1500)).unwrap();
        // It waits with the others.
        sockets.push(sim.socket(client, sim.at(server, 80)).unwrap());
        sim.run_for(s(4)).unwrap();
        assert_eq!(diary.take(), vec!["starts"; tries], "{restart}");
        for (nth, socket) in sockets.iter().enumerate() {
            let lines = restart - nth.max(1) + 1;
            socket.push(b"x\r\n").unwrap();
            sim.run_for(ms(100)).unwrap();
            assert_eq!(text(socket), format!("{lines}: x\r\n"), "{restart}");
        }
    }
    drop(sockets);
    sim.run_for(s(1)).unwrap();
    sim.finish().unwrap();
}

#[test]
fn restarting_a_program_that_does_not_run_does_nothing() {
    let (mut sim, server, socket, diary) = served();
    sim.fault(s(1), s(5), Fault::Kill(server));
    sim.fault(s(2), s(0), Fault::Restart(server));
    sim.run_for(s(3)).unwrap();
    assert!(!sim.is_running(server));
    sim.run_for(s(5)).unwrap();
    assert_eq!(diary.take(), ["starts"]);
    drop(socket);
    sim.finish().unwrap();
}

#[test]
fn a_connection_that_the_next_program_does_not_continue_breaks_the_world() {
    let (mut sim, server, socket, _) = served();
    sim.take_over(server, |_, _| Err(couplet::Failure::msg("no place")));
    sim.fault(s(2), s(0), Fault::Restart(server));
    let text = format!("{:#}", sim.run_for(s(5)).unwrap_err());
    let expected = "the program of server cannot continue a connection: no place (at ";
    assert!(text.starts_with(expected), "{text}");
    drop(socket);
}

#[test]
fn the_end_of_the_world_ends_a_restart() {
    // Of programs that are stopping, or that were killed meanwhile.
    for is_killed in [false, true] {
        let (mut sim, diary) = (Sim::new(1), Diary::default());
        let servers = [(); 2].map(|()| slow_server(&mut sim, s(5), &diary));
        let client = sim.bare_host("client");
        sim.run_for(ms(100)).unwrap();
        let connect =
            |sim: &Sim| servers.map(|server| sim.socket(client, sim.at(server, 80)).unwrap());
        let handed_over = connect(&sim);
        for server in servers {
            sim.fault(s(1), s(0), Fault::Restart(server));
            if is_killed {
                sim.fault(ms(1500), s(9999), Fault::Kill(server));
            }
        }
        sim.run_for(s(2)).unwrap();
        let queued = connect(&sim);
        sim.run_for(ms(100)).unwrap();
        drop((handed_over, queued));
        sim.finish().unwrap();
        assert_eq!(diary.take(), ["slow starts", "slow starts"]);
    }
}

/// Sends lines one after the other, and checks each answer.
struct Asker {
    sent: u32,
    way: Way,
    diary: Diary,
}

/// Where an [`Asker`] connects to, and the pause between its lines.
#[derive(Clone, Copy)]
struct Way {
    endpoint: &'static str,
    pause: Duration,
}

impl Asker {
    /// Connects, and connects again if that fails or the connection is lost.
    fn start(reactor: &Reactor, way: Way, diary: &Diary) {
        let (its, failed, again) = (diary.clone(), diary.clone(), reactor.clone());
        let asker =
            move |_: &Address| Some(LineReceiver::new(Asker { sent: 1, way, diary: its.clone() }));
        let connected = reactor.connect(way.endpoint, asker).map(drop);
        let retried = connected.add_errback(move |_| {
            failed.add("no connection");
            again.clone().call_later(s(1), move || Asker::start(&again, way, &failed));
            Ok(())
        });
        retried.detach();
    }
}

impl LineProtocol for Asker {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.send_line("line 1");
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let expected = format!("{0}: line {0}", self.sent);
        assert_eq!(String::from_utf8_lossy(line), expected);
        self.diary.add("answer");
        self.sent += 1;
        let (its, next) = (transport.clone(), format!("line {}", self.sent));
        transport.reactor().call_later(self.way.pause, move || its.send_line(next));
    }

    fn connection_lost(&mut self, transport: &LineTransport, reason: &Reason) {
        if !matches!(reason, Reason::Shutdown) {
            self.diary.add(format!("lost: {reason:?}"));
            Asker::start(transport.reactor(), self.way, &self.diary);
        }
    }
}

/// A host with clients that ask at different paces, and idle ones. Every third is behind a proxy.
fn clients(sim: &mut Sim, busy: u32, idle: u32, diary: &Diary) {
    let diary = diary.clone();
    sim.host("clients", move |reactor| {
        for n in 0..busy + idle {
            let pause = if n < busy { ms(1 + u64::from(n) * 7) } else { s(1_000_000) };
            let endpoint =
                ["tcp:server:80", "haproxy:tcp:server:81", "tcp:server:80"][n as usize % 3];
            Asker::start(reactor, Way { endpoint, pause }, &diary);
        }
        Ok(())
    });
    // The clients' calls are pending at the end.
    sim.allow_leaks();
}

#[test]
fn c51d_a_hundred_restarts_lose_no_connection_and_no_byte() {
    let (diary, answers) = (Diary::default(), Diary::default());
    let mut sim = Sim::new(7);
    let server = server(&mut sim, &diary);
    clients(&mut sim, 20, 300, &answers);
    for n in 1..=100 {
        sim.fault(ms(500 * n), s(0), Fault::Restart(server));
    }
    sim.run_for(s(60)).unwrap();
    assert_eq!(diary.take(), vec!["starts"; 101]);
    let connections = sim.snapshot(server).unwrap().connections.len();
    assert_eq!(connections, 320);
    let said = answers.take();
    assert!(said.iter().all(|said| said == "answer"), "no connection is lost");
    assert!(said.len() > 10_000, "{}", said.len());
    sim.finish().unwrap();
}

#[test]
fn c51d_restarts_in_a_storm_lose_no_byte() {
    check(1..30, Weather::Storm, |sim| {
        let (diary, answers) = (Diary::default(), Diary::default());
        let server = server(sim, &diary);
        clients(sim, 8, 2, &answers);
        sim.draw_faults(s(20));
        for n in 1..20 {
            sim.fault(s(n) + ms(n * 37), s(0), Fault::Restart(server));
        }
        sim.run_for(s(40))?;
        sim.finish()
    });
}
