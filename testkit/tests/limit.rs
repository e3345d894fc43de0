//! A test that hangs fails and says where it hangs; the other tests still run.

#[macro_use]
extern crate couplet_testkit;

use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{env, thread};

/// Set in the process of the slow tests.
const SLOW: &str = "COUPLET_TEST_IS_SLOW";

/// Runs this binary with some tests; each fails after three seconds without progress.
fn run(tests: &[&str]) -> Output {
    let this = env::current_exe().expect("a test has a path");
    let mut again = Command::new(this);
    again
        .args(["--exact", "--test-threads=1"])
        .args(tests)
        .env(SLOW, "1")
        .env("COUPLET_TEST_SECONDS", "3")
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
fn hangs_with_a_program() {
    if env::var_os(SLOW).is_some() {
        let _ = Command::new("sleep").arg("86400").status();
        hangs();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_test_that_hangs_fails_with_its_name_and_place() {
    let fails = |name: &str| {
        // The other one runs afterwards.
        let output = run(&[name, "works"]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("1 passed; 1 failed"), "{said}");
        assert!(said.contains(&format!("limit::{name} hangs")), "{said}");
        assert!(said.contains("it is in"), "{said}");
    };
    thread::scope(|scope| {
        for name in ["hangs", "hangs_with_a_result", "hangs_with_a_program"] {
            scope.spawn(move || fails(name));
        }
    });
}

/// Longer than the limit, and with progress.
#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn work(busy: impl Fn()) {
    let begun = Instant::now();
    while env::var_os(SLOW).is_some() && begun.elapsed() < Duration::from_secs(5) {
        busy();
    }
}

#[test]
fn works() {
    work(|| ());
}

#[test]
#[should_panic = "it does"]
fn works_and_panics() {
    work(|| ());
    panic!("it does");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn reads_now_and_then() {
    work(|| {
        let _ = std::fs::read("/proc/self/stat");
        thread::park_timeout(Duration::from_millis(500));
    });
}

#[test]
fn waits_for_a_program_that_works() {
    if env::var_os(SLOW).is_some() {
        let counting = "i=0; while [ $i -lt 2000000 ]; do i=$((i+1)); done; sleep 1";
        let status = Command::new("sh").args(["-c", counting]).status();
        assert!(status.expect("it starts").success());
    }
}

#[test]
fn fails_with_an_error() -> Result<(), String> {
    if env::var_os(SLOW).is_some() { Err("on purpose".to_owned()) } else { Ok(()) }
}

#[test]
fn a_test_with_progress_is_not_stopped() {
    let output =
        run(&["works", "works_and_panics", "reads_now_and_then", "waits_for_a_program_that_works"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("4 passed"), "{said}");
}

#[test]
fn an_error_fails_a_test() {
    let output = run(&["fails_with_an_error"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("on purpose"), "{said}");
}
