//! Thousands of random lives of one connection, on the memory driver in both manners. Whatever the
//! protocol, its producer, the far end and the clock do, and in whichever order, law 5 holds, and
//! no byte is lost, doubled or moved.
//!
//! A life is made from its seed alone. When one goes wrong its seed is printed;
//! `COUPLET_LIFE=readiness:17` (or `completion:17`) lives that one again and prints its story, and
//! `COUPLET_LIVES=100000` lives that many in each manner instead of 10 000.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use couplet::testing::{Cut, Manner, Memory, Network, Wire};
use couplet::{
    Address, Failure, Loop, LoopOptions, Producer, ProducerKind, Protocol, Reason, Transport,
};

const LIVES: u64 = 10_000;
const STEPS: usize = 24;

#[test]
fn every_life_ends_once_and_keeps_its_bytes_where_sockets_tell_what_is_ready() {
    live_all(Manner::Readiness, "readiness");
}

#[test]
fn every_life_ends_once_and_keeps_its_bytes_where_operations_come_home() {
    live_all(Manner::Completion, "completion");
}

fn live_all(manner: Manner, name: &str) {
    if let Ok(one) = std::env::var("COUPLET_LIFE") {
        if let Some((_, seed)) = one.split_once(':').filter(|(of, _)| *of == name) {
            let seed = seed.parse().expect("a seed is a number");
            eprintln!("{}", Life::new(seed).live(manner));
        }
        return;
    }
    let lives = std::env::var("COUPLET_LIVES").map_or(LIVES, |n| n.parse().expect("a number"));
    for seed in 0..lives {
        let _told = Seed(name, seed);
        Life::new(seed).live(manner);
    }
}

/// Tells which life it was when one panics.
struct Seed<'a>(&'a str, u64);

impl Drop for Seed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with COUPLET_LIFE={}:{}", self.0, self.1);
        }
    }
}

/// What either stream carries from a place on: so a lost, doubled or moved byte shows.
fn bytes_at(place: usize, len: usize) -> &'static [u8] {
    const ROUND: usize = 251;
    static ROUNDS: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..ROUND as u8).cycle().take(1024 * ROUND).collect());
    &ROUNDS[place % ROUND..][..len]
}

/// What is known of one life, and what went wrong in it.
#[derive(Default)]
struct Story {
    lines: String,
    wrong: Vec<String>,
    transport: Option<Transport>,
    made: u32,
    lost: Option<Reason>,
    read_closed: bool,
    write_closed: bool,
    // What the near end asked for.
    paused: bool,
    finishing: bool,
    closing: bool,
    aborted: bool,
    failed: bool,
    panicked: bool,
    timeouts: bool,
    capped: Option<usize>,
    /// The producer that is registered, if one is.
    producer: Option<usize>,
    producer_paused: bool,
    /// For each that was taken, whether it was told to stop, or unregistered.
    producers: Vec<bool>,
    // What the far end did.
    broken: bool,
    fin: bool,
    stopped: bool,
    by_the_clock: bool,
    // Bytes.
    taken: usize,
    received: usize,
    pushed: usize,
    delivered: usize,
    // Questions and answers.
    asked: u32,
    answered: u32,
}

/// One life: its dice, its story, and how deep the calls into it are.
struct Life {
    dice: Cell<u64>,
    depth: Cell<u32>,
    story: RefCell<Story>,
}

impl Life {
    fn new(seed: u64) -> Rc<Life> {
        Rc::new(Life {
            dice: Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d),
            depth: Cell::new(0),
            story: RefCell::default(),
        })
    }

    /// A number below `n`.
    fn roll(&self, n: usize) -> usize {
        let state = self.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15); // splitmix64
        self.dice.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// A length: mostly small, now and then more than the way holds.
    fn length(&self) -> usize {
        match self.roll(16) {
            0 | 1 => 0,
            2..=9 => 1 + self.roll(20),
            10..=14 => self.roll(3000),
            _ => self.roll(90_000),
        }
    }

    fn know<R>(&self, f: impl FnOnce(&mut Story) -> R) -> R {
        f(&mut self.story.borrow_mut())
    }

    fn line(&self, line: &str) {
        self.know(|story| {
            let _ = writeln!(story.lines, "{}{line}", "  ".repeat(self.depth.get() as usize));
        });
    }

    /// Notes that something does not hold. A callback can't assert: its panic would be contained.
    fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        self.line(&format!("WRONG: {what}"));
        self.know(|story| story.wrong.push(what));
    }

    fn check(&self, holds: bool, what: &str) {
        if !holds {
            self.wrong(what);
        }
    }

    /// A call of the loop into this connection: none lies inside another, none follows the loss.
    fn called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.line(what);
        self.check(self.depth.get() == 0, "a callback inside another");
        self.check(self.know(|story| story.lost.is_none()), "a callback after the loss");
        self.check(self.know(|story| story.made == 1), "connection_made comes first, and once");
        // It goes down again when the callback panics.
        struct Out<'a>(&'a Cell<u32>);
        impl Drop for Out<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.depth.set(self.depth.get() + 1);
        let _out = Out(&self.depth);
        f();
    }

    /// A callback that a close or a pause forbids.
    fn reading_called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.check(!self.know(|story| story.closing), "a reading callback after the close");
        self.called(what, f);
    }

    /// A few random wishes, from inside a callback.
    fn wish_some(self: &Rc<Life>, transport: &Transport) {
        while self.roll(3) == 0 {
            self.wish(transport);
        }
        if self.depth.get() > 0 && self.roll(60) == 0 {
            self.panic();
        }
    }

    /// A panic that the panic hook does not print.
    fn panic(&self) -> ! {
        self.line("panic");
        self.know(|story| {
            story.panicked = true;
            story.closing = true;
        });
        std::panic::resume_unwind(Box::new("a random life".to_owned()))
    }

    /// One random wish of the near end.
    fn wish(self: &Rc<Life>, transport: &Transport) {
        match self.roll(40) {
            0..=9 => self.write(transport),
            10..=12 => self.pause(transport),
            13..=16 => self.resume(transport),
            17 => {
                self.line("lose");
                transport.lose_connection();
                self.know(|story| story.closing = true);
            }
            18 => {
                self.line("lose_write");
                transport.lose_write_connection();
                self.know(|story| story.finishing = true);
            }
            19 if self.roll(3) == 0 => {
                self.line("abort");
                transport.abort_connection();
                self.know(|story| (story.aborted, story.closing) = (true, true));
            }
            20 if self.roll(3) == 0 => {
                self.line("fail");
                transport.fail(Failure::msg("a random life"));
                self.know(|story| (story.failed, story.closing) = (true, true));
            }
            21..=23 => self.register(transport),
            24..=26 => self.unregister(transport),
            27 => {
                let after = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(20) as u64));
                self.line(&format!("idle {after:?}"));
                transport.set_idle_timeout(after);
                self.know(|story| story.timeouts |= after.is_some());
            }
            28 if !self.know(|story| story.by_the_clock) => {
                let after = (self.roll(3) > 0).then(|| Duration::from_secs(self.roll(40) as u64));
                self.line(&format!("close deadline {after:?}"));
                transport.set_close_deadline(after);
            }
            29 => {
                let cap = (self.roll(2) > 0).then(|| 1000 + self.roll(100_000));
                self.line(&format!("cap {cap:?}"));
                transport.set_write_cap(cap);
                self.know(|story| story.capped = cap);
            }
            30 => transport.set_write_marks(self.roll(100), self.roll(2000)),
            31 => self.ask(transport),
            32 => self.await_drained(transport),
            33 | 34 => self.tell(transport),
            35 | 36 => self.call_later(transport),
            _ => {}
        }
    }

    fn write(&self, transport: &Transport) {
        let len = self.length();
        let (place, shut, over, sure) = self.know(|story| {
            let shut = story.closing || story.finishing;
            let past = |cap| len > 0 && transport.buffered() + len > cap;
            let over = story.capped.is_some_and(past);
            (story.taken, shut && story.producer.is_none(), over, story.sure())
        });
        let before = transport.dropped();
        let data = bytes_at(place, len);
        if self.roll(2) == 0 {
            transport.write(data);
        } else {
            transport.write_bytes(data);
        }
        let dropped = transport.dropped() - before;
        self.line(&format!("write {len} at {place}, dropped {dropped}"));
        self.check(dropped == 0 || dropped == len as u64, "a write is taken or dropped as a whole");
        if shut {
            self.check(dropped == len as u64, "a write after the close is dropped");
        } else if sure {
            self.check(dropped == 0, "an open connection takes what is written");
        }
        if dropped > 0 {
            return;
        }
        if over {
            self.know(|story| story.closing = true);
        } else {
            self.know(|story| story.taken += len);
        }
    }

    fn pause(&self, transport: &Transport) {
        self.line("pause");
        transport.pause_producing();
        self.know(|story| story.paused = true);
    }

    fn resume(&self, transport: &Transport) {
        self.line("resume");
        transport.resume_producing();
        self.know(|story| story.paused = false);
    }

    fn register(self: &Rc<Life>, transport: &Transport) {
        let kind = [ProducerKind::Push, ProducerKind::Pull][self.roll(2)];
        let (number, had) = self.know(|story| (story.producers.len(), story.producer.is_some()));
        let piper = Piper { life: self.clone(), transport: transport.clone(), number, kind };
        let result = transport.register_producer(piper, kind);
        self.line(&format!("register {kind:?} {number}: {result:?}"));
        self.check(result.is_err() == had, "a second producer alone is refused");
        if result.is_err() {
            return;
        }
        self.know(|story| story.producers.push(false));
        // One that comes too late is only going to be stopped, and then there is room for another.
        let late = transport.register_producer(Nobody, ProducerKind::Pull).is_ok();
        let (shut, sure) = self.know(|story| (story.closing || story.finishing, story.sure()));
        self.check(!shut || late, "none is registered after the close");
        self.check(!sure || !late, "an open connection takes a producer");
        if !late {
            self.know(|story| (story.producer, story.producer_paused) = (Some(number), false));
        }
    }

    fn unregister(&self, transport: &Transport) {
        self.line("unregister");
        transport.unregister_producer();
        self.know(|story| {
            if let Some(number) = story.producer.take() {
                story.producers[number] = true;
            }
        });
    }

    fn ask(self: &Rc<Life>, transport: &Transport) {
        self.line("ask");
        self.know(|story| story.asked += 1);
        let (life, answered) = (self.clone(), self.clone());
        transport
            .connection::<Liver>()
            .ask(move |_, transport| {
                let within = life.clone();
                life.called("asked", || within.wish_some(transport));
            })
            .add_both(move |_| {
                answered.know(|story| story.answered += 1);
                Ok(())
            })
            .detach();
    }

    fn await_drained(self: &Rc<Life>, transport: &Transport) {
        self.line("drained?");
        self.know(|story| story.asked += 1);
        let answered = self.clone();
        transport
            .drained()
            .add_both(move |_| {
                answered.know(|story| story.answered += 1);
                Ok(())
            })
            .detach();
    }

    fn tell(self: &Rc<Life>, transport: &Transport) {
        let life = self.clone();
        let told = transport.connection::<Liver>().tell(move |_, transport| {
            let within = life.clone();
            life.called("told", || within.wish_some(transport));
        });
        let lost = self.know(|story| story.lost.is_some());
        self.check(told != lost, "tell says whether the connection is lost");
    }

    fn call_later(self: &Rc<Life>, transport: &Transport) {
        let life = self.clone();
        let delay = Duration::from_millis([0, 1, 500, 3000][self.roll(4)]);
        let f = move |_: &mut Liver, transport: &Transport| {
            let within = life.clone();
            life.called("timed", || within.wish_some(transport));
        };
        let call = transport.connection::<Liver>().call_later(delay, f);
        if self.roll(8) == 0 {
            call.cancel();
        }
    }
}

impl Story {
    /// Nothing but what the near end asked for can have ended it.
    fn sure(&self) -> bool {
        let asked = self.closing || self.finishing || self.lost.is_some();
        let outside = self.broken || self.timeouts || self.stopped;
        // With the far half closed, closing the near one ends it as well.
        !(asked || outside || self.read_closed)
    }
}

/// The protocol.
struct Liver(Rc<Life>);

impl Protocol for Liver {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.know(|story| {
            story.made += 1;
            story.transport = Some(transport.clone());
        });
        self.0.called("made", || self.0.wish_some(transport));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let life = &self.0;
        life.check(!data.is_empty(), "data_received brings at least one byte");
        life.check(!life.know(|story| story.paused), "data while paused");
        life.check(!life.know(|story| story.read_closed), "data after read_closed");
        let place = life.know(|story| {
            story.delivered += data.len();
            story.delivered - data.len()
        });
        life.check(data == bytes_at(place, data.len()), "bytes in are in order");
        life.reading_called(&format!("data {}", data.len()), || life.wish_some(transport));
    }

    fn read_closed(&mut self, transport: &Transport) {
        let life = &self.0;
        life.check(!life.know(|story| story.paused), "read_closed while paused");
        let (fin, all, twice) = life.know(|story| {
            let twice = std::mem::replace(&mut story.read_closed, true);
            (story.fin, story.delivered == story.pushed, twice)
        });
        life.check(fin && !twice, "read_closed comes once, for a FIN");
        life.check(all, "read_closed comes after the last byte");
        life.reading_called("read_closed", || {
            if life.roll(2) == 0 {
                life.line("lose");
                transport.lose_connection();
                life.know(|story| story.closing = true);
            }
            life.wish_some(transport);
        });
    }

    fn write_closed(&mut self, transport: &Transport) {
        let life = &self.0;
        let twice = life.know(|story| std::mem::replace(&mut story.write_closed, true));
        life.check(!twice, "write_closed comes once");
        life.check(life.know(|story| story.finishing), "write_closed comes for lose_write");
        life.check(!life.know(|story| story.panicked), "write_closed after a panic");
        life.called("write_closed", || life.wish_some(transport));
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        let life = &self.0;
        life.check(!life.know(|story| story.paused), "reading_resumed while paused");
        life.reading_called("resumed", || life.wish_some(transport));
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let life = &self.0;
        life.called(&format!("lost {reason:?}"), || {
            life.know(|story| story.lost = Some(reason.clone()));
            life.check(
                life.know(|story| story.producer.is_none()),
                "stop_producing comes before connection_lost",
            );
            life.wish_some(transport);
        });
    }
}

/// Finds out whether there is room for a producer.
struct Nobody;

impl Producer for Nobody {
    fn resume_producing(&mut self) {}
}

/// The producer.
struct Piper {
    life: Rc<Life>,
    transport: Transport,
    number: usize,
    kind: ProducerKind,
}

impl Piper {
    fn called(&mut self, what: &str, f: impl FnOnce(&mut Self)) {
        let life = self.life.clone();
        let mine = life.know(|story| story.producer == Some(self.number));
        life.check(mine, "a call to a producer that is not registered");
        life.called(&format!("{what} {}", self.number), || f(self));
    }
}

impl Producer for Piper {
    fn resume_producing(&mut self) {
        if self.kind == ProducerKind::Push {
            let was = self.life.know(|story| std::mem::replace(&mut story.producer_paused, false));
            self.life.check(was, "a push producer is resumed after a pause alone");
        }
        self.called("producer resumed", |piper| {
            if piper.life.roll(3) > 0 {
                piper.life.write(&piper.transport);
            }
            piper.life.wish_some(&piper.transport);
        });
    }

    fn pause_producing(&mut self) {
        self.life.check(self.kind == ProducerKind::Push, "a pull producer is never paused");
        let was = self.life.know(|story| std::mem::replace(&mut story.producer_paused, true));
        self.life.check(!was, "paused twice");
        self.called("producer paused", |piper| piper.life.wish_some(&piper.transport));
    }

    fn stop_producing(&mut self) {
        let (life, number) = (self.life.clone(), self.number);
        let twice = life.know(|story| std::mem::replace(&mut story.producers[number], true));
        life.check(!twice, "stop_producing comes once, and to none that unregistered");
        if life.know(|story| story.producer == Some(number)) {
            life.called(&format!("producer stopped {number}"), || {
                // The connection has ended, by whatever it was.
                life.know(|story| (story.producer, story.closing) = (None, true));
                life.wish_some(&self.transport);
            });
        } else {
            // One that came late, and so perhaps after the loss.
            life.line(&format!("late producer stopped {number}"));
            life.check(life.depth.get() == 0, "stop_producing inside a callback");
        }
    }
}

/// One life in its world.
struct Stage {
    life: Rc<Life>,
    l: Loop,
    network: Network,
    wire: Wire,
}

impl Life {
    /// From the beginning to the end; its story.
    fn live(self: &Rc<Life>, manner: Manner) -> String {
        let mut stage = Stage::new(self, manner);
        for _ in 0..1 + self.roll(STEPS) {
            stage.step();
        }
        stage.end();
        stage.after_the_end();
        self.know(|story| std::mem::take(&mut story.lines))
    }
}

impl Stage {
    fn new(life: &Rc<Life>, manner: Manner) -> Stage {
        let (driver, network) = Memory::new(manner, life.roll(usize::MAX) as u64);
        network.set_cut([Cut::Whole, Cut::Most(1000), Cut::Random(5000)][life.roll(3)]);
        network.set_capacity([64 * 1024, 5000, 500][life.roll(3)]);
        let mut l = Loop::with_driver(Box::new(driver), LoopOptions::default());
        let (reactor, place) = (l.reactor(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let liver = life.clone();
        let factory = move |_: &Address| Some(Liver(liver.clone()));
        let wire = if life.roll(2) == 0 {
            let port = reactor.listen_tcp(place, factory).expect("a free port");
            let to = port.host().socket_addr().expect("a TCP port");
            let wire = network.connect(to).expect("it listens");
            while life.know(|story| story.made == 0) {
                l.turn(Some(Duration::ZERO)).expect("memory does not fail");
            }
            port.stop_listening().expect("it listens").detach();
            wire
        } else {
            let port = network.listen(place, 1).expect("a free port");
            reactor.connect_tcp("127.0.0.1", port.port(), factory);
            while life.know(|story| story.made == 0) {
                l.turn(Some(Duration::ZERO)).expect("memory does not fail");
            }
            network.accept(port).expect("it was made")
        };
        Stage { life: life.clone(), l, network, wire }
    }

    fn transport(&self) -> Transport {
        self.life.know(|story| story.transport.clone()).expect("it was made")
    }

    fn turn(&mut self, most: usize) {
        for _ in 0..most {
            self.l.turn(Some(Duration::ZERO)).expect("memory does not fail");
            self.check();
        }
    }

    /// What holds between any two turns.
    fn check(&self) {
        let wrong = self.life.know(|story| !story.wrong.is_empty());
        if wrong {
            let story = self.life.story.borrow();
            panic!("{:?} in this life:\n{}", story.wrong, story.lines);
        }
    }

    /// One random thing from outside.
    fn step(&mut self) {
        let life = self.life.clone();
        match life.roll(12) {
            0..=2 => self.push(),
            3..=5 => self.take(life.length()),
            6 => life.wish(&self.transport()),
            7 if life.roll(4) == 0 => self.fin(),
            8 if life.roll(12) == 0 => self.break_off(),
            9 => {
                let by = Duration::from_millis([1, 700, 6000, 31_000][life.roll(4)]);
                life.line(&format!("time passes: {by:?}"));
                self.network.advance(by);
            }
            _ => {}
        }
        self.turn(life.roll(4));
    }

    fn push(&mut self) {
        let (whole, place) = self.life.know(|s| (!s.broken && !s.fin, s.pushed));
        if !whole {
            return;
        }
        let data = bytes_at(place, self.life.length());
        if let Ok(n) = self.wire.try_push(data) {
            self.life.line(&format!("far end sends {n}"));
            self.life.know(|story| story.pushed += n);
        }
    }

    fn take(&mut self, most: usize) {
        let data = self.wire.take_most(most);
        let place = self.life.know(|story| {
            story.received += data.len();
            story.received - data.len()
        });
        self.life.line(&format!("far end takes {}", data.len()));
        self.life.check(data == bytes_at(place, data.len()), "bytes out are in order");
        let (received, taken) = self.life.know(|story| (story.received, story.taken));
        self.life.check(received <= taken, "no byte goes out that was not taken");
        let cut = self.life.know(|story| story.panicked || story.broken);
        if self.wire.saw_fin() && !cut {
            self.life.check(received == taken, "the FIN comes after the flush");
        }
    }

    fn fin(&mut self) {
        if !self.life.know(|story| story.broken || std::mem::replace(&mut story.fin, true)) {
            self.life.line("far end's FIN");
            self.wire.fin();
        }
    }

    fn break_off(&mut self) {
        let reset = self.life.roll(2) == 0;
        self.life.line(if reset { "far end resets" } else { "far end closes" });
        self.life.know(|story| {
            story.fin |= !reset && !story.broken;
            story.broken = true;
        });
        if reset { self.wire.reset() } else { self.wire.close() }
    }

    /// Brings the life to its end, in one of several ways.
    fn end(&mut self) {
        match self.life.roll(4) {
            0 => self.end_in_peace(),
            1 => self.end_by_the_clock(),
            2 => self.end_with_the_run(),
            _ => {}
        }
        if self.life.know(|story| story.lost.is_none()) {
            self.life.line("at last: abort");
            self.transport().abort_connection();
            self.life.know(|story| (story.aborted, story.closing) = (true, true));
            self.turn(2);
        }
    }

    /// The near end closes, the far end takes everything and closes too.
    fn end_in_peace(&mut self) {
        self.life.line("in peace");
        let transport = self.transport();
        transport.lose_connection();
        self.life.know(|story| story.closing = true);
        self.life.unregister(&transport);
        self.turn(1);
        // What is unread comes in pieces, and is thrown away in pieces.
        for _ in 0..5000 {
            if self.life.know(|story| story.lost.is_some()) {
                return;
            }
            if self.wire.waiting() > 0 {
                self.take(usize::MAX);
            }
            if self.wire.saw_fin() {
                self.fin();
            }
            self.turn(1);
        }
        self.life.wrong("a close that nothing holds up comes to its end");
        self.check();
    }

    /// The near end closes, nobody does anything, and a producer may still be registered.
    fn end_by_the_clock(&mut self) {
        self.life.line("by the clock");
        let transport = self.transport();
        self.life.know(|story| story.by_the_clock = true);
        transport.set_close_deadline(Some(Duration::from_secs(30)));
        transport.lose_connection();
        self.life.know(|story| story.closing = true);
        for _ in 0..400 {
            if self.life.know(|story| story.lost.is_some()) {
                return;
            }
            // Progress of the last moment puts the deadline off, and there is an end to that.
            self.network.advance(Duration::from_secs(31));
            self.turn(3);
        }
        let shut = self.life.know(|story| story.producer.is_none());
        self.life.check(!shut, "the close deadline ends a close without progress");
        self.check();
    }

    fn end_with_the_run(&mut self) {
        self.life.line("with the run");
        self.life.know(|story| story.stopped = true);
        let run = self.l.run(|reactor| {
            reactor.stop();
            Ok(())
        });
        run.expect("memory does not fail");
        let lost = self.life.know(|story| story.lost.is_some());
        self.life.check(lost, "no connection outlives the run");
        self.check();
    }

    /// What holds when it is over, whatever is called afterwards.
    fn after_the_end(&mut self) {
        let transport = self.transport();
        for _ in 0..4 {
            self.life.wish(&transport);
        }
        self.network.advance(Duration::from_secs(100));
        self.turn(4);
        self.take(usize::MAX);
        let life = &self.life;
        life.check(self.wire.is_closed(), "the driver's slot is closed");
        life.check(!transport.wants_data(), "a lost connection wants no data");
        let unstopped = life.know(|story| story.producers.contains(&false));
        life.check(!unstopped, "every producer is stopped, or has unregistered");
        let (asked, answered) = life.know(|story| (story.asked, story.answered));
        life.check(asked == answered, "every question has one answer");
        self.check_reason();
        let snapshot = self.l.snapshot();
        life.check(snapshot.connections.is_empty(), "the loop keeps no connection");
        life.check(snapshot.pending_calls == 0, "the loop keeps no timer of a connection");
        self.check();
    }

    /// The reason was asked for, or happened; and nothing of more weight was.
    fn check_reason(&self) {
        let story = self.life.story.borrow();
        let happened = match story.lost.as_ref() {
            None => false,
            Some(Reason::Done(_)) => story.closing || story.fin,
            Some(Reason::Lost(_)) => story.broken,
            Some(Reason::Aborted) => story.aborted,
            Some(Reason::Timeout) => story.timeouts,
            Some(Reason::CloseTimedOut) => story.closing || story.finishing,
            Some(Reason::Overflow) => story.closing,
            Some(Reason::Failed(_)) => story.failed,
            Some(Reason::Panicked(text)) => story.panicked && &**text == "a random life",
            Some(Reason::Shutdown) => story.stopped,
            Some(_) => false,
        };
        assert!(happened, "{:?} without a cause:\n{}", story.lost, story.lines);
    }
}
