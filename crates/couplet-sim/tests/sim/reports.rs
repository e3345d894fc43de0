//! Failure reports: the seed, the faults that suffice for the failure, and the trace before it.

use std::cell::RefCell;
use std::panic::catch_unwind;
use std::rc::Rc;

use couplet::sim::{self, Fault, Sim, Trial, Weather};
use couplet::transport::Timeout;
use couplet::{Protocol, Reason, Result, Transport};

use super::kit::{ms, s};
use crate::apart::{again, told};

const POEM: usize = 20_000;

/// Sends a poem, 1000 bytes every 100 ms, and closes.
struct Poet(usize);

impl Protocol for Poet {
    fn connection_made(&mut self, transport: &Transport) {
        self.recite(transport);
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

impl Poet {
    fn recite(&mut self, transport: &Transport) {
        transport.write([b'a'; 1000]);
        self.0 += 1000;
        match self.0 {
            POEM => transport.lose_connection(),
            _ => drop(transport.connection::<Self>().call_later(ms(100), Self::recite)),
        }
    }
}

/// Takes all bytes before a clean close for the whole poem.
struct Believes(usize, Rc<RefCell<Vec<usize>>>);

impl Protocol for Believes {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Idle, Some(s(5)));
    }
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.0 += data.len();
    }
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        if reason.is_clean() {
            self.1.borrow_mut().push(self.0);
        }
    }
}

/// A reader fetches poems again and again; a poem that it takes for whole must be whole.
fn poetry(sim: &mut Sim) -> Result<()> {
    sim.host("poet", |reactor| reactor.listen("tcp:80", || Poet(0)).map(drop));
    let poems: Rc<RefCell<Vec<usize>>> = Rc::default();
    let shelf = poems.clone();
    sim.host("reader", move |reactor| {
        let (inner, shelf) = (reactor.clone(), shelf.clone());
        let reading = reactor.spawn(async move {
            loop {
                let shelf = shelf.clone();
                let _ = inner.connect("tcp:poet:80", move || Believes(0, shelf.clone())).await;
                inner.sleep(s(3)).await?;
            }
        });
        reading.add_both(|_: Result<()>| Ok(())).detach();
        Ok(())
    });
    sim.draw_faults(s(60));
    sim.run_until(s(80), |_| poems.borrow().iter().any(|poem| *poem != POEM))?;
    let cut = poems.borrow().iter().find(|poem| **poem != POEM).copied();
    match cut {
        Some(cut) => sim.fail(format!("a poem of {cut} bytes was taken for a whole one")),
        None => Ok(()),
    }
}

/// A seed whose storm kills the poet at a bad moment, and its report.
fn failing_seed() -> (u64, String) {
    let failed = (0..50).find_map(|seed| {
        let outcome = Trial::new(seed, Weather::Storm).examine(&poetry);
        outcome.err().map(|text| (seed, text))
    });
    failed.expect("a storm kills the poet while it recites")
}

#[test]
fn a_report_has_the_seed_the_faults_that_are_enough_and_the_trace_before_the_failure() {
    let (seed, text) = failing_seed();
    let lines: Vec<&str> = text.lines().collect();
    let headline = format!("seed {seed}, weather storm: a poem of ");
    assert!(lines[0].starts_with(&headline), "{text}");
    assert!(lines[0].contains("bytes was taken for a whole one (at "), "{text}");
    let (enough, rest) = lines[1].split_once(" of the ").unwrap();
    let enough: usize = enough.parse().unwrap();
    let verb = if enough == 1 { "is enough" } else { "are enough" };
    assert!((1..4).contains(&enough) && rest.ends_with(verb), "{text}");
    let (faults, rest) = lines[2..].split_at(enough);
    assert!(faults.iter().all(|fault| fault.starts_with("  at ")), "{text}");
    assert!(faults.iter().any(|fault| fault.contains("poet is killed, for ")), "{text}");
    assert_eq!(rest[0], "the trace before it:");
    let trace = &rest[1..];
    assert!(trace.len() <= 40, "{text}");
    let has = |what: &str| trace.iter().any(|line| line.contains(what));
    assert!(
        has("poet       is killed") && has("connection_lost: connection closed by the peer"),
        "{text}"
    );
    assert!(has("BROKEN: a poem of"), "{text}");
    assert!(!text.contains("two runs differ"), "{text}");
}

#[test]
fn check_panics_with_the_report_and_how_to_replay_it() {
    let (seed, text) = failing_seed();
    let panic = catch_unwind(|| sim::check([seed], Weather::Storm, poetry)).unwrap_err();
    let panic = panic.downcast::<String>().unwrap();
    assert_eq!(*panic, format!("{text}\nreplay it with COUPLET_SEED={seed}"));
}

#[test]
fn with_a_seed_in_the_environment_check_runs_that_one_only() {
    if told().is_some() {
        sim::check(0..5, Weather::Storm, |sim| {
            println!("<seed {}>", sim.seed());
            Ok(())
        });
        return;
    }
    let run = |seed: &str| {
        let this_test = "reports::with_a_seed_in_the_environment_check_runs_that_one_only";
        let output = again(this_test, "").env("COUPLET_SEED", seed).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let (fine, text) = run("77");
    assert!(fine, "{text}");
    let seeds: Vec<&str> = text.split("<seed ").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(seeds, ["77>", "77>"], "run, and compared");
    let (fine, text) = run("poem");
    assert!(!fine && text.contains("COUPLET_SEED must be a number, not 'poem'"), "{text}");
}

/// The report of a world that fails regardless of its faults, `by_hand` of them added by hand.
fn report_with(weather: Weather, by_hand: u64) -> String {
    let scenario = move |sim: &mut Sim| {
        let host = sim.host("host", |_| Ok(()));
        for n in 0..by_hand {
            sim.fault(s(1 + n), s(2), Fault::Pause(host));
        }
        sim.draw_faults(s(4));
        sim.run_for(s(5))?;
        sim.fail("it always fails")
    };
    Trial::new(9, weather).examine(&scenario).unwrap_err()
}

#[test]
fn faults_added_by_hand_are_marked_as_such() {
    let text = report_with(Weather::Calm, 0);
    let expected = "seed 9, weather calm: it always fails (at 5s)\n\
        the weather drew no faults\n\
        the trace before it:\n";
    assert!(text.starts_with(expected), "{text}");
    let text = report_with(Weather::Calm, 1);
    let expected = "seed 9, weather calm: it always fails (at 5s)\n\
        the weather drew no faults; 1 was added by hand\n  \
        at 1s host is paused, for 2s (by hand)\n\
        the trace before it:\n";
    assert!(text.starts_with(expected), "{text}");
    let text = report_with(Weather::Storm, 2);
    let lines: Vec<&str> = text.lines().collect();
    let (all, rest) = lines[1].strip_prefix("it needs none of the ").unwrap().split_at(2);
    assert!(all.trim().parse::<u32>().unwrap() > 1, "{text}");
    assert!(rest.trim().ends_with("faults of the weather; 2 were added by hand"), "{text}");
    assert_eq!(
        lines[2..5],
        [
            "  at 1s host is paused, for 2s (by hand)",
            "  at 2s host is paused, for 2s (by hand)",
            "the trace before it:"
        ]
    );
}

#[test]
fn a_world_that_is_given_up_is_neither_run_again_nor_shortened() {
    let runs = RefCell::new(0);
    let scenario = |sim: &mut Sim| {
        *runs.borrow_mut() += 1;
        let host = sim.host("host", |_| Ok(()));
        sim.host("busy", |reactor| {
            couplet::LoopingCall::new(reactor, || ()).start(ms(1)).detach();
            Ok(())
        });
        sim.draw_faults_for(s(4), &[host]);
        sim.set_event_limit(Some(1000));
        sim.run_for(s(1_000_000))
    };
    let text = Trial::new(9, Weather::Storm).examine(&scenario).unwrap_err();
    assert_eq!(*runs.borrow(), 1);
    let headline = "seed 9, weather storm: the world of seed 9 did not end within 1000 events";
    assert!(text.starts_with(headline), "{text}");
    let second = text.lines().nth(1).unwrap();
    assert!(
        second.starts_with("with all ") && second.ends_with(" faults of the weather"),
        "{text}"
    );
    assert!(text.contains("\nthe trace before it:\n"), "{text}");
}

#[test]
fn a_scenario_that_panics_fails_with_the_panic_message() {
    let scenario = |sim: &mut Sim| {
        sim.host("host", |_| Ok(()));
        sim.run_for(s(1))?;
        panic!("the test is wrong");
    };
    let report = Trial::new(9, Weather::Calm).run(&scenario);
    assert_eq!(report.failure.as_deref(), Some("the scenario panicked: the test is wrong"));
}

#[test]
fn the_report_of_a_flaky_failure_shows_where_the_runs_differ() {
    let runs = RefCell::new(0);
    let scenario = |sim: &mut Sim| {
        *runs.borrow_mut() += 1;
        sim.notes().note(format!("run {}", runs.borrow()));
        if *runs.borrow() == 1 { sim.fail("the first time only") } else { Ok(()) }
    };
    let text = Trial::new(9, Weather::Calm).examine(&scenario).unwrap_err();
    assert!(text.starts_with("seed 9, weather calm: the first time only"), "{text}");
    assert!(text.contains("two runs differ") && text.contains("second:"), "{text}");
}

#[test]
fn the_faults_of_each_draw_are_left_out_alone_and_those_by_hand_are_marked() {
    let needed = RefCell::new(None);
    // Fails with the last fault of the second draw.
    let scenario = |sim: &mut Sim| {
        let host = sim.host("host", |_| Ok(()));
        sim.bare_host("other");
        sim.fault(s(1), s(1), Fault::Pause(host));
        sim.draw_faults(s(10));
        sim.fault(s(2), s(1), Fault::Pause(host));
        sim.run_for(s(20))?;
        sim.draw_faults(s(10));
        let last = sim.faults().pop().expect("a storm has some");
        let needed = needed.borrow_mut().get_or_insert(last).clone();
        sim.fault(s(35), s(1), Fault::Pause(host));
        sim.run_for(s(20))?;
        if sim.faults().contains(&needed) { sim.fail("it has that fault") } else { Ok(()) }
    };
    let text = Trial::new(9, Weather::Storm).examine(&scenario).unwrap_err();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "seed 9, weather storm: it has that fault (at 40s)");
    assert!(lines[1].starts_with("1 of the "), "{text}");
    assert!(lines[1].ends_with(" faults of the weather is enough; 3 were added by hand"), "{text}");
    let by_hand = |at: u32| format!("  at {at}s host is paused, for 1s (by hand)");
    assert_eq!([lines[2], lines[3], lines[5]], [1, 2, 35].map(by_hand));
    let needed = needed.take().expect("the first run has it");
    assert!(lines[4].starts_with(&format!("  at {:?} ", needed.at)), "{text}");
    assert!(!lines[4].ends_with("(by hand)") && lines[6] == "the trace before it:", "{text}");
}

#[test]
fn check_runs_the_first_seed_twice_and_each_other_one_once() {
    let seeds = RefCell::new(Vec::new());
    sim::check(5..8, Weather::Calm, |sim| {
        seeds.borrow_mut().push(sim.seed());
        Ok(())
    });
    assert_eq!(seeds.take(), [5, 5, 6, 7]);
}
