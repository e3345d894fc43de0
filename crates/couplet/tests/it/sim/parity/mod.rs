//! The kernel and the simulator are played the same scenes, and the protocols see the same.
//!
//! A [`Scene`] is what a server's program does and what a client's does. On the kernel two loops over
//! the default driver play it on 127.0.0.1, turned in turns; in the simulator two hosts, over several
//! networks. What is compared is what each protocol was told, in order, with its bytes: pieces that
//! came behind one another count as one.

mod bulk;
mod closing;
mod dying;
mod factories;
mod failing;
#[cfg(target_os = "linux")] // whose manners the simulator has
mod raw;

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::driver::Mio;
use couplet::sim::{Cut, Latency, Link, Sim};
use couplet::{Address, Loop, LoopOptions, Reactor, Reason};

use super::kit::{ms, s};
use crate::suite::kit::LOOPBACK;
use crate::suite::recorder::{A, Log, Recorder, Script, text};

/// One of the two programs: what it runs on, and what it has seen.
#[derive(Clone)]
struct Side {
    reactor: Reactor,
    /// What is said besides by its protocols.
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

/// What one side has seen.
#[derive(Clone, Default)]
struct Seen {
    log: Log,
    ends: Rc<RefCell<Vec<A>>>,
}

impl Seen {
    /// How many of its connections or connects have come to their end.
    fn ended(&self) -> usize {
        let lost = self.ends.borrow().iter().filter(|a| a.is_lost()).count();
        lost + self.log.count("ended")
    }
}

type Serve = Rc<dyn Fn(&Side, SocketAddr) -> SocketAddr>;
type Ask = Rc<dyn Fn(&Side, SocketAddr)>;

struct Scene {
    /// Opens a port at this address, and gives where the client is to go.
    serve: Serve,
    ask: Ask,
    /// Ends of connections and of connects that there are, on both sides.
    ends: usize,
    /// How many bytes of a stream come before its bad end is nobody's promise.
    any_part: bool,
    /// What is told more or less often, by the pieces that come.
    without: Vec<&'static str>,
    /// The order of what a connection is told is the network's.
    unordered: bool,
}

/// What both sides have seen, in the normal form: what each connection was told, and the rest.
#[derive(Debug, PartialEq, Eq)]
struct Trace {
    server: Vec<Vec<String>>,
    client: Vec<Vec<String>>,
}

impl Scene {
    /// A server whose connections play one script, and a client whose one connection plays another.
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
                let port = side.reactor.listen_tcp(address, accept).expect("a free port");
                port.host().socket_addr().expect("a port has an address")
            }),
            ask: Rc::new(move |side, to| {
                let (inner, client) = (side.clone(), client.clone());
                let made = move |_: &Address| Some(inner.plays(&*client));
                side.reactor.connect_tcp(&to.ip().to_string(), to.port(), made);
            }),
            ends: 2,
            any_part: false,
            without: Vec::new(),
            unordered: false,
        }
    }

    /// So many connections at once.
    fn times(mut self, n: usize) -> Scene {
        let one = self.ask.clone();
        self.ask = Rc::new(move |side, to| (0..n).for_each(|_| one(side, to)));
        self.ends *= n;
        self
    }

    /// How much of the stream comes before the end does not matter.
    fn any_part(mut self) -> Scene {
        self.any_part = true;
        self
    }

    /// This entry does not matter.
    fn without(mut self, entry: &'static str) -> Scene {
        self.without.push(entry);
        self
    }

    /// In which order a connection was told what it was told does not matter.
    fn unordered(mut self) -> Scene {
        self.unordered = true;
        self
    }

    /// Plays it on the kernel and on simulated networks; what all of them have shown.
    fn play(&self) -> Trace {
        let kernel = self.on_the_kernel();
        for (seed, link) in (1..).zip(networks()) {
            let sim = self.in_the_simulator(seed, link);
            assert!(sim == kernel, "over {link:?}: {}", difference(&sim, &kernel));
        }
        kernel
    }

    /// For what is not decided by the scene: on each network both ends are lost for one of these
    /// pairs of reasons, the server's first.
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
        for _ in 0..5_000 {
            if self.is_over(&seen) {
                break;
            }
            turn(&mut server, Duration::ZERO);
            turn(&mut client, Duration::ZERO);
            // Who answers may need the processor.
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
        sim.run_until(s(600), |_| self.is_over(&over)).expect("the world is whole");
        sim.run_for(s(5)).expect("the world is whole");
        let trace = self.trace(&seen);
        sim.finish().expect("nothing is left");
        trace
    }

    fn is_over(&self, seen: &[Seen; 2]) -> bool {
        seen.iter().map(Seen::ended).sum::<usize>() >= self.ends
    }

    fn trace(&self, seen: &[Seen; 2]) -> Trace {
        assert!(self.is_over(seen), "it does not come to its end: {:?}", self.told(seen));
        self.told(seen)
    }

    fn told(&self, [server, client]: &[Seen; 2]) -> Trace {
        Trace { server: self.normal(server), client: self.normal(client) }
    }

    /// What each connection was told, and last what was said besides. Connections have no order.
    fn normal(&self, seen: &Seen) -> Vec<Vec<String>> {
        let mut all: Vec<_> = seen.ends.borrow().iter().map(|a| self.normal_end(a)).collect();
        all.sort();
        all.push(seen.log.entries());
        all
    }

    fn normal_end(&self, a: &A) -> Vec<String> {
        let (mut entries, mut data, mut at) = (Vec::new(), 0, 0);
        let received = a.received();
        let told = a.log.entries().into_iter().chain([String::new()]);
        for entry in told.filter(|entry| !self.without.contains(&entry.as_str())) {
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
        // Whether anything came before a bad end is not promised either.
        entries.retain(|entry| !self.any_part || entry != "data");
        if self.unordered {
            entries.sort();
        }
        entries
    }
}

/// The first thing that was told here and not there.
fn difference(sim: &Trace, kernel: &Trace) -> String {
    let lines =
        |trace: &Trace| trace.server.iter().chain(&trace.client).flatten().cloned().collect();
    let (ours, theirs): (Vec<String>, Vec<String>) = (lines(sim), lines(kernel));
    let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
    let from = |lines: &[String]| lines[same.saturating_sub(3)..].to_vec();
    let (mut ours, mut theirs) = (from(&ours), from(&theirs));
    ours.truncate(10);
    theirs.truncate(10);
    format!("the simulator tells\n  {ours:?}\nand the kernel\n  {theirs:?}")
}

/// Fast and slow networks, which cut streams or do not.
fn networks() -> [Link; 4] {
    let steady = Link::constant(ms(1));
    [
        steady,
        Link { cut: Cut::Random(100), ..steady },
        Link { latency: Latency::Uniform(ms(1), ms(50)), cut: Cut::Random(4000), ..steady },
        Link { latency: Latency::LongTail { usual: ms(5), most: s(2) }, ..steady },
    ]
}

fn kernel_loop() -> Loop {
    let mio = Mio::new(256 * 1024).expect("a poll descriptor");
    Loop::with_driver(mio, LoopOptions::default())
}

fn turn(l: &mut Loop, at_most: Duration) {
    l.turn(Some(at_most)).expect("it turns");
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// Bytes as they are where they are few and can be read; else how many, and their hash.
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

/// A reason without what only a kernel's own text would tell.
fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Lost(error) => format!("Lost({:?})", error.kind()),
        other => text(other),
    }
}
