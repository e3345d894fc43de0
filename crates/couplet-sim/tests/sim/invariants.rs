//! Violations that a program can cause; those that only a broken loop could cause are tested in
//! `sim::witness`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Deferred;
use couplet::sim::{Fault, Sim, Trial, Weather};
use couplet::{Failure, Port, Protocol, Reactor, Reason, Result, Shutdown, Transport};
use couplet_testkit_loops::doubles::on_made;

use super::kit::{Diary, Logger, ms, s};

/// The violation that a world with this program reports.
fn broken(program: impl Fn(&Reactor) -> Result<()> + 'static) -> String {
    let mut sim = Sim::new(1);
    sim.host("host", program);
    let outcome = sim.run_for(s(10)).and_then(|()| sim.finish());
    format!("{:#}", outcome.expect_err("the world is broken"))
}

#[test]
fn a_panic_in_a_callback_breaks_the_world() {
    let text = broken(|reactor| {
        reactor.listen("tcp:80", || Logger(Diary::default()))?;
        reactor
            .connect("tcp:localhost:80", || on_made(|_| panic!("on purpose")))
            .add_both(|_| Ok(()))
            .detach();
        Ok(())
    });
    assert!(
        text.starts_with("user code panicked: a callback of a protocol: on purpose (at "),
        "{text}"
    );
}

#[test]
fn a_panic_in_a_timed_call_breaks_the_world() {
    let text = broken(|reactor| {
        reactor.call_later(s(1), || panic!("on purpose"));
        Ok(())
    });
    assert_eq!(text, "user code panicked: timed call: on purpose (at 1s)");
}

#[test]
fn a_panic_in_a_factory_breaks_the_world() {
    let text = broken(|reactor| {
        let builds = || -> Logger { panic!("on purpose") };
        reactor.listen("tcp:80", builds)?;
        let asks = || Logger(Diary::default());
        reactor.connect("tcp:localhost:80", asks).detach();
        Ok(())
    });
    assert!(text.contains("user code panicked") && text.contains("on purpose"), "{text}");
}

#[test]
fn an_unhandled_failure_breaks_the_world() {
    let text = broken(|reactor| {
        reactor.connect("tcp:nobody:80", || Logger(Diary::default())).detach();
        Ok(())
    });
    assert!(text.contains("nobody") && text.contains("invariants.rs"), "{text}");
    let text = broken(|reactor| {
        let failing: Deferred<()> = reactor.spawn(async { Err(Failure::msg("a task fails")) });
        failing.detach();
        Ok(())
    });
    assert!(text.contains("a task fails"), "{text}");
}

#[test]
fn a_world_may_allow_panics_and_then_each_ends_its_own_connection() {
    struct Touchy(Diary);
    impl Protocol for Touchy {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            assert_ne!(data, b"boo");
            transport.write(data);
        }
        fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
            self.0.add(format!("{reason:?}"));
        }
    }
    let mut sim = Sim::new(1);
    sim.allow_panics();
    let diary = Diary::default();
    let log = diary.clone();
    let server = sim.host("server", move |reactor| {
        let log = log.clone();
        reactor.listen("tcp:80", move || Touchy(log.clone())).map(drop)
    });
    let client = sim.bare_host("client");
    sim.run_for(ms(10)).unwrap();
    let [calm, mean] = [(); 2].map(|()| sim.socket(client, sim.at(server, 80)).unwrap());
    sim.run_for(ms(10)).unwrap();
    mean.push(b"boo").unwrap();
    calm.push(b"hello").unwrap();
    sim.run_for(ms(10)).unwrap();
    assert_eq!(calm.take(10), b"hello");
    drop((mean, calm));
    sim.run_for(s(1)).unwrap();
    let log = diary.take();
    assert!(log[0].contains("Panicked") && log.len() == 2, "{log:?}");
    sim.finish().unwrap();
}

#[test]
fn a_program_that_does_not_end_breaks_the_world() {
    let text = broken(|reactor| {
        // A trigger that never fires.
        let (waits, resolver) = Deferred::<()>::new();
        std::mem::forget(resolver);
        reactor.on(Shutdown::Before, move || waits);
        Ok(())
    });
    assert!(text.starts_with("the program of host does not end"), "{text}");
}

#[test]
fn a_socket_that_the_test_leaves_open_is_reported_at_the_end() {
    let mut sim = Sim::new(1);
    let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
    let port = sim.listen(b, sim.at(b, 80), 5).unwrap();
    let socket = sim.socket(a, port.address()).unwrap();
    sim.run_for(s(1)).unwrap();
    let text = format!("{:#}", sim.finish().unwrap_err());
    assert!(text.starts_with("the network holds a#1: Open with 0 bytes unsent"), "{text}");
    drop(socket);
}

#[test]
fn a_port_closes_with_its_program_whether_or_not_its_handle_was_dropped() {
    // Neither a kept handle nor a dropped one keeps the port open past the program's end.
    let kept: Rc<RefCell<Vec<Port>>> = Rc::default();
    let keeps = kept.clone();
    let mut sim = Sim::new(1);
    sim.host("host", move |reactor| {
        keeps.borrow_mut().push(reactor.listen("tcp:80", || Logger(Diary::default()))?);
        reactor.listen("tcp:81", || Logger(Diary::default())).map(drop)
    });
    sim.run_for(s(1)).unwrap();
    assert_eq!(sim.snapshot(sim.hosts()[0]).unwrap().ports.len(), 2);
    sim.finish().unwrap();
    assert_eq!(kept.borrow().len(), 1);
}

#[test]
fn leaked_deferreds_are_counted() {
    let leaks = |sim: &mut Sim| {
        sim.host("host", |_| {
            let (deferred, resolver) = Deferred::<u32>::new();
            // A reference cycle.
            let slot = Rc::new(RefCell::new(Some(resolver)));
            let held = slot.clone();
            let waiting = deferred.map(move |_| drop(held.take()));
            std::mem::forget((waiting, slot));
            Ok(())
        });
        sim.run_for(s(1))
    };
    let report = Trial::new(1, Weather::Calm).run(&leaks);
    let failure = report.failure.expect("the leak is noticed");
    assert!(failure.ends_with("Deferred links were leaked"), "{failure}");
}

#[test]
fn the_first_failure_is_reported_and_the_world_stands_still() {
    let mut sim = Sim::new(1);
    let notes = sim.notes();
    sim.host("host", move |reactor| {
        let (first, second) = (notes.clone(), notes.clone());
        reactor.call_later(s(1), move || first.fail("first"));
        reactor.call_later(s(2), move || second.fail("second"));
        Ok(())
    });
    assert_eq!(format!("{:#}", sim.run_for(s(5)).unwrap_err()), "first (at 1s)");
    assert_eq!(format!("{:#}", sim.run_for(s(5)).unwrap_err()), "first (at 1s)");
    assert_eq!(sim.elapsed(), s(1));
}

#[test]
fn the_previous_failure_reporter_is_restored() {
    let reported: Rc<RefCell<Vec<String>>> = Rc::default();
    let log = reported.clone();
    let before = couplet::defer::set_reporter(move |failure| {
        log.borrow_mut().push(failure.to_string());
    });
    let mut sim = Sim::new(1);
    let host = sim.host("host", |_| Ok(()));
    sim.fault(s(1), s(1), Fault::Kill(host));
    sim.run_for(s(5)).unwrap();
    drop(sim);
    drop(Deferred::<()>::fail(Failure::msg("my own")));
    before.set();
    assert_eq!(reported.borrow().len(), 1, "{reported:?}");
}

/// The violation, if any, of a world with a server and this program, which must stop itself.
fn ends_itself(allow_leaks: bool, program: fn(&Reactor) -> Result<()>) -> Option<String> {
    let mut sim = Sim::new(1);
    if allow_leaks {
        sim.allow_leaks();
    }
    sim.host("server", |reactor| {
        reactor.listen("tcp:80", || Logger(Diary::default()))?;
        // No leak, because a signal ends this program.
        reactor.call_later(s(1000), || ());
        Ok(())
    });
    let host = sim.host("host", program);
    let outcome = sim.run_for(s(10));
    assert!(outcome.is_err() || !sim.is_running(host), "the program must stop itself");
    outcome.and_then(|()| sim.finish()).err().map(|failure| format!("{failure:#}"))
}

fn stop_in_a_second(reactor: &Reactor) {
    let stopping = reactor.clone();
    reactor.call_later(s(1), move || stopping.stop());
}

/// A program that stops itself, the line that creates its leak, the leak's description, and further
/// text of the report.
type Leak = (fn(&Reactor) -> Result<()>, u32, &'static str, &'static str);

const LEAKS: [Leak; 5] = [
    (
        |reactor| {
            stop_in_a_second(reactor);
            reactor.listen("tcp:7", || Logger(Diary::default())).map(drop)
        },
        line!() - 2,
        "a port that listens on",
        "`port.stop_listening()`",
    ),
    (
        |reactor| {
            reactor.connect("tcp:server:80", || on_made(|it| it.reactor().stop())).detach();
            Ok(())
        },
        line!() - 3,
        "a connection to ",
        "`transport.lose_connection()`",
    ),
    (
        |reactor| {
            stop_in_a_second(reactor);
            // An address that no host has.
            let connect = reactor.connect("tcp:10.255.0.1:80", || Logger(Diary::default()));
            connect.add_both(|_| Ok(())).detach();
            Ok(())
        },
        line!() - 4,
        "a connect to ",
        "`connector.stop_connecting()`",
    ),
    (
        |reactor| {
            stop_in_a_second(reactor);
            reactor.call_later(s(3600), || ());
            Ok(())
        },
        line!() - 3,
        "a timed call, due in 3599s",
        "keep its `DelayedCall`",
    ),
    (
        |reactor| {
            stop_in_a_second(reactor);
            let task = reactor.spawn(async { std::future::pending::<Result<()>>().await });
            task.add_both(|_| Ok(())).detach();
            Ok(())
        },
        line!() - 4,
        "a task that has not finished",
        "wait for its Deferred",
    ),
];

#[test]
fn a_program_that_ends_itself_and_leaves_something_breaks_the_world_with_the_place() {
    for (program, line, what, more) in LEAKS {
        let text = ends_itself(false, program).expect(what);
        assert!(text.starts_with("host stopped itself and left behind:\n1. "), "{text}");
        assert!(text.contains(what) && text.contains(more), "{text}");
        assert!(text.contains(&format!("invariants.rs:{line}:")), "line {line}: {text}");
        assert_eq!(ends_itself(true, program), None, "{what}: allowed");
    }
}

#[test]
fn a_program_that_cleans_up_before_it_ends_itself_leaves_nothing() {
    let programs: [fn(&Reactor) -> Result<()>; 3] = [
        |reactor| {
            let stopping = reactor.clone();
            let done = reactor.spawn(async move {
                stopping.sleep(s(1)).await?;
                stopping.stop();
                Ok(())
            });
            done.detach();
            Ok(())
        },
        // In a `Shutdown::Before` trigger.
        |reactor| {
            stop_in_a_second(reactor);
            let port = reactor.listen("tcp:7", || Logger(Diary::default()))?;
            let call = reactor.call_later(s(3600), || ());
            reactor.on(Shutdown::Before, move || {
                call.cancel();
                port.stop_listening().unwrap_or_else(|| Deferred::succeed(()))
            });
            Ok(())
        },
        // With a close in progress.
        |reactor| {
            let closes = |transport: &Transport| {
                transport.lose_connection();
                transport.reactor().stop();
            };
            reactor.connect("tcp:server:80", move || on_made(closes)).detach();
            Ok(())
        },
    ];
    for program in programs {
        assert_eq!(ends_itself(false, program), None);
    }
}

/// A program that always has work.
fn restless(sim: &mut Sim) {
    fn again(reactor: &Reactor) {
        let inner = reactor.clone();
        reactor.call_soon(move || again(&inner));
    }
    sim.host("restless", |reactor| {
        again(reactor);
        Ok(())
    });
}

#[test]
fn an_endless_world_breaks_at_its_event_limit_with_its_seed() {
    let mut sim = Sim::new(77);
    restless(&mut sim);
    sim.set_event_limit(Some(10_000));
    let text = format!("{:#}", sim.run_for(Duration::MAX).unwrap_err());
    let expected = "the world of seed 77 did not end within 10000 events \
        (`Sim::set_event_limit` sets this bound) (at ";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(sim.events(), 10_000);
    assert!(text.ends_with(&format!("(at {:?})", sim.elapsed())), "{text}");
    assert!(sim.run_for(s(1)).is_err(), "a broken world does not run on");
}

#[test]
fn an_endless_world_breaks_at_its_real_time_limit() {
    let mut sim = Sim::new(77);
    restless(&mut sim);
    sim.set_event_limit(None);
    sim.set_real_time_limit(Some(ms(20)));
    let text = format!("{:#}", sim.run_for(Duration::MAX).unwrap_err());
    let expected = "the world of seed 77 did not end within 20ms of real time \
        (`Sim::set_real_time_limit` sets this bound) (at ";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_world_without_limits_keeps_running() {
    let mut sim = Sim::new(77);
    restless(&mut sim);
    sim.set_event_limit(Some(10));
    sim.set_real_time_limit(Some(Duration::ZERO));
    sim.set_event_limit(None);
    sim.set_real_time_limit(None);
    sim.run_for(ms(10)).unwrap();
    assert!(sim.events() > 1000);
}
