//! Working worlds: programs, time and traces.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Sim, Trial, Weather};
use couplet::transport::Upgrade;
use couplet::{Protocol, Reason, Transport};
use couplet_testkit_loops::doubles::{Echo, on_made};

/// Sends, and closes once everything has been echoed.
struct Asks {
    wanted: Vec<u8>,
    got: Rc<RefCell<Vec<u8>>>,
}

impl Protocol for Asks {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(&self.wanted);
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.got.borrow_mut().extend_from_slice(data);
        if self.got.borrow().len() == self.wanted.len() {
            transport.lose_connection();
        }
    }
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason}");
    }
}

#[test]
fn two_programs_talk_and_an_hour_costs_nothing() {
    let mut sim = Sim::new(1);
    sim.host("server", |reactor| reactor.listen("tcp:8000", || Echo).map(drop));
    let got: Rc<RefCell<Vec<u8>>> = Rc::default();
    let all: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (answer, wanted) = (got.clone(), all.clone());
    sim.host("client", move |reactor| {
        let (got, wanted) = (answer.clone(), wanted.clone());
        let again = reactor.clone();
        reactor.call_later(Duration::from_secs(1800), move || {
            let asks = move || Asks { wanted: wanted.clone(), got: got.clone() };
            again.connect("tcp:server:8000", asks).detach();
        });
        Ok(())
    });
    sim.run_for(Duration::from_secs(1799)).unwrap();
    assert!(got.borrow().is_empty());
    sim.run_for(Duration::from_secs(1801)).unwrap();
    assert!(*got.borrow() == all);
    assert_eq!(sim.elapsed(), Duration::from_secs(3600));
    sim.finish().unwrap();
}

/// Upgrades immediately, this many times, and then to the echo.
struct Hops(u32);

impl Protocol for Hops {
    fn connection_made(&mut self, transport: &Transport) {
        match self.0 {
            0 => transport.upgrade(Echo),
            more => transport.upgrade(Hops(more - 1)),
        };
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        unreachable!("the last one gets the bytes");
    }
}

/// Reads one byte, which names the protocol that follows, after this many hops.
struct Chooses(u32);

impl Protocol for Chooses {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert_eq!(data[0], b'e');
        match self.0 {
            0 => transport.upgrade(Upgrade::with_unread(Echo, &data[1..])),
            more => transport.upgrade(Upgrade::with_unread(Hops(more - 1), &data[1..])),
        };
    }
}

/// Selects the echo, and upgrades immediately.
struct Turns(Option<Asks>);

impl Protocol for Turns {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write("e");
        transport.upgrade(self.0.take().expect("one upgrade"));
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        unreachable!("the next one gets the bytes");
    }
}

#[test]
fn a_connection_that_is_upgraded_keeps_the_promises_of_the_contract() {
    let got: Rc<RefCell<Vec<u8>>> = Rc::default();
    for seed in 1..=50 {
        got.borrow_mut().clear();
        let mut sim = Sim::new(seed);
        let hops = (seed % 4) as u32;
        let chooses = move || Chooses(hops);
        sim.host("server", move |reactor| reactor.listen("tcp:8000", chooses).map(drop));
        let answer = got.clone();
        sim.host("client", move |reactor| {
            let got = answer.clone();
            let turns = move || Turns(Some(Asks { wanted: vec![7; 100_000], got: got.clone() }));
            reactor.connect("tcp:server:8000", turns).map(drop).detach();
            Ok(())
        });
        sim.run_for(Duration::from_secs(60)).unwrap();
        sim.finish().unwrap();
        assert_eq!(got.borrow().len(), 100_000, "seed {seed}");
    }
}

#[test]
fn a_turn_takes_time_so_a_loop_that_always_has_work_does_not_stop_the_world() {
    let mut sim = Sim::new(1);
    let turns = Rc::new(Cell::new(0));
    let count = turns.clone();
    sim.host("restless", move |reactor| {
        fn again(reactor: &couplet::Reactor, count: Rc<Cell<u32>>) {
            count.set(count.get() + 1);
            let inner = reactor.clone();
            reactor.call_soon(move || again(&inner, count));
        }
        again(reactor, count.clone());
        Ok(())
    });
    sim.run_for(Duration::from_millis(10)).unwrap();
    assert!((9_000..=10_010).contains(&turns.get()), "{}", turns.get());
}

#[test]
fn the_ids_of_connections_are_the_same_in_every_run() {
    let world = |sim: &mut Sim| {
        let notes = sim.notes();
        sim.host("one", move |reactor| {
            let notes = notes.clone();
            let greets = move || {
                let notes = notes.clone();
                on_made(move |transport| notes.note(format!("I am {}", transport.id())))
            };
            let port = reactor.listen("tcp:1", greets)?;
            reactor.connect("tcp:one:1", || Echo).detach();
            drop(port);
            Ok(())
        });
        sim.run_for(Duration::from_secs(1))
    };
    let trial = Trial::new(1, Weather::Calm).whole_trace();
    let report = trial.run(&world);
    assert!(report.trace.iter().any(|line| line.contains("note: I am ")), "{:?}", report.trace);
    assert_eq!(trial.compare(&report, &world), Ok(()));
}
