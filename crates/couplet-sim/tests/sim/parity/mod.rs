//! Plays the same scenes on the kernel and in the simulator; protocols must see the same.
//!
//! A [`Scene`] is a server's program and a client's. On the kernel, two loops over the default
//! driver play it on 127.0.0.1, turned alternately; in the simulator, two hosts play it over
//! several networks. The test compares each protocol's callbacks, in order, with their bytes;
//! consecutive pieces count as one.

mod bulk;
mod closing;
mod dying;
mod factories;
mod failing;
#[cfg(target_os = "linux")] // the system that the simulator imitates
mod raw;

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Cut, Latency, Link, Sim};
use couplet::{Address, Loop, LoopOptions, Reactor, Reason};
use couplet_core::driver::Mio;
use couplet_testkit_loops::PATIENCE;

use super::kit::{ms, s};
use crate::suite::kit::LOOPBACK;
use crate::suite::plays;
use crate::suite::recorder::{A, Log, Recorder, Script, text};

/// One of the two programs: its reactor and its logs.
#[derive(Clone)]
struct Side {
    reactor: Reactor,
    /// Notes beyond the protocols' callbacks.
    log: Log,
    ends: Rc<RefCell<Vec<A>>>,
}

impl Side {
    fn new(reactor: &Reactor, seen: &Seen) -> Side {
        Side { reactor: reactor.clone(), log: seen.log.clone(), ends: seen.ends.clone() }
    }

    /// A protocol of this side that plays a script.
    fn plays(&self, script: &dyn Fn(&A) -> Script) -> Recorder {
        let a = A::default();
        self.ends.borrow_mut().push(a.clone());
        a.plays(script(&a))
    }
}

/// The record of one side.
#[derive(Clone, Default)]
struct Seen {
    log: Log,
    ends: Rc<RefCell<Vec<A>>>,
}

impl Seen {
    /// The number of its connections and connects that have ended.
    fn ended(&self) -> usize {
        let lost = self.ends.borrow().iter().filter(|a| a.is_lost()).count();
        lost + self.log.count("ended")
    }
}

type Serve = Rc<dyn Fn(&Side, SocketAddr) -> SocketAddr>;
type Ask = Rc<dyn Fn(&Side, SocketAddr)>;

struct Scene {
    /// Opens a port at this address, and returns the address to connect to.
    serve: Serve,
    ask: Ask,
    /// The number of connection ends and connects that must end, on both sides together.
    ends: usize,
    /// Ignore the number of bytes that arrive before an abortive end.
    any_part: bool,
    /// Entries to ignore, because their number depends on how the stream is cut.
    without: Vec<&'static str>,
    /// Ignore the order of a connection's callbacks: the network decides it.
    unordered: bool,
}

/// The records of both sides in normal form: the entries of each connection, then the notes.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    server: Vec<Vec<String>>,
    client: Vec<Vec<String>>,
}

impl Scene {
    /// A server whose connections play one script, and a client whose one connection plays the
    /// other.
    fn of(
        server: impl Fn(&A) -> Script + 'static,
        client: impl Fn(&A) -> Script + 'static,
    ) -> Scene {
        let server = Rc::new(server);
        let client = Rc::new(client);
        Scene {
            serve: Rc::new(move |side, address| {
                let (inner, server) = (side.clone(), server.clone());
                let accept = move |_: &Address| Some(inner.plays(&*server));
                let port = side.reactor.listen(address, accept).expect("a free port");
                port.host().socket_addr().expect("a port has an address")
            }),
            ask: Rc::new(move |side, to| {
                let (inner, client) = (side.clone(), client.clone());
                let made = move |_: &Address| Some(inner.plays(&*client));
                side.reactor.connect(to, made).detach();
            }),
            ends: 2,
            any_part: false,
            without: Vec::new(),
            unordered: false,
        }
    }

    /// [`of`](Self::of), with the scripts as texts.
    fn told(server: &'static str, client: &'static str) -> Scene {
        Scene::of(move |a| plays::script(a, server), move |a| plays::script(a, client))
    }

    /// With `n` connections at once.
    fn times(mut self, n: usize) -> Scene {
        let one = self.ask.clone();
        self.ask = Rc::new(move |side, to| (0..n).for_each(|_| one(side, to)));
        self.ends *= n;
        self
    }

    /// Ignores how much of the stream arrives before the end.
    fn any_part(mut self) -> Scene {
        self.any_part = true;
        self
    }

    /// Ignores this entry.
    fn without(mut self, entry: &'static str) -> Scene {
        self.without.push(entry);
        self
    }

    /// Ignores the order of a connection's callbacks.
    fn unordered(mut self) -> Scene {
        self.unordered = true;
        self
    }

    /// Plays the scene on the kernel and on simulated networks, and returns their common trace.
    fn play(&self) -> Trace {
        let kernel = self.on_the_kernel();
        for (seed, link) in (1..).zip(networks()) {
            let sim = self.in_the_simulator(seed, link);
            assert!(sim == kernel, "over {link:?}: {}", difference(&sim, &kernel));
        }
        kernel
    }

    /// For scenes with more than one possible outcome: on each network both ends are lost for one
    /// of these pairs of reasons, the server's first.
    fn play_one_of(&self, allowed: &[&[&str; 2]]) {
        let check = |trace: Trace| {
            let why = |side: &[Vec<String>]| side[0].last().cloned().unwrap_or_default();
            let (server, client) = (why(&trace.server), why(&trace.client));
            let fits = |[s, c]: &[&str; 2]| server.contains(s) && client.contains(c);
            assert!(allowed.iter().any(|pair| fits(pair)), "{trace:?}");
        };
        check(self.on_the_kernel());
        for (seed, link) in (1..).zip(networks()) {
            check(self.in_the_simulator(seed, link));
        }
    }

    fn on_the_kernel(&self) -> Trace {
        let (mut server, mut client) = (kernel_loop(), kernel_loop());
        let seen = [Seen::default(), Seen::default()];
        let to = (self.serve)(&Side::new(&server.reactor(), &seen[0]), LOOPBACK);
        turn(&mut server, Duration::ZERO);
        turn(&mut server, Duration::ZERO);
        (self.ask)(&Side::new(&client.reactor(), &seen[1]), to);
        let late = client.reactor().now() + PATIENCE;
        while !self.is_over(&seen) && client.reactor().now() < late {
            turn(&mut server, Duration::ZERO);
            turn(&mut client, Duration::ZERO);
            // Yields the CPU, which the other side may need.
            turn(&mut server, ms(1));
            turn(&mut client, Duration::ZERO);
        }
        for _ in 0..5 {
            turn(&mut server, ms(1));
            turn(&mut client, ms(1));
        }
        self.trace(&seen)
    }

    fn in_the_simulator(&self, seed: u64, link: Link) -> Trace {
        let seen = [Seen::default(), Seen::default()];
        let mut sim = Sim::new(seed);
        sim.set_default_link(link);
        sim.allow_panics();
        let (serve, theirs, to) = (self.serve.clone(), seen[0].clone(), Rc::new(Cell::new(None)));
        let address = to.clone();
        sim.host("server", move |reactor| {
            let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 80);
            address.set(Some(serve(&Side::new(reactor, &theirs), any)));
            Ok(())
        });
        let (ask, ours) = (self.ask.clone(), seen[1].clone());
        let server = sim.address(sim.hosts()[0]);
        sim.host("client", move |reactor| {
            let port = to.get().expect("the server starts first").port();
            ask(&Side::new(reactor, &ours), SocketAddr::new(server, port));
            Ok(())
        });
        let over = seen.clone();
        sim.run_until(s(600), |_| self.is_over(&over)).expect("no invariant is violated");
        sim.run_for(s(5)).expect("no invariant is violated");
        let trace = self.trace(&seen);
        sim.finish().expect("nothing is left");
        trace
    }

    fn is_over(&self, seen: &[Seen; 2]) -> bool {
        seen.iter().map(Seen::ended).sum::<usize>() >= self.ends
    }

    fn trace(&self, seen: &[Seen; 2]) -> Trace {
        assert!(self.is_over(seen), "the scene does not end: {:?}", self.normalized(seen));
        self.normalized(seen)
    }

    fn normalized(&self, [server, client]: &[Seen; 2]) -> Trace {
        Trace { server: self.normal(server), client: self.normal(client) }
    }

    /// The entries of each connection, sorted because connections have no order, then the notes.
    fn normal(&self, seen: &Seen) -> Vec<Vec<String>> {
        let mut all: Vec<_> = seen.ends.borrow().iter().map(|a| self.normal_end(a)).collect();
        all.sort();
        all.push(seen.log.entries());
        all
    }

    fn normal_end(&self, a: &A) -> Vec<String> {
        let (mut entries, mut data, mut at) = (Vec::new(), 0, 0);
        let received = a.received();
        let logged = a.log.entries().into_iter().chain([String::new()]);
        for entry in logged.filter(|entry| !self.without.contains(&entry.as_str())) {
            if let Some(n) = entry.strip_prefix("data(").and_then(|rest| rest.strip_suffix(')')) {
                data += n.parse::<usize>().expect("a number");
                continue;
            }
            if data > 0 && (!self.unordered || entry.is_empty()) {
                let bytes = &received[at..at + data];
                at += std::mem::take(&mut data);
                entries.push(match self.any_part {
                    true => "data".to_owned(),
                    false => format!("data: {}", short(bytes)),
                });
            }
            entries.push(entry);
        }
        entries.pop();
        if let Some(last) = entries.last_mut()
            && last.starts_with("lost")
        {
            *last = format!("lost: {}", reason(&a.reason()));
        }
        // No bytes are guaranteed to arrive before an abortive end.
        entries.retain(|entry| !self.any_part || entry != "data");
        if self.unordered {
            entries.sort();
        }
        entries
    }
}

/// A name, the scripts of a server and a client, and the logs of the two where they matter.
type Row = (&'static str, [&'static str; 2], [&'static str; 2]);

/// Plays each scene, and compares the logs.
fn play_all(rows: &[Row], change: fn(Scene) -> Scene) {
    for row in rows {
        let _named = Named(row);
        let (_, [server, client], wanted) = row;
        let trace = change(Scene::told(server, client)).play();
        let seen = [&trace.server[0], &trace.client[0]].map(|log| log.join(", "));
        for (seen, wanted) in seen.iter().zip(wanted).filter(|(_, wanted)| !wanted.is_empty()) {
            assert!(seen.ends_with(wanted), "{seen} is not {wanted}");
        }
    }
}

/// Prints the scene that failed.
struct Named<'a>(&'a Row);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the scene was {:#?}", self.0);
        }
    }
}

/// The entries around the first difference.
fn difference(sim: &Trace, kernel: &Trace) -> String {
    let lines =
        |trace: &Trace| trace.server.iter().chain(&trace.client).flatten().cloned().collect();
    let (ours, theirs): (Vec<String>, Vec<String>) = (lines(sim), lines(kernel));
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let from = |lines: &[String]| lines[same.saturating_sub(3)..].to_vec();
    let (mut ours, mut theirs) = (from(&ours), from(&theirs));
    ours.truncate(10);
    theirs.truncate(10);
    format!("the simulator shows\n  {ours:?}\nand the kernel\n  {theirs:?}")
}

/// Fast and slow networks, with and without cut streams.
fn networks() -> [Link; 4] {
    let steady = Link::constant(ms(1));
    [
        steady,
        steady.cut(Cut::Random(100)),
        steady.latency(Latency::Uniform(ms(1), ms(50))).cut(Cut::Random(4000)),
        steady.latency(Latency::LongTail { usual: ms(5), most: s(2) }),
    ]
}

fn kernel_loop() -> Loop {
    let mio = Mio::new(256 * 1024).expect("a poll descriptor");
    Loop::with_driver(mio, LoopOptions::default())
}

fn turn(l: &mut Loop, at_most: Duration) {
    l.turn(Some(at_most)).expect("the loop turns");
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Short text verbatim; anything else as its length and hash.
fn short(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 40 => text.to_owned(),
        _ => {
            let hash = bytes.iter().fold(0_u64, |hash, byte| {
                hash.rotate_left(5).wrapping_add(u64::from(*byte)).wrapping_mul(0x9e37_79b9)
            });
            format!("{} bytes, {hash:x}", bytes.len())
        }
    }
}

/// A reason without the kernel's own error text.
fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Lost(error) => format!("Lost({:?})", error.kind()),
        other => text(other),
    }
}
