//! Working worlds: programs, time and traces.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Sim, Trial, Weather};
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
    sim.host("server", |reactor| {
        reactor.listen("tcp:8000", || Echo)?;
        Ok(())
    });
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

/// Reads one byte, which names the protocol that follows.
struct Chooses;

impl Protocol for Chooses {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert_eq!(data[0], b'e');
        transport.upgrade_with(Echo, &data[1..]);
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
        sim.host("server", |reactor| reactor.listen("tcp:8000", || Chooses).map(drop));
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

/// Clients that connect again and again in a storm.
fn busy(sim: &mut Sim) -> couplet::Result<()> {
    sim.host("server", |reactor| {
        reactor.listen("tcp:8000", || Echo)?;
        Ok(())
    });
    for n in 0..3_u64 {
        sim.host(&format!("client{n}"), move |reactor| {
            let inner = reactor.clone();
            let rounds = reactor.spawn(async move {
                for round in 0..20 {
                    let asks = move || Sends { bytes: 1 << (round % 16) };
                    let connection = inner.connect("tcp:server:8000", asks).await;
                    drop(connection);
                    inner.sleep(Duration::from_millis(500 * (n + 1))).await?;
                }
                Ok(())
            });
            rounds.detach();
            Ok(())
        });
    }
    sim.draw_faults(Duration::from_secs(60));
    sim.run_for(Duration::from_secs(120))
}

struct Sends {
    bytes: usize,
}

impl Protocol for Sends {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_idle_timeout(Some(Duration::from_secs(5)));
        transport.write(vec![b'x'; self.bytes]);
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.bytes -= data.len();
        if self.bytes == 0 {
            transport.lose_connection();
        }
    }
}

#[test]
fn a_storm_breaks_no_invariant() {
    couplet::sim::check(0..40, Weather::Storm, busy);
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_a_different_one() {
    let run = |seed| Trial::new(seed, Weather::Storm).whole_trace().run(&busy);
    let (one, again, two) = (run(5), run(5), run(6));
    assert_eq!(one.failure, None);
    assert_eq!(one.trace, again.trace);
    assert_eq!(one.hash, again.hash);
    assert_ne!(one.hash, two.hash);
    assert!(one.trace.len() > 500, "{}", one.trace.len());
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
