//! Warnings and errors of a program without a `tracing` subscriber: contract 119d. Each case runs
//! in a separate process, since `tracing` has one subscriber per process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use couplet::sim::Sim;
use couplet::{Deferred, Failure, Loop, LoopOptions, Result};
use tracing::subscriber::{NoSubscriber, set_global_default};

use crate::apart::{again, told};
use crate::logged::warnings;

/// Lets a callback panic, drops a failure and requests signals that another loop handles.
fn fail_in_three_ways() {
    let signals = || Loop::with_options(LoopOptions::default().signals(true)).expect("a loop");
    let mut first = signals();
    first.begin(|_| Ok(())).expect("it begins");
    let ran = signals().run(|reactor| {
        let stopping = reactor.clone();
        Deferred::<()>::fail(Failure::msg("nobody handles this\nnor this")).detach();
        reactor.call_soon(|| panic!("I stumble\x1b[2J"));
        reactor.call_later(Duration::from_millis(1), move || stopping.stop());
        Ok(())
    });
    ran.expect("a stopped run succeeds");
    first.end().expect("it ends");
}

/// The lines that the library prints in another process that runs `case`, without panic messages.
fn printed(test: &str, case: &str) -> Vec<String> {
    let output = again(&format!("unheard::{test}"), case)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("it starts again");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let is_ours = |line: &&str| line.contains(" couplet_") || line.starts_with("    nor this");
    text.lines().filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn c119d_without_a_subscriber_a_warning_or_an_error_is_a_line_on_stderr() {
    if told().is_some() {
        return fail_in_three_ways();
    }
    let test = "c119d_without_a_subscriber_a_warning_or_an_error_is_a_line_on_stderr";
    let lines = printed(test, "fail");
    let [signals, unhandled, more, panic] = &lines[..] else { panic!("{lines:#?}") };
    assert!(
        signals
            .starts_with("WARN couplet_core::reactor::turn::run: another loop handles the signals")
    );
    assert!(signals.contains(" error="), "{signals}");
    let begins = "ERROR couplet_core::reactor::turn::run: unhandled failure: nobody handles this";
    assert!(unhandled.starts_with(begins), "{unhandled}");
    assert!(more.starts_with("    nor this (began at "), "a further line is indented: {more}");
    assert_eq!(
        panic,
        "ERROR couplet_defer::panics: a callback panicked what=\"timed call\" text=I stumble\\u{1b}[2J"
    );
}

#[test]
fn c119d_a_subscriber_of_the_program_takes_over_however_late_it_is_set() {
    if let Some(case) = told() {
        return set_a_subscriber(case == "late");
    }
    let test = "c119d_a_subscriber_of_the_program_takes_over_however_late_it_is_set";
    assert_eq!(printed(test, "early").len(), 0);
    assert_eq!(printed(test, "late").len(), 4, "all lines of the first failures");
}

fn set_a_subscriber(late: bool) {
    if late {
        fail_in_three_ways();
    }
    let heard: Arc<AtomicUsize> = Arc::default();
    let hears = heard.clone();
    let count = move |_: String| {
        hears.fetch_add(1, Ordering::Relaxed);
    };
    set_global_default(warnings(count)).expect("it is the first");
    fail_in_three_ways();
    assert_eq!(heard.load(Ordering::Relaxed), 3);
}

#[test]
fn c119d_a_program_that_chooses_no_subscriber_is_silent() {
    if told().is_some() {
        set_global_default(NoSubscriber::new()).expect("it is the first");
        return fail_in_three_ways();
    }
    assert_eq!(printed("c119d_a_program_that_chooses_no_subscriber_is_silent", "chosen"), [""; 0]);
}

#[test]
fn c119d_a_simulated_world_prints_nothing() {
    if told().is_some() {
        let mut sim = Sim::new(1);
        sim.allow_panics();
        sim.host("clumsy", |reactor| {
            reactor.call_soon(|| panic!("I stumble"));
            Ok(())
        });
        let ran: Result<()> = sim.run_for(Duration::from_secs(1));
        return ran.expect("panics are allowed");
    }
    assert_eq!(printed("c119d_a_simulated_world_prints_nothing", "simulate"), [""; 0]);
}
