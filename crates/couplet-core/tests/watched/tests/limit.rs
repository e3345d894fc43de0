//! A test that hangs for any reason ends its process, which prints where it hangs.

#[macro_use]
extern crate couplet_watched;

use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;
use std::{env, thread};

/// Set in the process of the slow tests.
const SLOW: &str = "COUPLET_TEST_IS_SLOW";

/// Runs this binary with some tests, each limited to two seconds.
fn run(tests: &[&str]) -> Output {
    let this = env::current_exe().expect("a test has a path");
    let mut again = Command::new(this);
    again
        .args(["--exact", "--test-threads=1"])
        .args(tests)
        .env(SLOW, "1")
        .env("COUPLET_TEST_SECONDS", "2")
        .env("RUST_BACKTRACE", "0");
    again.output().expect("it starts")
}

#[test]
fn hangs() {
    if env::var_os(SLOW).is_some() {
        let (_sender, receiver) = mpsc::channel::<()>();
        let _ = receiver.recv();
    }
}

#[test]
fn hangs_with_a_result() -> Result<(), mpsc::RecvError> {
    hangs();
    Ok(())
}

#[test]
fn a_test_that_hangs_ends_its_process_with_its_name_and_place() {
    for name in ["hangs", "hangs_with_a_result", "hangs_behind_its_preparation"] {
        let output = run(&[name]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(&format!("limit::{name} takes longer than 2s")), "{said}");
        assert!(!cfg!(target_os = "linux") || said.contains("limit::hangs"), "{said}");
    }
}

#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn lasts_more_than_a_second() {
    if env::var_os(SLOW).is_some() {
        thread::park_timeout(Duration::from_millis(1100));
    }
}

#[test]
fn in_time() {
    lasts_more_than_a_second();
}

#[test]
#[should_panic = "it does"]
fn in_time_it_panics() {
    lasts_more_than_a_second();
    panic!("it does");
}

#[test]
fn in_time_behind_its_preparation() {
    couplet_watched::preparing(|| {
        lasts_more_than_a_second();
        lasts_more_than_a_second();
    });
    lasts_more_than_a_second();
}

#[test]
fn in_time_behind_the_preparation_of_another() {
    static SHARED: couplet_watched::Prepared<()> = couplet_watched::Prepared::new();
    let (begun, begins) = mpsc::channel();
    let first = thread::spawn(move || {
        SHARED.get_or_prepare(|| {
            begun.send(()).expect("it is received");
            lasts_more_than_a_second();
            lasts_more_than_a_second();
        });
    });
    begins.recv().expect("it is sent");
    SHARED.get_or_prepare(|| ());
    lasts_more_than_a_second();
    first.join().expect("it does not panic");
}

#[test]
fn hangs_behind_its_preparation() {
    couplet_watched::preparing(lasts_more_than_a_second);
    hangs();
}

#[test]
fn each_test_has_its_own_time() {
    let output = run(&[
        "in_time",
        "in_time_it_panics",
        "in_time_behind_its_preparation",
        "in_time_behind_the_preparation_of_another",
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 passed"), "{said}");
}
