//! Ends a test binary when one of its tests takes longer than a minute.
//!
//! `#[macro_use] extern crate couplet_watched;` in the root of a test binary replaces its `#[test]` by one
//! that also calls [`watch`]. The harness has no limit of its own, and a thread can't be ended from outside, so
//! the process is: after the test's name and, on Linux, its backtrace.

use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use couplet_os::backtrace::Thread;

pub use couplet_watched_attribute::test;

/// The limit of a test in seconds, for machines that are slow.
const VARIABLE: &str = "COUPLET_TEST_SECONDS";
const LIMIT: Duration = Duration::from_secs(60);

/// Oldest first.
static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());

struct Running {
    test: &'static str,
    since: Instant,
    thread: Option<Thread>,
}

/// A test runs until this is dropped.
#[derive(Debug)]
pub struct Watched(&'static str);

/// Starts the time of a test, which the calling thread runs.
#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
pub fn watch(test: &'static str) -> Watched {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        let seconds = env::var(VARIABLE).map(|text| text.parse().expect("a number of seconds"));
        let limit = seconds.map_or(LIMIT, Duration::from_secs);
        thread::spawn(move || guard(limit));
    });
    running().push(Running { test, since: Instant::now(), thread: Thread::current() });
    Watched(test)
}

impl Drop for Watched {
    fn drop(&mut self) {
        running().retain(|running| running.test != self.0);
    }
}

fn running() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleeps until the oldest test reaches the limit: one that starts meanwhile reaches it later.
#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn guard(limit: Duration) {
    loop {
        let running = running();
        let left = match running.first() {
            Some(oldest) => limit.saturating_sub(oldest.since.elapsed()),
            None => limit,
        };
        match running.first() {
            Some(oldest) if left.is_zero() => end(oldest, limit),
            _ => drop(running),
        }
        thread::park_timeout(left);
    }
}

/// Ends the process, and the programs that it has started.
fn end(test: &Running, limit: Duration) -> ! {
    let trace = test.thread.and_then(Thread::capture);
    let place = trace.map_or_else(String::new, |trace| format!("; it is in\n{trace}"));
    // Not `eprintln`, whose output the harness captures.
    let said = format!("{} takes longer than {limit:?} ({VARIABLE}){place}\n", test.test);
    let _ = io::stderr().write_all(said.as_bytes());
    for thread in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let _ = Command::new("kill").args(["-9", child]).status();
        }
    }
    process::abort()
}
