//! The stall detector: one thread for all loops of the process, which logs calls that hold a loop
//! for too long, while they still hold it.
//!
//! The detector concerns threads and real time, so it lives below the seam, and virtual worlds have
//! none. A loop records the calls it makes; the detector checks when a call may have exceeded the
//! limit. A loop that was idle since the last check becomes dormant until it wakes the detector, so
//! the detector runs at most once per limit for a busy loop, and never for an idle one.
//!
//! Contract: 97a.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use couplet_os::backtrace;

use super::affinity;

/// User code that a loop runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UserCall {
    /// The kind of call, such as `data_received` or `task`.
    pub kind: &'static str,
    /// The name, for a task.
    pub name: Option<Arc<str>>,
    /// The type of the called object.
    pub of: Option<&'static str>,
    /// The source location of the request.
    pub place: Option<&'static Location<'static>>,
}

impl UserCall {
    pub(crate) fn kind(kind: &'static str) -> UserCall {
        UserCall { kind, name: None, of: None, place: None }
    }

    pub(crate) fn by(kind: &'static str, of: &'static str) -> UserCall {
        UserCall { of: Some(of), ..UserCall::kind(kind) }
    }

    pub(crate) fn at(kind: &'static str, place: &'static Location<'static>) -> UserCall {
        UserCall { place: Some(place), ..UserCall::kind(kind) }
    }
}

impl fmt::Display for UserCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        if let Some(name) = &self.name {
            write!(f, " {name:?}")?;
        }
        if let Some(of) = self.of {
            write!(f, " of {of}")?;
        }
        self.place.map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}

/// The thread of a loop, as other threads name and trace it.
#[derive(Clone, Debug)]
pub(crate) struct LoopThread {
    name: Arc<str>,
    /// If the system supports backtraces.
    traced: Option<backtrace::Thread>,
}

impl LoopThread {
    pub(crate) fn current() -> LoopThread {
        let current = std::thread::current();
        let name = current.name().map_or_else(|| format!("{:?}", current.id()), str::to_owned);
        LoopThread { name: name.into(), traced: backtrace::Thread::current() }
    }

    /// The thread's name, or else its number.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The thread's backtrace, innermost call first. `None` if it does not answer within 100 ms.
    pub(crate) fn backtrace(&self) -> Option<backtrace::Trace> {
        self.traced?.capture()
    }
}

/// Records the calls of a loop, for the detector.
#[derive(Clone, Debug)]
pub(crate) struct Stalls(Arc<WatchedLoop>);

#[derive(Debug)]
struct WatchedLoop {
    /// How long a call may hold the loop.
    after: Duration,
    thread: LoopThread,
    /// Whether reports have backtraces.
    backtraces: bool,
    call: Mutex<CurrentCall>,
}

/// The current call of a loop.
#[derive(Debug, Default)]
struct CurrentCall {
    /// The current call and those nested in it.
    doing: Vec<UserCall>,
    /// The start of the outermost call.
    since: Option<Instant>,
    /// Counts the outermost calls.
    number: u64,
    /// Duration of this call at its next report; `None` before the first.
    next_report: Option<Duration>,
    activity: Activity,
}

/// The activity of a loop, as far as the detector knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Activity {
    /// No call has begun since the last check.
    #[default]
    Quiet,
    Busy,
    /// The detector skips this loop until the loop wakes it.
    Dormant,
}

/// Ends a recorded call when dropped.
pub(crate) struct StallGuard(Arc<WatchedLoop>);

impl Stalls {
    /// Watches the loop of this thread.
    pub(crate) fn watch(after: Duration, backtraces: bool) -> Stalls {
        let thread = LoopThread::current();
        let call =
            Mutex::new(CurrentCall { activity: Activity::Dormant, ..CurrentCall::default() });
        let watched = Arc::new(WatchedLoop { after, thread, backtraces, call });
        DETECTOR.add(watched.clone());
        Stalls(watched)
    }

    /// Records a call of the loop until the result is dropped. Calls may be nested.
    pub(crate) fn hold(&self, doing: UserCall) -> StallGuard {
        let mut call = self.0.lock();
        if call.doing.is_empty() && call.begin(now()) == Activity::Dormant {
            DETECTOR.wake();
        }
        call.doing.push(doing);
        drop(call);
        StallGuard(self.0.clone())
    }

    /// Stops watching the loop, which is being dropped. The detector's thread ends with the last
    /// loop.
    pub(crate) fn end(&self) {
        DETECTOR.remove(&self.0);
    }
}

impl Drop for StallGuard {
    fn drop(&mut self) {
        let mut call = self.0.lock();
        let done = call.doing.pop();
        if !call.doing.is_empty() {
            return;
        }
        let since = call.since.take();
        let was_reported = call.next_report.take().is_some();
        drop(call);
        if let (true, Some(since), Some(done)) = (was_reported, since, done) {
            self.0.report_end(now().saturating_duration_since(since), &done);
        }
    }
}

/// The result of a check.
#[derive(Debug, PartialEq)]
enum StallCheck {
    /// No stall; check again then.
    At(Instant),
    /// No stall; the loop wakes the detector.
    Dormant,
    Stalled(Duration),
}

impl CurrentCall {
    /// Begins a call, and returns the activity before it.
    fn begin(&mut self, now: Instant) -> Activity {
        self.since = Some(now);
        self.number = self.number.wrapping_add(1);
        std::mem::replace(&mut self.activity, Activity::Busy)
    }

    fn check_stall(&mut self, now: Instant, after: Duration) -> StallCheck {
        let before = std::mem::take(&mut self.activity);
        let Some(since) = self.since else {
            if before == Activity::Busy {
                // A call that begins right now would exceed the limit then.
                return check_at(now, after);
            }
            self.activity = Activity::Dormant;
            return StallCheck::Dormant;
        };
        let held = now.saturating_duration_since(since);
        let limit = self.next_report.unwrap_or(after);
        if held < limit { check_at(since, limit) } else { StallCheck::Stalled(held) }
    }
}

/// The next check; none if the limit is beyond the range of `Instant`.
fn check_at(since: Instant, after: Duration) -> StallCheck {
    since.checked_add(after).map_or(StallCheck::Dormant, StallCheck::At)
}

impl WatchedLoop {
    fn lock(&self) -> MutexGuard<'_, CurrentCall> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the loop; returns the time of the next check.
    fn check(&self) -> Option<Instant> {
        let mut call = self.lock();
        let (number, held) = match call.check_stall(now(), self.after) {
            StallCheck::At(at) => return Some(at),
            StallCheck::Dormant => return None,
            StallCheck::Stalled(held) => (call.number, held),
        };
        drop(call);
        let trace = if self.backtraces { self.thread.backtrace() } else { None };
        let mut call = self.lock();
        if call.number == number && call.since.is_some() {
            // At doubling intervals, so that a loop that hangs forever does not fill the log.
            let next = held.saturating_mul(2);
            call.next_report = Some(next);
            let doing = call.doing.clone();
            let at = call.since.and_then(|since| since.checked_add(next));
            // Unlocked first: the log's reader may wait for the loop.
            drop(call);
            self.report(held, &doing, trace.as_ref());
            return at;
        }
        drop(call);
        now().checked_add(self.after)
    }

    fn report(&self, held: Duration, doing: &[UserCall], trace: Option<&backtrace::Trace>) {
        let [outer @ .., inner] = doing else { return };
        let mut what = inner.to_string();
        for outer in outer.iter().rev() {
            what = format!("{what}, in {outer}");
        }
        let thread = self.thread.name();
        if let Some(trace) = trace {
            what = format!("{what}\n{trace}");
        }
        let (kind, of) = (inner.kind, inner.of);
        let place = inner.place.map(tracing::field::display);
        log_warn!(kind, of, place, ?held, thread, "a call blocks its loop: {what}");
    }

    fn report_end(&self, held: Duration, done: &UserCall) {
        let thread = self.thread.name();
        log_warn!(kind = done.kind, ?held, thread, "the loop continues after: {done}");
    }
}

/// The detector of this process.
static DETECTOR: Detector = Detector {
    loops: Mutex::new(Loops { watched: Vec::new(), thread: Thread::None }),
    wake: Condvar::new(),
};

struct Detector {
    loops: Mutex<Loops>,
    wake: Condvar,
}

struct Loops {
    watched: Vec<Arc<WatchedLoop>>,
    thread: Thread,
}

/// The detector's thread, which ends with the last loop.
#[derive(PartialEq, Eq)]
enum Thread {
    None,
    Running,
    /// The thread checks all loops now.
    Woken,
}

impl Detector {
    fn lock(&self) -> MutexGuard<'_, Loops> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&'static self, watched: Arc<WatchedLoop>) {
        let mut loops = self.lock();
        loops.watched.push(watched);
        if loops.thread != Thread::None {
            return;
        }
        let thread = std::thread::Builder::new().name("couplet stalls".to_owned());
        let run = || {
            affinity::unpin();
            self.run();
        };
        match thread.spawn(run) {
            Ok(_) => loops.thread = Thread::Running,
            Err(error) => log_error!(%error, "cannot start a thread: stalls are not detected"),
        }
    }

    fn remove(&self, watched: &Arc<WatchedLoop>) {
        self.lock().watched.retain(|kept| !Arc::ptr_eq(kept, watched));
        self.wake();
    }

    fn wake(&self) {
        // Under the lock, so that the wake-up is not lost between the check and the wait.
        let mut loops = self.lock();
        if loops.thread == Thread::Running {
            loops.thread = Thread::Woken;
            self.wake.notify_one();
        }
    }

    fn run(&self) {
        loop {
            let watched = {
                let mut loops = self.lock();
                if loops.watched.is_empty() {
                    loops.thread = Thread::None;
                    return;
                }
                loops.thread = Thread::Running;
                loops.watched.clone()
            };
            let next = watched.iter().filter_map(|watched| watched.check()).min();
            drop(watched);
            self.wait(next);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the detector's own thread, and not a loop's")]
    fn wait(&self, until: Option<Instant>) {
        let loops = self.lock();
        if loops.thread == Thread::Woken {
            return;
        }
        match until {
            None => drop(self.wake.wait(loops)),
            Some(until) => {
                let left = until.saturating_duration_since(now());
                drop(self.wake.wait_timeout(loops, left));
            }
        }
    }
}

/// Real time, independent of any world's clock.
#[expect(clippy::disallowed_methods, reason = "how long a thread was held is real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(100);
    const SHORT: Duration = Duration::from_millis(99);

    fn end(held: &mut CurrentCall) {
        held.since = None;
        held.next_report = None;
    }

    #[test]
    fn a_call_is_a_stall_from_the_limit_on() {
        let (began, mut held) = (now(), CurrentCall::default());
        held.begin(began);
        assert_eq!(held.check_stall(began, AFTER), StallCheck::At(began + AFTER));
        assert_eq!(held.check_stall(began + SHORT, AFTER), StallCheck::At(began + AFTER));
        assert_eq!(held.check_stall(began + AFTER, AFTER), StallCheck::Stalled(AFTER));
    }

    #[test]
    fn short_calls_one_after_another_are_no_stall() {
        let (mut at, mut held) = (now(), CurrentCall::default());
        for _ in 0..10 {
            held.begin(at);
            at += SHORT;
            assert!(matches!(held.check_stall(at, AFTER), StallCheck::At(_)));
            end(&mut held);
        }
    }

    #[test]
    fn a_stall_that_lasts_is_reported_at_doubling_intervals() {
        let (began, mut held) = (now(), CurrentCall::default());
        held.begin(began);
        held.next_report = Some(2 * AFTER);
        assert_eq!(held.check_stall(began + AFTER, AFTER), StallCheck::At(began + 2 * AFTER));
        assert_eq!(held.check_stall(began + 2 * AFTER, AFTER), StallCheck::Stalled(2 * AFTER));
        end(&mut held);
        held.begin(began + 9 * AFTER);
        let next = StallCheck::At(began + 10 * AFTER);
        assert_eq!(
            held.check_stall(began + 9 * AFTER, AFTER),
            next,
            "the limit is the first one again"
        );
    }

    #[test]
    fn the_end_of_the_outermost_call_and_no_other_ends_its_stall() {
        let call = Mutex::default();
        let watched =
            WatchedLoop { after: AFTER, thread: LoopThread::current(), backtraces: false, call };
        let stalls = Stalls(Arc::new(watched));
        let outer = stalls.hold(UserCall::kind("outer"));
        let inner = stalls.hold(UserCall::kind("inner"));
        stalls.0.lock().next_report = Some(2 * AFTER);
        let state = || {
            let call = stalls.0.lock();
            (call.doing.len(), call.since.is_some(), call.next_report)
        };
        drop(inner);
        assert_eq!(state(), (1, true, Some(2 * AFTER)));
        drop(outer);
        assert_eq!(state(), (0, false, None));
        drop(stalls.hold(UserCall::kind("short")));
        assert_eq!((state(), stalls.0.lock().number), ((0, false, None), 2));
    }

    #[test]
    fn an_idle_loop_is_checked_once_and_then_not_again() {
        let (at, mut held) = (now(), CurrentCall::default());
        held.begin(at);
        end(&mut held);
        assert_eq!(held.check_stall(at, AFTER), StallCheck::At(at + AFTER), "it was busy");
        assert_ne!(held.activity, Activity::Dormant);
        assert_eq!(held.check_stall(at + AFTER, AFTER), StallCheck::Dormant);
        assert_eq!(held.activity, Activity::Dormant);
    }

    #[test]
    fn a_limit_beyond_the_end_of_time_is_never_reached() {
        let (at, mut held) = (now(), CurrentCall::default());
        held.begin(at);
        assert_eq!(held.check_stall(at, Duration::MAX), StallCheck::Dormant);
    }
}
