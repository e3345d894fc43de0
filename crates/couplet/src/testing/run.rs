//! [`run`]: a whole program in virtual time, which has to leave a clean reactor behind.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Manner;
use super::memory_loop::{MemoryLoop, Step};
use super::results::told;
use crate::defer::{Deferred, Reporter, Result, Unhandled, set_reporter};
use crate::driver::memory::Standstill;
use crate::panics::keep_panics;
use crate::reactor::{Left, Reactor, Shutdown, Source, numbered};

const A_DAY: Duration = Duration::from_secs(24 * 3600);
/// Of a program that takes so many turns while time stands still it is said that it goes in a circle.
const A_CIRCLE: usize = 1_000_000;
/// The turns in which what was closed at the end comes to its end.
const LAST_TURNS: usize = 10_000;

/// Runs a program in memory and in virtual time until the Deferred that it returns has fired, and
/// gives the result; then sees that nothing is left of it. [`run_until`](crate::run_until) for tests,
/// with what Twisted's trial calls a dirty reactor.
///
/// When the Deferred has fired, the triggers of [`Shutdown::Before`] are called and waited for, and
/// what was asked for still comes to its end while time stands still. A program that calls
/// [`Reactor::stop`] ends as any run does, which leaves nothing.
///
/// Its network is empty: what it connects to it listens on, at any address, and `localhost` is the
/// only name. It has no threads: [`Reactor::defer_to_thread`] runs its jobs in the turn.
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
///         reactor.sleep(Duration::from_secs(3600)).await?; // takes no time
///         if let Some(stopped) = port.stop_listening() {
///             stopped.await?; // left out, the test would fail and say where the port was opened
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
/// The Deferred's failure; [`Stopped`](crate::Stopped) when the program stopped the reactor before.
///
/// # Panics
///
/// It fails the test, and says in one message what there is, where it was asked for, and what would
/// clean it up:
///
/// - when ports, connects, connections, timed calls or tasks are left; failures that nobody handled;
///   or callbacks have panicked;
/// - when nothing can ever happen, and the Deferred has not fired; or something happens in each of a
///   million turns, and time stands still;
/// - when the Deferred has not fired within a day of virtual time ([`run_within`] takes another).
///
/// All of it is torn down before that, and the thread's reporter of failures is put back.
#[track_caller]
pub fn run<T: 'static>(program: impl FnOnce(&Reactor) -> Deferred<T>) -> Result<T> {
    run_within(A_DAY, program)
}

/// [`run`], but with no more virtual time than this.
///
/// # Errors
///
/// As [`run`].
///
/// # Panics
///
/// As [`run`].
#[track_caller]
pub fn run_within<T: 'static>(
    longest: Duration,
    program: impl FnOnce(&Reactor) -> Deferred<T>,
) -> Result<T> {
    let witness = Witness::new();
    let mut memory = MemoryLoop::new(Manner::Readiness, 0);
    memory.take_panics(); // they are among what is left
    memory.network.set_limits(longest, A_CIRCLE);
    memory.l.keep_places();
    let place = Cell::new(None);
    let result = memory.l.run_script(|reactor| {
        let deferred = program(reactor);
        place.set(deferred.place());
        deferred
    });
    let verdict = match memory.network.take_standstill() {
        Some(standstill) => Some(waits(standstill, longest, place.get())),
        None => {
            memory.network.set_limits(longest, A_CIRCLE);
            end(&mut memory)
        }
    };
    let left = everything_left(&memory, &witness);
    let was_clean = left.is_empty();
    memory.l.finish_run();
    drop(memory);
    // What was clean has nothing to be cut off: these are the program's own.
    let left = if was_clean { witness.take() } else { left };
    drop(witness);
    match (verdict, &result) {
        (Some(waits), _) => panic!("{}", message(&waits, &left)),
        (None, _) if left.is_empty() => result,
        (None, Ok(_)) => {
            panic!("{}", message("the program is over, and this is left of it:", &left))
        }
        (None, Err(failure)) => {
            let failed = format!("the program failed: {}, and this is left of it:", told(failure));
            panic!("{}", message(&failed, &left));
        }
    }
}

/// The first triggers of a shutdown have their say; then what was closed comes to its end.
fn end(memory: &mut MemoryLoop) -> Option<String> {
    let waiting = memory.l.fire(Shutdown::Before);
    while waiting.get() > 0 {
        if memory.l.turn(None).is_err() {
            memory.network.take_standstill();
            return Some("a trigger of `Shutdown::Before` never fires; there is:".to_owned());
        }
    }
    come_to_rest(memory);
    None
}

/// Turns until nothing more happens by itself, or for long enough.
fn come_to_rest(memory: &mut MemoryLoop) {
    for _ in 0..LAST_TURNS {
        if memory.step() == Step::Quiet {
            return;
        }
    }
}

fn everything_left(memory: &MemoryLoop, witness: &Witness) -> Vec<Left> {
    let mut left = memory.l.what_is_left();
    left.extend(witness.take());
    left
}

fn waits(standstill: Standstill, longest: Duration, place: Option<Source>) -> String {
    let deferred = match place {
        Some(place) => format!("the Deferred of {place}"),
        None => "its Deferred".to_owned(),
    };
    match standstill {
        Standstill::Stalled => format!(
            "the program waits for ever: {deferred} has not fired, and nothing can happen any more; \
             there is:"
        ),
        Standstill::TooLong => {
            format!("{deferred} has not fired within {longest:?} of virtual time; there is:")
        }
        Standstill::Circle => format!(
            "the program goes in a circle: {deferred} has not fired, and something is done in each \
             turn while time stands still; there is:"
        ),
    }
}

fn message(headline: &str, left: &[Left]) -> String {
    let mut text = headline.to_owned() + &numbered(left);
    if left.is_empty() {
        text += "\nnothing: no port, no connection, no call and no task that could fire it";
    }
    text
}

/// Hears of what goes wrong in this thread where nobody looks, and puts back who heard before.
struct Witness {
    unhandled: Rc<RefCell<Vec<Left>>>,
    reporter: Reporter,
    panics: Option<Vec<String>>,
}

impl Witness {
    fn new() -> Witness {
        let unhandled: Rc<RefCell<Vec<Left>>> = Rc::default();
        let heard = unhandled.clone();
        let reporter =
            set_reporter(move |failure| heard.borrow_mut().push(unhandled_left(failure)));
        Witness { unhandled, reporter, panics: keep_panics(Some(Vec::new())) }
    }

    fn take(&self) -> Vec<Left> {
        let mut left = self.unhandled.take();
        let panics = keep_panics(Some(Vec::new())).unwrap_or_default();
        left.extend(panics.into_iter().map(|text| Left {
            what: format!("a panic in {text}"),
            from: "the loop contained it; its place is in the test's output".to_owned(),
            cure: "callbacks do not panic: `transport.fail(error)` ends a connection",
        }));
        left
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        std::mem::take(&mut self.reporter).set();
        keep_panics(self.panics.take());
    }
}

fn unhandled_left(unhandled: &Unhandled) -> Left {
    Left {
        what: format!("a failure that nobody handled: {:#}", unhandled.failure()),
        from: format!(
            "began at {}, left by the Deferred of {}",
            unhandled.failure().place(),
            unhandled.place()
        ),
        cure: "`add_errback` at the end of that chain, or await it",
    }
}
