//! Timed calls compared with tokio's timers, with 100 000 of them outstanding.
//!
//! `cargo bench -p couplet-core --bench timers`, or with `-- fire` for the rows that contain `fire`.
//! Delays are 0 to 60 s (`random`), or always 30 s (`equal`, like idle timeouts). A timer is a
//! `call_later` here and a boxed, polled `Sleep` there, which a task would await; both clocks are
//! virtual, `testing::Clock` and tokio's paused one. In the end every timer that was not cancelled
//! must have fired, and no other.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use couplet::testing::Clock;
use couplet::{DelayedCall, Reactor};
use couplet_testkit::bench::rows;
use couplet_testkit::bench::rows::{row, timed};
use tokio::time::{Instant, Sleep, advance, sleep_until};

const OUTSTANDING: usize = 100_000;
const OPERATIONS: usize = 300_000;
const SPREAD: Duration = Duration::from_secs(60);
/// The time between two operations.
const PAUSE: Duration = Duration::from_nanos(300);
/// How far the clock advances in a turn in which timers fire. The delays are whole ticks then,
/// because `Clock` stops at each deadline, and tokio's clock does not.
const TICK: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Delays {
    Random,
    Equal,
}

/// The repeated operation.
#[derive(Clone, Copy)]
enum Task {
    CancelNewest,
    CancelOldest,
    CancelAny,
    Reset,
}

/// The contestants.
trait Timers {
    type Timer;
    fn create(&mut self, delay: Duration) -> Self::Timer;
    fn cancel(&mut self, timer: Self::Timer);
    fn reset(&mut self, timer: &mut Self::Timer, delay: Duration);
}

/// Generates delays from a fixed moment, as if time passed between two of them.
struct Draw {
    delays: Delays,
    state: u64,
    passed: Duration,
}

impl Draw {
    fn new(delays: Delays) -> Draw {
        Draw { delays, state: 7, passed: Duration::ZERO }
    }

    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state % end as u64) as usize
    }

    fn delay(&mut self) -> Duration {
        self.passed += PAUSE;
        let delay = match self.delays {
            Delays::Random => Duration::from_nanos(self.below(SPREAD.as_nanos() as usize) as u64),
            Delays::Equal => SPREAD / 2,
        };
        self.passed + delay
    }

    fn ticks(&mut self) -> Duration {
        const MOST: u32 = (SPREAD.as_millis() / TICK.as_millis()) as u32;
        match self.delays {
            Delays::Random => TICK * (1 + self.below(MOST as usize) as u32),
            Delays::Equal => TICK * (MOST / 2),
        }
    }
}

/// Fills the timers and times the task; also returns the remaining timers.
fn work<T: Timers>(timers: &mut T, task: Task, delays: Delays) -> (Duration, Vec<T::Timer>) {
    let mut draw = Draw::new(delays);
    let mut all: Vec<_> = (0..OUTSTANDING).map(|_| timers.create(draw.delay())).collect();
    let took = timed(|| {
        for n in 0..OPERATIONS {
            if matches!(task, Task::Reset) {
                let chosen = draw.below(OUTSTANDING);
                timers.reset(&mut all[chosen], SPREAD + PAUSE * n as u32);
                continue;
            }
            let newest = timers.create(draw.delay());
            let cancelled = match task {
                Task::CancelNewest => newest,
                Task::CancelOldest => std::mem::replace(&mut all[n % OUTSTANDING], newest),
                _ => std::mem::replace(&mut all[draw.below(OUTSTANDING)], newest),
            };
            timers.cancel(cancelled);
        }
    });
    (took, all)
}

struct Ours {
    reactor: Reactor,
    fired: Rc<Cell<usize>>,
}

impl Timers for Ours {
    type Timer = DelayedCall;

    fn create(&mut self, delay: Duration) -> DelayedCall {
        let fired = self.fired.clone();
        self.reactor.call_later(delay, move || fired.set(fired.get() + 1))
    }

    fn cancel(&mut self, timer: DelayedCall) {
        assert!(timer.cancel());
    }

    fn reset(&mut self, timer: &mut DelayedCall, delay: Duration) {
        assert!(timer.reset(delay));
    }
}

/// Runs in a callback, like a program's own work.
fn ours(task: Task, delays: Delays) -> Duration {
    let mut clock = Clock::new();
    let (fired, took) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(Duration::ZERO)));
    let mut ours = Ours { reactor: clock.reactor(), fired: fired.clone() };
    let result = took.clone();
    clock.reactor().call_soon(move || result.set(work(&mut ours, task, delays).0));
    clock.settle();
    clock.advance(3 * SPREAD);
    assert_eq!(fired.get(), OUTSTANDING);
    took.get()
}

struct Tokio {
    start: Instant,
}

impl Timers for Tokio {
    type Timer = Pin<Box<Sleep>>;

    fn create(&mut self, delay: Duration) -> Self::Timer {
        sleep(self.start + delay, Waker::noop())
    }

    fn cancel(&mut self, timer: Self::Timer) {
        drop(timer);
    }

    fn reset(&mut self, timer: &mut Self::Timer, delay: Duration) {
        timer.as_mut().reset(self.start + delay);
    }
}

fn tokio(task: Task, delays: Delays) -> Duration {
    in_tokio(async {
        let (took, left) = work(&mut Tokio { start: Instant::now() }, task, delays);
        assert!(left.iter().all(|sleep| !sleep.is_elapsed()));
        advance(3 * SPREAD).await;
        assert_eq!(left.iter().filter(|sleep| sleep.is_elapsed()).count(), OUTSTANDING);
        took
    })
}

/// Runs in a tokio runtime with a paused clock. Unconstrained, because a task that has used up its
/// budget of polls registers no further timers.
fn in_tokio<R>(measure: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(tokio::task::unconstrained(measure))
}

fn sleep(deadline: Instant, waker: &Waker) -> Pin<Box<Sleep>> {
    let mut sleep = Box::pin(sleep_until(deadline));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    sleep
}

/// Calls that reschedule themselves.
struct Again {
    reactor: Reactor,
    draw: RefCell<Draw>,
    fired: Cell<usize>,
    goes_on: Cell<bool>,
}

impl Again {
    fn arm(self: &Rc<Self>, delay: Duration) {
        let again = self.clone();
        self.reactor.call_later(delay, move || again.fire());
    }

    fn fire(self: &Rc<Self>) {
        self.fired.set(self.fired.get() + 1);
        if self.goes_on.get() {
            let delay = self.draw.borrow_mut().ticks();
            self.arm(delay);
        }
    }
}

fn fire_ours(delays: Delays) -> Duration {
    let mut clock = Clock::new();
    let again = Rc::new(Again {
        reactor: clock.reactor(),
        draw: RefCell::new(Draw::new(delays)),
        fired: Cell::new(0),
        goes_on: Cell::new(true),
    });
    let mut first = Draw::new(Delays::Random);
    (0..OUTSTANDING).for_each(|_| again.arm(first.ticks()));
    let took = timed(|| {
        while again.fired.get() < OPERATIONS {
            clock.advance(TICK);
        }
    });
    again.goes_on.set(false);
    let before = again.fired.get();
    clock.advance(2 * SPREAD);
    assert_eq!(again.fired.get() - before, OUTSTANDING);
    took
}

/// The elapsed timers are found through their wakers, as a loop finds its woken tasks, and
/// replaced.
fn fire_tokio(delays: Delays) -> Duration {
    in_tokio(async {
        let (mut draw, mut first) = (Draw::new(delays), Draw::new(Delays::Random));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let mut timers: Vec<_> = (0..OUTSTANDING)
            .map(|index| {
                let waker = Waker::from(Arc::new(Ticket { index, woken: woken.clone() }));
                (sleep(start + first.ticks(), &waker), waker)
            })
            .collect();
        let mut fired = 0;
        let start = std::time::Instant::now();
        while fired < OPERATIONS {
            advance(TICK).await;
            let now = Instant::now();
            for index in std::mem::take(&mut *woken.lock().expect("no holder panics")) {
                let (timer, waker): &mut (Pin<Box<Sleep>>, Waker) = &mut timers[index];
                assert!(timer.is_elapsed());
                *timer = sleep(now + draw.ticks(), waker);
                fired += 1;
            }
        }
        let took = start.elapsed();
        advance(2 * SPREAD).await;
        assert_eq!(woken.lock().expect("no holder panics").len(), OUTSTANDING);
        took
    })
}

struct Ticket {
    index: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.woken.lock().expect("no holder panics").push(self.index);
    }
}

fn main() {
    let tasks = [
        ("create + cancel the newest", Task::CancelNewest),
        ("create + cancel the oldest", Task::CancelOldest),
        ("create + cancel any", Task::CancelAny),
        ("reset to later", Task::Reset),
    ];
    for (which, delays) in [("random", Delays::Random), ("equal", Delays::Equal)] {
        for (name, task) in tasks {
            let name = format!("{name}, {which} delays");
            let mut both: [rows::Contestant<'_>; 2] =
                [("couplet", &mut || ours(task, delays)), ("tokio", &mut || tokio(task, delays))];
            row(&name, OPERATIONS, &mut both);
        }
        let name = format!("fire + create, {which} delays");
        let mut both: [rows::Contestant<'_>; 2] =
            [("couplet", &mut || fire_ours(delays)), ("tokio", &mut || fire_tokio(delays))];
        row(&name, OPERATIONS, &mut both);
    }
}
