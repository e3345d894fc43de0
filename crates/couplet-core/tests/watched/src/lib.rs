//! Ends a test binary if one of its tests takes longer than a minute.
//!
//! `#[macro_use] extern crate couplet_watched;` in the root of a test binary replaces its `#[test]`
//! by one that also calls [`watch`]. The harness has no time limit, and a thread can't be ended
//! from outside, so the watchdog ends the process, after it has printed the test's name and, on
//! Linux, its backtrace.

use std::io::Write;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};
use std::{env, fs, io, process, thread};

use couplet_os::backtrace::Thread;

pub use couplet_watched_attribute::test;

/// The limit of a test in seconds, for slow machines.
const VARIABLE: &str = "COUPLET_TEST_SECONDS";
const LIMIT: Duration = Duration::from_secs(60);
/// Time limit for installing or compiling a test's requirements.
const PREPARATION: Duration = Duration::from_secs(600);

static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());
static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();

struct Running {
    test: &'static str,
    until: Instant,
    thread: ThreadId,
    trace: Option<Thread>,
}

struct Watchdog {
    limit: Duration,
    thread: thread::Thread,
}

/// A test runs until this is dropped.
#[derive(Debug)]
pub struct Watched(&'static str);

/// Starts the time of a test, which the calling thread runs.
///
/// # Panics
///
/// If `COUPLET_TEST_SECONDS` is not a number.
pub fn watch(test: &'static str) -> Watched {
    let watchdog = WATCHDOG.get_or_init(|| {
        let seconds = env::var(VARIABLE).map(|text| text.parse().expect("a number of seconds"));
        let limit = seconds.map_or(LIMIT, Duration::from_secs);
        Watchdog { limit, thread: thread::spawn(guard).thread().clone() }
    });
    let (until, thread) = (now() + watchdog.limit, thread::current().id());
    running().push(Running { test, until, thread, trace: Thread::current() });
    Watched(test)
}

/// A requirement that several tests share: the first to need it prepares it, in at most ten minutes.
///
/// The time of each test that waits for it starts again afterwards.
#[derive(Debug)]
pub struct Prepared<T>(OnceLock<T>);

impl<T> Prepared<T> {
    /// Nothing is prepared yet.
    #[expect(clippy::new_without_default, reason = "it is the value of a static")]
    pub const fn new() -> Self {
        Prepared(OnceLock::new())
    }

    /// What `work` has made, for this test or another.
    pub fn get_or_prepare(&self, work: impl FnOnce() -> T) -> &T {
        preparing(|| self.0.get_or_init(work))
    }
}

/// Prepares a test's requirements, in at most ten minutes. Afterwards the test's time starts again.
pub fn preparing<T>(work: impl FnOnce() -> T) -> T {
    let current = thread::current().id();
    let set = |limit| {
        let mut running = running();
        let test = running.iter_mut().find(|running| running.thread == current);
        test.into_iter().for_each(|test| test.until = now() + limit);
    };
    set(PREPARATION);
    let made = work();
    if let Some(watchdog) = WATCHDOG.get() {
        set(watchdog.limit);
        watchdog.thread.unpark();
    }
    made
}

impl Drop for Watched {
    fn drop(&mut self) {
        running().retain(|running| running.test != self.0);
    }
}

fn running() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn now() -> Instant {
    Instant::now()
}

/// Sleeps until the first limit: a test that starts meanwhile reaches its own limit later.
#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn guard() {
    let limit = WATCHDOG.wait().limit;
    loop {
        let running = running();
        let first = running.iter().min_by_key(|running| running.until);
        let left = first.map_or(limit, |first| first.until.saturating_duration_since(now()));
        match first {
            Some(late) if left.is_zero() => end(late, limit),
            _ => drop(running),
        }
        thread::park_timeout(left);
    }
}

/// Ends the process and the programs that it has started.
fn end(test: &Running, limit: Duration) -> ! {
    let trace = test.trace.and_then(Thread::capture);
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
