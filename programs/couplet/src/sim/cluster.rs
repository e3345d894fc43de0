//! Nodes whose rooms a bus joins, in a storm: servers of clients on three machines, a NATS server,
//! and up to a thousand clients.
//!
//! Each client gets another's lines once and in order. The bus of either node reports each gap: the
//! nodes add their counts of losses to each line. After the storm every client gets lines from the
//! speakers of all nodes. In one world of eight the bus is in memory.
//!
//! Contract: 231.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Memory, Subscription, nats};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport, ReconnectingClientFactory};
use couplet::rooms::{Member, RoomOptions, Rooms};
use couplet::sim::{Host, Notes, Sim};
use couplet::transport::Timeout;
use couplet::{Reactor, Transport};

use super::nats as server;

const NODES: u32 = 3;
/// Clients that speak: two for each node.
const SPEAKERS: u32 = 2 * NODES;
const PORT: u16 = 7000;
const SUBJECT: &str = "cluster.lines";
const STORM: Duration = Duration::from_secs(90);
/// Time for all clients to reconnect: dead connections are noticed by their silence.
const BACK: Duration = Duration::from_secs(75);
const AFTER: Duration = Duration::from_secs(30);
/// Between two PINGs of a node; after two without an answer it connects again.
const PING: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A client that receives nothing for this long, not even its own lines, has lost its node.
const SILENCE: Duration = Duration::from_secs(20);

/// The medium between the nodes.
#[derive(Clone)]
enum Medium {
    Nats,
    Memory(Memory),
}

impl Medium {
    fn bus(&self, reactor: &Reactor) -> couplet::Result<Bus> {
        Ok(match self {
            Medium::Memory(memory) => Bus::memory(reactor, memory),
            Medium::Nats => {
                let options = nats::Options::new(["bus:4222"])?.echo(false).ping_interval(PING);
                let first = Duration::from_millis(250);
                Bus::nats(reactor, options.back_off(first, LONGEST_DELAY).queue(64 * 1024))
            }
        })
    }
}

/// A program that joins its clients to the other nodes' clients.
struct Node {
    name: String,
    rooms: Rooms<()>,
    bus: Bus,
}

impl Node {
    fn start(reactor: &Reactor, name: &str, medium: &Medium) -> couplet::Result<()> {
        let rooms = Rooms::new(reactor, |()| RoomOptions::default());
        let (bus, name) = (medium.bus(reactor)?, name.to_owned());
        let node = Rc::new(Node { name, rooms, bus });
        let receiving = Rc::downgrade(&node);
        let subscription = node.bus.subscribe(SUBJECT, move |message| {
            receiving.upgrade().iter().for_each(|node| node.publish(message.payload()));
        })?;
        let subscription = Rc::new(subscription);
        let seat = move || {
            let (node, subscription) = (node.clone(), subscription.clone());
            LineReceiver::new(Seat { node, member: None, _subscription: subscription })
        };
        reactor.listen(format!("tcp:{PORT}"), seat)?;
        Ok(())
    }

    /// Adds the number of losses at this end of the bus to a line, for its members.
    fn publish(&self, line: &[u8]) {
        let counts = self.bus.counts();
        let losses = counts.connects + counts.lost;
        let line = [line, format!(" {losses}\r\n").as_bytes()].concat();
        self.rooms.publish(&(), line).expect("there is room for one");
    }

    /// Sends a member's line to all nodes, with the number of losses at the other end.
    fn say(&self, words: &str) {
        let counts = self.bus.counts();
        let losses = counts.unconfirmed + counts.lost;
        let line = format!("{words} {} {losses}", self.name);
        self.publish(line.as_bytes());
        // A refused line is counted.
        let _ = self.bus.publish(SUBJECT, line);
    }
}

/// A client's connection, at its node.
struct Seat {
    node: Rc<Node>,
    member: Option<Member<(), ()>>,
    _subscription: Rc<Subscription>,
}

impl LineProtocol for Seat {
    fn connection_made(&mut self, transport: &LineTransport) {
        match self.node.rooms.join(&(), transport, ()) {
            Ok(member) => self.member = Some(member),
            Err(error) => transport.fail(error),
        }
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.node.say(&String::from_utf8_lossy(line));
    }
}

/// A client across its connections.
#[derive(Clone)]
struct Person {
    name: String,
    node: String,
    /// The time between two lines of a speaker.
    pause: Option<Duration>,
    /// Number of its connections; each one has its own voice.
    voices: Rc<Cell<u32>>,
    /// The nodes whose speakers it has heard.
    heard: Rc<RefCell<BTreeSet<String>>>,
    notes: Notes,
}

/// One connection of a client.
struct Client {
    person: Person,
    voice: u32,
    said: u64,
    /// The last line of each voice.
    last: BTreeMap<String, Heard>,
}

/// The numbers of a line.
#[derive(Clone, Copy, Debug)]
struct Heard {
    number: u64,
    /// The losses of the speaker's node, and of this client's.
    losses: [u64; 2],
}

impl Client {
    fn say(&mut self, transport: &Transport) {
        let Some(pause) = self.person.pause else { return };
        self.said += 1;
        transport.write(format!("{}-{} {}\r\n", self.person.name, self.voice, self.said));
        transport.connection::<Client>().call_later(pause, Client::say);
    }

    fn hear(&mut self, voice: &str, node: &str, heard: Heard) {
        self.person.heard.borrow_mut().insert(node.to_owned());
        let Some(last) = self.last.insert(voice.to_owned(), heard) else { return };
        let missed = heard.number.checked_sub(last.number + 1);
        let is_local = node == self.person.node;
        // The speaker's node counts its messages, this one's the times without a connection.
        let reported = match heard.losses[1] == last.losses[1] {
            true => heard.losses[0].saturating_sub(last.losses[0]),
            false => u64::MAX,
        };
        if missed.is_none_or(|missed| missed > if is_local { 0 } else { reported }) {
            let name = &self.person.name;
            self.person.notes.fail(format!("{name} heard {voice}: {heard:?} after {last:?}"));
        }
    }
}

impl LineProtocol for Client {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(SILENCE));
        self.say(transport);
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split(' ').collect();
        let number = |text: &str| text.parse().ok();
        let parsed = match words[..] {
            [voice, said, node, first, second] => number(said)
                .zip(number(first))
                .zip(number(second))
                .map(|((number, first), second)| (voice, node, number, [first, second])),
            _ => None,
        };
        match parsed {
            Some((voice, node, number, losses)) => self.hear(voice, node, Heard { number, losses }),
            None => self.person.notes.fail(format!("{} heard {line:?}", self.person.name)),
        }
    }
}

/// Keeps a client connected to its node.
fn join(reactor: &Reactor, person: &Person) {
    let (joining, node) = (person.clone(), person.node.clone());
    let factory = ReconnectingClientFactory::with(move |reconnection| {
        let person = joining.clone();
        move || {
            reconnection.reset_delay();
            person.voices.set(person.voices.get() + 1);
            let (person, voice) = (person.clone(), person.voices.get());
            LineReceiver::new(Client { person, voice, said: 0, last: BTreeMap::new() })
        }
    });
    reactor.connect((&*node, PORT), factory.max_delay(LONGEST_DELAY)).detach();
}

/// The clients that only listen: mostly few.
fn listeners(seed: u64) -> u32 {
    match seed % 64 {
        0 => 1000 - SPEAKERS,
        rest => rest as u32 % 7,
    }
}

pub(super) fn run(sim: &mut Sim) -> couplet::Result<()> {
    let medium = match sim.seed() % 8 {
        7 => Medium::Memory(Memory::new().echo(false)),
        _ => Medium::Nats,
    };
    let count = SPEAKERS + listeners(sim.seed());
    run_with(sim, &medium, count)
}

fn run_with(sim: &mut Sim, medium: &Medium, count: u32) -> couplet::Result<()> {
    if let Medium::Nats = medium {
        sim.host("bus", |reactor| server::listen(reactor, 4222));
    }
    for n in 0..NODES {
        let (name, medium) = (format!("node{n}"), medium.clone());
        sim.host(&name.clone(), move |reactor| Node::start(reactor, &name, &medium));
    }
    let person = |n: u32| Person {
        name: format!("client{n}"),
        node: format!("node{}", n % NODES),
        pause: (n < SPEAKERS).then(|| Duration::from_millis(700 + 300 * u64::from(n))),
        voices: Rc::default(),
        heard: Rc::default(),
        notes: sim.notes(),
    };
    let people: Vec<Person> = (0..count).map(person).collect();
    for n in 0..NODES {
        let node = format!("node{n}");
        let crowd: Vec<Person> =
            people.iter().filter(|person| person.node == node).cloned().collect();
        sim.host(&format!("crowd{n}"), move |reactor| {
            crowd.iter().for_each(|person| join(reactor, person));
            Ok(())
        });
    }
    sim.draw_faults(STORM);
    // Once more for the links of the bus.
    let machines: Vec<Host> =
        sim.hosts().into_iter().filter(|host| !sim.name(*host).starts_with("crowd")).collect();
    sim.draw_faults_for(STORM, &machines);
    sim.run_for(STORM + BACK)?;
    people.iter().for_each(|person| person.heard.borrow_mut().clear());
    sim.run_for(AFTER)?;
    match people.iter().find(|person| person.heard.borrow().len() < NODES as usize) {
        Some(deaf) => {
            let (name, heard) = (&deaf.name, deaf.heard.borrow());
            sim.fail(format!("{name} hears only {heard:?} {:?} after the storm", BACK + AFTER))
        }
        None => Ok(()),
    }
}
