//! What breaks a world, as far as a program can bring it about; what only a broken loop could do is
//! tested beside the witness.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::defer::Deferred;
use couplet::sim::{Fault, Sim, Trial, Weather};
use couplet::{Failure, Port, Protocol, Reactor, Reason, Result, Transport};

use super::kit::{Diary, Tells, ms, s};

/// The text with which a world with this program breaks.
fn broken(program: impl Fn(&Reactor) -> Result<()> + 'static) -> String {
    let mut sim = Sim::new(1);
    sim.host("host", program);
    let outcome = sim.run_for(s(10)).and_then(|()| sim.finish());
    format!("{:#}", outcome.expect_err("the world is broken"))
}

#[test]
fn a_panic_in_a_callback_breaks_the_world() {
    struct Panics;
    impl Protocol for Panics {
        fn connection_made(&mut self, _: &Transport) {
            panic!("on purpose");
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }
    let text = broken(|reactor| {
        reactor.listen("tcp:80", || Tells(Diary::default()))?;
        reactor.connect("tcp:localhost:80", || Panics).add_both(|_| Ok(())).detach();
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
        let builds = || -> Tells { panic!("on purpose") };
        reactor.listen("tcp:80", builds)?;
        let asks = || Tells(Diary::default());
        reactor.connect("tcp:localhost:80", asks).detach();
        Ok(())
    });
    assert!(text.contains("user code panicked") && text.contains("on purpose"), "{text}");
}

#[test]
fn a_failure_that_nobody_handles_breaks_the_world() {
    let text = broken(|reactor| {
        reactor.connect("tcp:nobody:80", || Tells(Diary::default())).detach();
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
    let told = diary.clone();
    let server = sim.host("server", move |reactor| {
        let told = told.clone();
        reactor.listen("tcp:80", move || Touchy(told.clone())).map(drop)
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
    let told = diary.take();
    assert!(told[0].contains("Panicked") && told.len() == 2, "{told:?}");
    sim.finish().unwrap();
}

#[test]
fn a_program_that_does_not_end_breaks_the_world() {
    let text = broken(|reactor| {
        // A trigger that never fires.
        let (waits, resolver) = Deferred::<()>::new();
        std::mem::forget(resolver);
        reactor.on(couplet::Shutdown::Before, move || waits);
        Ok(())
    });
    assert!(text.starts_with("the program of host does not end"), "{text}");
}

#[test]
fn what_a_test_holds_open_is_told_at_the_end() {
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
fn a_port_that_is_dropped_ends_with_its_program() {
    // Neither a handle that is kept nor one that is dropped keeps a port open.
    let kept: Rc<RefCell<Vec<Port>>> = Rc::default();
    let keeps = kept.clone();
    let mut sim = Sim::new(1);
    sim.host("host", move |reactor| {
        keeps.borrow_mut().push(reactor.listen("tcp:80", || Tells(Diary::default()))?);
        reactor.listen("tcp:81", || Tells(Diary::default()))?;
        Ok(())
    });
    sim.run_for(s(1)).unwrap();
    assert_eq!(sim.snapshot(sim.hosts()[0]).unwrap().ports.len(), 2);
    sim.finish().unwrap();
    assert_eq!(kept.borrow().len(), 1);
}

#[test]
fn deferreds_that_are_left_are_counted() {
    let leaks = |sim: &mut Sim| {
        sim.host("host", |_| {
            let (deferred, resolver) = Deferred::<u32>::new();
            // Each holds the other, for ever.
            let slot = Rc::new(RefCell::new(Some(resolver)));
            let held = slot.clone();
            let waiting = deferred.map(move |_| drop(held.take()));
            std::mem::forget((waiting, slot));
            Ok(())
        });
        sim.run_for(s(1))
    };
    let report = Trial::new(1, Weather::Calm).run(&leaks);
    let failure = report.failure.expect("they are noticed");
    assert!(failure.ends_with("links of Deferreds are left"), "{failure}");
}

#[test]
fn what_fails_first_is_what_is_told_and_the_world_stands_still() {
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
fn who_hears_of_failures_outside_is_put_back() {
    let heard: Rc<RefCell<Vec<String>>> = Rc::default();
    let hears = heard.clone();
    let before = couplet::defer::set_reporter(move |failure| {
        hears.borrow_mut().push(failure.to_string());
    });
    let mut sim = Sim::new(1);
    let host = sim.host("host", |_| Ok(()));
    sim.fault(s(1), s(1), Fault::Kill(host));
    sim.run_for(s(5)).unwrap();
    drop(sim);
    drop(Deferred::<()>::fail(Failure::msg("my own")));
    before.set();
    assert_eq!(heard.borrow().len(), 1, "{heard:?}");
}
