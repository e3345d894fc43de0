//! Fails tests that hang.
//!
//! `#[macro_use] extern crate couplet_testkit;` in the root of a test binary replaces its `#[test]`
//! by one that runs the body by [`run`]. The harness has no time limit, and a busy machine must not
//! fail a test, so the watchdog looks for progress: if the process and its children use no processor
//! time and read and write nothing for two minutes, or if a test takes longer than a quarter of an
//! hour, the test fails with its name and, on Linux, its backtrace. The thread is left behind.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Termination};
use std::sync::mpsc::{self, Sender};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use couplet_os::backtrace::Thread;

pub use couplet_testkit_attribute::test;

/// The time without progress after which a test fails, in seconds.
const VARIABLE: &str = "COUPLET_TEST_SECONDS";
const QUIET: Duration = Duration::from_secs(120);
/// A test that makes progress may take this many times as long.
const LONGEST: u32 = 8;
/// Number of looks for progress in that time.
const LOOKS: u32 = 12;

static RUNNING: Mutex<Vec<Running>> = Mutex::new(Vec::new());
static WATCHDOG: OnceLock<()> = OnceLock::new();

struct Running {
    test: &'static str,
    since: Instant,
    trace: Option<Thread>,
    /// The thread's folder in `/proc`.
    folder: Option<PathBuf>,
    ended: Sender<Ended>,
}

enum Ended {
    Returned(ExitCode),
    Panicked(Box<dyn Any + Send>),
    /// With a description.
    Hangs(String),
}

/// A place of one of the tests that run at a time: no more than have 64 descriptors each.
struct Place;

static TAKEN: Mutex<u64> = Mutex::new(0);
static FREED: Condvar = Condvar::new();
static PLACES: LazyLock<u64> = LazyLock::new(|| {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = limit.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    limit.map_or(u64::MAX, |descriptors| (descriptors / 64).max(1))
});

impl Place {
    fn take() -> Place {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = FREED.wait_while(taken, |taken| *taken >= *PLACES);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}

/// The program of the package under test, if its tests have run: `#[test]` knows it.
static PROGRAM: OnceLock<&str> = OnceLock::new();

/// The path of the program under test.
///
/// # Panics
///
/// If the package of the test has no program, or several.
#[cfg(all(unix, feature = "system"))]
pub(crate) fn program_under_test() -> &'static str {
    PROGRAM.get().expect("an integration test of a package with one program")
}

/// Runs the body of a test in a new thread, and panics if the body panics, returns an error, or
/// hangs.
///
/// # Panics
///
/// Also if `COUPLET_TEST_SECONDS` is not a number.
pub fn run<T: Termination + 'static>(
    test: &'static str,
    program: Option<&'static str>,
    body: fn() -> T,
) {
    if let Some(program) = program {
        PROGRAM.get_or_init(|| program);
    }
    WATCHDOG.get_or_init(|| {
        let seconds = env::var(VARIABLE).map(|text| text.parse().expect("a number of seconds"));
        let quiet = seconds.map_or(QUIET, Duration::from_secs);
        thread::spawn(move || watch(quiet));
    });
    let _place = Place::take();
    let (ended, end) = mpsc::channel();
    let work = move || {
        let folder = fs::read_link("/proc/thread-self").ok();
        let folder = folder.map(|path| Path::new("/proc").join(path));
        let (since, trace) = (now(), Thread::current());
        running().push(Running { test, since, trace, folder, ended: ended.clone() });
        let returned = panic::catch_unwind(AssertUnwindSafe(|| body().report()));
        running().retain(|running| running.test != test);
        // The receiver is dropped if the watchdog has failed the test.
        let _ = ended.send(returned.map_or_else(Ended::Panicked, Ended::Returned));
    };
    // The harness names the thread after the test, without the crate.
    let name = test.split_once("::").map_or(test, |(_, name)| name);
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(work);
    let thread = spawned.expect("a thread");
    let ended = end.recv().expect("the test ends with a message");
    if let Ended::Hangs(place) = ended {
        panic!("{place}");
    }
    // The join waits until the thread's local values are dropped.
    let _ = thread.join();
    match ended {
        Ended::Panicked(panic) => panic::resume_unwind(panic),
        Ended::Returned(code) if code != ExitCode::SUCCESS => panic!("the test returned an error"),
        _ => {}
    }
}

fn running() -> MutexGuard<'static, Vec<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "real time passes for a test, too")]
fn watch(quiet: Duration) {
    let own = fs::read_link("/proc/thread-self").ok();
    let own = own.and_then(|path| path.file_name().map(ToOwned::to_owned));
    let mut seen = (Vec::new(), now());
    loop {
        thread::park_timeout(quiet / LOOKS);
        let found = progress(own.as_deref());
        if found.is_empty() || seen.0 != found {
            seen = (found, now());
        }
        let is_quiet = seen.1.elapsed() >= quiet;
        let hangs = |running: &mut Running| {
            let time = running.since.elapsed();
            is_quiet && time >= quiet || time >= quiet * LONGEST
        };
        // The lock is released before the backtraces, which take it.
        let late: Vec<Running> = running().extract_if(.., hangs).collect();
        late.iter().for_each(fail);
    }
}

/// A value that changes when a thread of this process other than `own`, or a process below it, uses
/// the processor, reads or writes. Empty if the system does not report it.
fn progress(own: Option<&std::ffi::OsStr>) -> Vec<String> {
    let mut seen = Vec::new();
    let mut look = vec![PathBuf::from("/proc/self")];
    while let Some(process) = look.pop() {
        for thread in fs::read_dir(process.join("task")).into_iter().flatten().flatten() {
            if own != Some(&thread.file_name()) {
                seen.push(times(&thread.path()));
                seen.extend(fs::read_to_string(thread.path().join("io")).ok());
            }
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            look.extend(children.split_whitespace().map(|id| Path::new("/proc").join(id)));
        }
    }
    seen
}

/// The processor time of a thread, in user and in kernel mode.
fn times(thread: &Path) -> String {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // Behind the name, which may contain spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).collect::<Vec<_>>().join(" ")
}

/// Ends the programs that a test has started, and fails it.
fn fail(test: &Running) {
    let trace = test.trace.and_then(Thread::capture);
    let place = trace.map_or_else(String::new, |trace| format!("; it is in\n{trace}"));
    let children =
        test.folder.as_ref().and_then(|folder| fs::read_to_string(folder.join("children")).ok());
    for child in children.unwrap_or_default().split_whitespace() {
        let _ = Command::new("kill").args(["-9", child]).status();
    }
    let _ = test.ended.send(Ended::Hangs(format!("{} hangs ({VARIABLE}){place}", test.test)));
}
