//! Clients that return after every fault of the simulator, with each policy for slow members.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::rooms::{Event, Position, RoomOptions, Rooms, Start, WhenFull};
use couplet::sim::{self, Fault, Notes, Sim, Weather};
use couplet::transport::Timeout;
use couplet::{Reactor, Reason, Result};

const CLIENTS: usize = 4;
const ROOM: u8 = 1;
/// Time with faults.
const STORM: Duration = Duration::from_secs(60);
/// Time for all clients to return and catch up.
const END: Duration = Duration::from_secs(250);
/// Time between two messages.
const PAUSE: Duration = Duration::from_millis(200);
/// Messages of a server, which begins again when it is restarted.
const MESSAGES: u64 = 400;

/// What outlives the programs, as on a disk.
#[derive(Default)]
struct Kept {
    /// The position of the last message that each client got.
    last: RefCell<[Option<Position>; CLIENTS]>,
    /// The newest message.
    published: Cell<Option<Position>>,
    /// Messages that slow members did not get: as reported, and as they noticed.
    dropped: Cell<u64>,
    missing: Cell<u64>,
    /// Gaps, and complete returns.
    gaps: Cell<u64>,
    returns: Cell<u64>,
}

/// The part of a position that identifies the room.
fn epoch(position: Position) -> String {
    let text = position.to_string();
    text.split('-').next().unwrap_or_default().to_owned()
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}

/// The server's end: a client begins with the position of its last message, or with "new".
struct Serves {
    rooms: Rooms<u8>,
    kept: Rc<Kept>,
}

impl LineProtocol for Serves {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_write_marks(0, 4096);
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(30)));
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let position = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
        let start = position.map_or(Start::Now, Start::After);
        // A second line of a client, to stay in time.
        let Ok((_, replay)) = self.rooms.join_from(&ROOM, transport, (), start) else { return };
        if position.is_none() || !replay.is_complete {
            add(&self.kept.gaps, 1);
            transport.send_line(format!("at {}", replay.position));
        } else {
            add(&self.kept.returns, 1);
        }
    }
}

fn publish(reactor: &Reactor, rooms: Rooms<u8>, kept: Rc<Kept>) {
    let encode = |position: Position| {
        format!("{position} {} {}\r\n", position.number(), "x".repeat(700)).into()
    };
    kept.published.set(rooms.publish_encoded(&ROOM, encode).ok());
    let last = kept.published.get().map(Position::number);
    if last.is_some_and(|last| last < MESSAGES) {
        let again = reactor.clone();
        reactor.call_later(PAUSE, move || publish(&again, rooms, kept));
    }
}

fn server(reactor: &Reactor, policy: WhenFull, kept: &Rc<Kept>) -> Result<()> {
    let rooms = Rooms::new(reactor, move |_| {
        RoomOptions::default().when_full(policy).queue(8, 1 << 20).history(
            100,
            1 << 20,
            Duration::from_secs(3600),
        )
    });
    let telling = kept.clone();
    rooms.on_event(move |event| {
        if let Event::Dropped { .. } = event {
            add(&telling.dropped, 1);
        }
    });
    publish(reactor, rooms.clone(), kept.clone());
    let kept = kept.clone();
    reactor.listen("tcp:8000", move || {
        LineReceiver::new(Serves { rooms: rooms.clone(), kept: kept.clone() })
    })?;
    Ok(())
}

/// A client that returns, and checks that it misses no message without a report.
struct Client {
    number: usize,
    kept: Rc<Kept>,
    notes: Notes,
    drops: bool,
}

impl Client {
    fn last(&self) -> Option<Position> {
        self.kept.last.borrow()[self.number]
    }

    fn set_last(&self, position: Position) {
        self.kept.last.borrow_mut()[self.number] = Some(position);
    }

    fn check(&self, position: Position, text: &str) {
        let Some(last) = self.last() else { return self.notes.fail("a message before its place") };
        if epoch(position) != epoch(last) || position.number() <= last.number() {
            return self.notes.fail(format!("{position} after {last}"));
        }
        let missing = position.number() - last.number() - 1;
        add(&self.kept.missing, missing);
        if missing > 0 && !self.drops {
            self.notes.fail(format!("{position} after {last}"));
        }
        if text.split(' ').next() != Some(&*position.number().to_string()) {
            self.notes.fail(format!("{position} has the text {text}"));
        }
        self.set_last(position);
    }
}

impl LineProtocol for Client {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(10)));
        let last = self.last();
        transport.send_line(last.map_or("new".to_owned(), |last| last.to_string()));
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some((word, text)) = line.split_once(' ') else { return self.notes.fail("no message") };
        match (word, word.parse()) {
            ("at", _) => match text.parse() {
                Ok(position) => self.set_last(position),
                Err(error) => self.notes.fail(format!("{error}: {text}")),
            },
            (_, Ok(position)) => self.check(position, text),
            (_, Err(error)) => self.notes.fail(format!("{error}: {word}")),
        }
    }

    fn connection_lost(&mut self, transport: &LineTransport, _: &Reason) {
        let client = self.again();
        dial(transport.reactor(), client);
    }
}

impl Client {
    fn again(&self) -> Client {
        let (kept, notes) = (self.kept.clone(), self.notes.clone());
        Client { number: self.number, kept, notes, drops: self.drops }
    }
}

fn dial(reactor: &Reactor, client: Client) {
    let dialling = reactor.clone();
    reactor.call_later(Duration::from_secs(1), move || {
        let (again, redialling) = (client.again(), dialling.clone());
        let connected =
            dialling.connect("tcp:server:8000", move || LineReceiver::new(client.again()));
        connected
            .map(drop)
            .add_errback(move |_| {
                dial(&redialling, again);
                Ok(())
            })
            .detach();
    });
}

/// A world; returns the kept state at its end.
fn world(sim: &mut Sim, policy: WhenFull) -> Result<Rc<Kept>> {
    let kept = Rc::<Kept>::default();
    sim.set_buffers(4096, 4096);
    let (serving, notes) = (kept.clone(), sim.notes());
    sim.host("server", move |reactor| server(reactor, policy, &serving));
    let drops = policy != WhenFull::Cut;
    let mut hosts = Vec::new();
    for number in 0..CLIENTS {
        let client = Client { number, kept: kept.clone(), notes: notes.clone(), drops };
        let program = move |reactor: &Reactor| {
            dial(reactor, client.again());
            Ok(())
        };
        hosts.push(sim.host(&format!("client {number}"), program));
    }
    sim.fault(Duration::from_secs(20), Duration::from_secs(20), Fault::SlowReader(hosts[0], 500));
    sim.fault(Duration::from_secs(10), Duration::ZERO, Fault::Reset(hosts[1], 1));
    sim.draw_faults(STORM);
    sim.run_for(END)?;
    let (last, newest) = (*kept.last.borrow(), kept.published.get());
    if last.iter().any(|last| *last != newest) {
        sim.fail(format!("{last:?} got less than {newest:?}"))?;
    }
    if kept.missing.get() > kept.dropped.get() {
        let text = format!("{} missing, {} reported", kept.missing.get(), kept.dropped.get());
        sim.fail(text)?;
    }
    sim.finish()?;
    Ok(kept)
}

/// Runs worlds of one policy; returns the sum of a number over all.
fn run(seeds: u64, policy: WhenFull, number: impl Fn(&Kept) -> u64) -> u64 {
    let sum = Cell::new(0);
    for weather in [Weather::Calm, Weather::Storm] {
        sim::check(0..seeds, weather, |sim| {
            let kept = world(sim, policy)?;
            add(&sum, number(&kept));
            Ok(())
        });
    }
    sum.get()
}

#[test]
fn c190_in_storms_each_client_gets_every_message_or_a_gap_report() {
    let returns = run(20, WhenFull::Cut, |kept| kept.returns.get());
    let gaps = run(1, WhenFull::Cut, |kept| kept.gaps.get());
    assert!(returns > 100 && gaps > 0, "{returns} returns, {gaps} gaps");
}

#[test]
fn c188_in_storms_no_message_is_missing_that_was_not_reported_as_dropped() {
    for policy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        let dropped = run(6, policy, |kept| kept.missing.get());
        assert!(dropped > 100, "{dropped} were dropped");
    }
}
