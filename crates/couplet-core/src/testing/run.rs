//! [`run`]: a whole program in virtual time, which must leave a clean reactor behind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Manner;
use super::memory_loop::{MemoryLoop, TurnOutcome};
use crate::defer::{Deferred, Reporter, Result, Unhandled, set_reporter};
use crate::driver::memory::Standstill;
use crate::internals::{describe_failure, place_of};
use crate::panics::capture_panics;
use crate::reactor::{Leak, Reactor, Shutdown, numbered};
use crate::recorder::Source;

const A_DAY: Duration = Duration::from_secs(24 * 3600);
/// A program that takes this many turns without advancing the clock counts as livelocked.
const LIVELOCK_TURNS: usize = 1_000_000;
/// The maximum number of turns for the closes that were begun at the end.
const LAST_TURNS: usize = 10_000;

/// Runs a program in memory and in virtual time until the Deferred that it returns fires, and
/// returns the result; then checks that the program left nothing behind. A
/// [`run_until`](crate::run_until) for tests, with the dirty reactor check of Twisted's trial.
///
/// Once the Deferred has fired, the triggers of [`Shutdown::Before`] are called and awaited, and
/// requests already made still complete, without advancing the clock. A program that calls
/// [`Reactor::stop`] ends like any run, which leaves nothing behind.
///
/// The network is empty: the program can connect only to ports on which it listens itself, at any
/// address, and `localhost` is the only name. The loop has no threads: jobs of
/// [`Reactor::defer_to_thread`] run in the turn.
///
/// ```
/// use couplet::{Protocol, Transport};
/// use std::time::Duration;
///
/// struct Echo;
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// # fn main() -> couplet::Result<()> {
/// let greeting = couplet::testing::run(|reactor| {
///     let reactor = reactor.clone();
///     reactor.clone().spawn(async move {
///         let port = reactor.listen("tcp:10000", || Echo)?;
///         reactor.sleep(Duration::from_secs(3600)).await?; // takes no real time
///         if let Some(stopped) = port.stop_listening() {
///             stopped.await?; // without this the test fails and shows where the port was opened
///         }
///         Ok("an hour later")
///     })
/// })?;
/// assert_eq!(greeting, "an hour later");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The Deferred's failure; [`Stopped`](crate::reactor::Stopped) if the program stopped the reactor first.
///
/// # Panics
///
/// With one message that lists each leftover, where it was created, and how to clean it up:
///
/// - if ports, connects, connections, timed calls or tasks are left, failures were not handled, or
///   callbacks panicked;
/// - if the Deferred has not fired and nothing is left that could fire it, or a million turns had
///   work without advancing the clock;
/// - if the Deferred has not fired within a day of virtual time ([`run_within`] sets another
///   limit).
///
/// By then the program is torn down, and the thread's failure reporter restored.
#[track_caller]
pub fn run<T: 'static>(program: impl FnOnce(&Reactor) -> Deferred<T>) -> Result<T> {
    run_within(A_DAY, program)
}

/// Like [`run`], with `longest` as the limit on virtual time.
///
/// # Errors
///
/// Like [`run`].
///
/// # Panics
///
/// Like [`run`].
#[track_caller]
pub fn run_within<T: 'static>(
    longest: Duration,
    program: impl FnOnce(&Reactor) -> Deferred<T>,
) -> Result<T> {
    let witness = FailureRecorder::new();
    let mut memory = MemoryLoop::new(Manner::Readiness, 0);
    memory.take_panics(); // reported as leftovers instead
    memory.network.set_limits(longest, LIVELOCK_TURNS);
    memory.l.record_places();
    let place = Cell::new(None);
    let result = memory.l.run_script(|reactor| {
        let deferred = program(reactor);
        place.set(place_of(&deferred));
        deferred
    });
    let verdict = match memory.network.take_standstill() {
        Some(standstill) => Some(describe_standstill(standstill, longest, place.get())),
        None => {
            memory.network.set_limits(longest, LIVELOCK_TURNS);
            run_shutdown_triggers(&mut memory)
        }
    };
    let left = collect_leaks(&memory, &witness);
    let was_clean = left.is_empty();
    memory.l.finish_run();
    drop(memory);
    // Closing a clean program interrupts nothing, so failures reported now are the program's own.
    let left = if was_clean { witness.take() } else { left };
    drop(witness);
    match (verdict, &result) {
        (Some(stuck), _) => panic!("{}", format_report(&stuck, &left)),
        (None, _) if left.is_empty() => result,
        (None, Ok(_)) => {
            panic!("{}", format_report("the program ended and left behind:", &left))
        }
        (None, Err(failure)) => {
            let failure = describe_failure(failure);
            let failed = format!("the program failed: {failure}, and left behind:");
            panic!("{}", format_report(&failed, &left));
        }
    }
}

/// Runs the `Shutdown::Before` triggers, then lets pending closes complete.
fn run_shutdown_triggers(memory: &mut MemoryLoop) -> Option<String> {
    let waiting = memory.l.fire(Shutdown::Before);
    while waiting.get() > 0 {
        if memory.l.turn(None).is_err() {
            memory.network.take_standstill();
            return Some("a trigger of `Shutdown::Before` never fires; remaining:".to_owned());
        }
    }
    turn_until_quiet(memory);
    None
}

/// Turns until the loop is idle, at most `LAST_TURNS` times.
fn turn_until_quiet(memory: &mut MemoryLoop) {
    for _ in 0..LAST_TURNS {
        if memory.step() == TurnOutcome::Quiet {
            return;
        }
    }
}

fn collect_leaks(memory: &MemoryLoop, witness: &FailureRecorder) -> Vec<Leak> {
    let mut left = memory.l.leaks();
    left.extend(witness.take());
    left
}

fn describe_standstill(standstill: Standstill, longest: Duration, place: Option<Source>) -> String {
    let deferred = match place {
        Some(place) => format!("the Deferred of {place}"),
        None => "its Deferred".to_owned(),
    };
    match standstill {
        Standstill::Stalled => format!(
            "the program waits forever: {deferred} has not fired, and nothing can ever happen; \
             remaining:"
        ),
        Standstill::TooLong => {
            format!("{deferred} has not fired within {longest:?} of virtual time; remaining:")
        }
        Standstill::BusyLoop => format!(
            "the program is livelocked: {deferred} has not fired, and every turn has work while \
             time stands still; remaining:"
        ),
    }
}

fn format_report(headline: &str, left: &[Leak]) -> String {
    let mut text = headline.to_owned() + &numbered(left);
    if left.is_empty() {
        text += "\nnothing: no port, connection, call or task that could fire it";
    }
    text
}

/// Captures this thread's unhandled failures and panics; restores the previous reporters on drop.
struct FailureRecorder {
    unhandled: Rc<RefCell<Vec<Leak>>>,
    reporter: Reporter,
    panics: Option<Vec<String>>,
}

impl FailureRecorder {
    fn new() -> FailureRecorder {
        let unhandled: Rc<RefCell<Vec<Leak>>> = Rc::default();
        let captured = unhandled.clone();
        let reporter =
            set_reporter(move |failure| captured.borrow_mut().push(leak_of_unhandled(failure)));
        FailureRecorder { unhandled, reporter, panics: capture_panics(Some(Vec::new())) }
    }

    fn take(&self) -> Vec<Leak> {
        let mut left = self.unhandled.take();
        let panics = capture_panics(Some(Vec::new())).unwrap_or_default();
        left.extend(panics.into_iter().map(|text| Leak {
            what: format!("a panic in {text}"),
            from: "the loop contained it; its place is in the test's output".to_owned(),
            cleanup: "callbacks do not panic: `transport.fail(error)` ends a connection",
        }));
        left
    }
}

impl Drop for FailureRecorder {
    fn drop(&mut self) {
        std::mem::take(&mut self.reporter).set();
        capture_panics(self.panics.take());
    }
}

fn leak_of_unhandled(unhandled: &Unhandled) -> Leak {
    Leak {
        what: format!("an unhandled failure: {:#}", unhandled.failure()),
        from: format!(
            "began at {}, unhandled by the Deferred created at {}",
            unhandled.failure().place(),
            unhandled.place()
        ),
        cleanup: "`add_errback` at the end of that chain, or await it",
    }
}
