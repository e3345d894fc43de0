//! The timer store beside tokio's timers: nanoseconds an operation with 100 000 timers outstanding.
//!
//! `cargo bench --bench timers`, or `cargo bench --bench timers -- fire` for the lines that contain
//! `fire`. Deadlines lie 0 to 60 s ahead (`random`), or always 30 s (`equal delay`, as idle timeouts
//! do). A call is a boxed closure here and a boxed, polled `Sleep` there; making and dropping the box
//! counts. Both clocks are virtual. The best of five rounds is shown.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

#[allow(dead_code)]
#[allow(dead_code)]
#[path = "../src/slots.rs"]
mod slots;
#[path = "../src/reactor/timers.rs"]
mod timers;

use timers::{TimerKey, Timers};

const OUTSTANDING: usize = 100_000;
const OPERATIONS: usize = 1_000_000;
const ROUNDS: usize = 5;
const SPREAD: Duration = Duration::from_secs(60);
/// How far the clock moves in a turn.
const TURN: Duration = Duration::from_millis(1);
/// Turning tokio's loop costs far more than its timers do, so it is turned more rarely.
const TOKIO_TURN: Duration = Duration::from_millis(50);

type Call = Box<dyn FnOnce()>;

fn main() {
    println!("{:<44}{:>10}{:>10}", "ns per operation", "couplet", "tokio");
    for delays in [Delays::Random(1), Delays::Equal] {
        let name = delays.name();
        show(
            &format!("create + cancel the newest, {name}"),
            || newest(delays),
            || tokio_newest(delays),
        );
        show(
            &format!("create + cancel the oldest, {name}"),
            || oldest(delays),
            || tokio_oldest(delays),
        );
        show(&format!("create + cancel any, {name}"), || any(delays), || tokio_any(delays));
        show(&format!("reset to later, {name}"), || reset(delays), || tokio_reset(delays));
        show(&format!("create + fire, {name}"), || fire(delays), || tokio_fire(delays));
    }
}

fn show(name: &str, ours: impl Fn() -> f64, theirs: impl Fn() -> f64) {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if !name.contains(&wanted.unwrap_or_default()) {
        return;
    }
    // Round by round in turn, so that a busy moment of the machine meets both.
    let mut best = [f64::INFINITY; 2];
    for _ in 0..ROUNDS {
        best = [best[0].min(ours()), best[1].min(theirs())];
    }
    println!("{name:<44}{:>10.1}{:>10.1}", best[0], best[1]);
}

#[derive(Clone, Copy)]
enum Delays {
    Random(u64),
    Equal,
}

impl Delays {
    fn name(self) -> &'static str {
        match self {
            Self::Random(_) => "random",
            Self::Equal => "equal delay",
        }
    }

    fn next(&mut self) -> Duration {
        match self {
            Self::Random(state) => Duration::from_nanos(xorshift(state) % SPREAD.as_nanos() as u64),
            Self::Equal => SPREAD / 2,
        }
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn call() -> Call {
    let n = black_box(1_u64);
    Box::new(move || {
        black_box(n);
    })
}

/// Times a loop of [`OPERATIONS`].
fn nanos_each(mut operation: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..OPERATIONS {
        operation();
    }
    start.elapsed().as_nanos() as f64 / OPERATIONS as f64
}

fn filled(delays: &mut Delays) -> (Timers<Call>, Instant, VecDeque<TimerKey>) {
    let mut now = Instant::now();
    let mut timers = Timers::new(now);
    let keys = (0..OUTSTANDING)
        .map(|_| {
            now += Duration::from_nanos(300);
            timers.insert(now + delays.next(), call())
        })
        .collect();
    (timers, now, keys)
}

fn newest(mut delays: Delays) -> f64 {
    let (mut timers, mut now, _keys) = filled(&mut delays);
    nanos_each(|| {
        now += Duration::from_nanos(300);
        let key = timers.insert(now + delays.next(), call());
        drop(timers.remove(black_box(key)));
    })
}

fn oldest(mut delays: Delays) -> f64 {
    let (mut timers, mut now, mut keys) = filled(&mut delays);
    nanos_each(|| {
        now += Duration::from_nanos(300);
        keys.push_back(timers.insert(now + delays.next(), call()));
        drop(timers.remove(keys.pop_front().unwrap()));
    })
}

fn any(mut delays: Delays) -> f64 {
    let (mut timers, mut now, mut keys) = filled(&mut delays);
    let mut state = 7;
    nanos_each(|| {
        now += Duration::from_nanos(300);
        let key = timers.insert(now + delays.next(), call());
        let victim = xorshift(&mut state) as usize % OUTSTANDING;
        drop(timers.remove(std::mem::replace(&mut keys[victim], key)));
    })
}

fn reset(mut delays: Delays) -> f64 {
    let (mut timers, mut now, keys) = filled(&mut delays);
    let mut state = 7;
    nanos_each(|| {
        now += Duration::from_nanos(300);
        let key = keys[xorshift(&mut state) as usize % OUTSTANDING];
        black_box(timers.reset(key, now + SPREAD));
    })
}

fn fire(mut delays: Delays) -> f64 {
    let (mut timers, mut now, _keys) = filled(&mut delays);
    let mut fired = 0;
    let start = Instant::now();
    while fired < OPERATIONS {
        now += TURN;
        let seq = timers.seq();
        while let Some(call) = timers.pop_due(now, seq) {
            call();
            timers.insert(now + delays.next(), black_box(self::call()));
            fired += 1;
        }
        black_box(timers.next_deadline());
    }
    start.elapsed().as_nanos() as f64 / fired as f64
}

/// A loop of tokio's with a paused clock, and its filled set of timers. Unconstrained, since a task
/// that has used up its budget of polls registers no more timers.
fn in_tokio<R>(
    delays: &mut Delays,
    measure: impl AsyncFnOnce(&mut Delays, tokio::time::Instant, VecDeque<Pin<Box<Sleep>>>) -> R,
) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing of the system");
    runtime.block_on(tokio::task::unconstrained(async {
        let mut now = tokio::time::Instant::now();
        let sleeps = (0..OUTSTANDING)
            .map(|_| {
                now += Duration::from_nanos(300);
                sleep(now + delays.next())
            })
            .collect();
        measure(delays, now, sleeps).await
    }))
}

fn sleep(deadline: tokio::time::Instant) -> Pin<Box<Sleep>> {
    sleep_with(deadline, Waker::noop())
}

fn sleep_with(deadline: tokio::time::Instant, waker: &Waker) -> Pin<Box<Sleep>> {
    let mut sleep = Box::pin(tokio::time::sleep_until(deadline));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    sleep
}

fn tokio_newest(mut delays: Delays) -> f64 {
    in_tokio(&mut delays, async |delays, mut now, _sleeps| {
        nanos_each(|| {
            now += Duration::from_nanos(300);
            drop(sleep(now + delays.next()));
        })
    })
}

fn tokio_oldest(mut delays: Delays) -> f64 {
    in_tokio(&mut delays, async |delays, mut now, mut sleeps| {
        nanos_each(|| {
            now += Duration::from_nanos(300);
            sleeps.push_back(sleep(now + delays.next()));
            drop(sleeps.pop_front());
        })
    })
}

fn tokio_any(mut delays: Delays) -> f64 {
    in_tokio(&mut delays, async |delays, mut now, mut sleeps| {
        let mut state = 7;
        nanos_each(|| {
            now += Duration::from_nanos(300);
            let victim = xorshift(&mut state) as usize % OUTSTANDING;
            sleeps[victim] = sleep(now + delays.next());
        })
    })
}

fn tokio_reset(mut delays: Delays) -> f64 {
    in_tokio(&mut delays, async |_, mut now, mut sleeps| {
        let mut state = 7;
        nanos_each(|| {
            now += Duration::from_nanos(300);
            let chosen = xorshift(&mut state) as usize % OUTSTANDING;
            sleeps[chosen].as_mut().reset(now + SPREAD);
        })
    })
}

/// The elapsed timers are found through their wakers, as a loop finds its woken tasks, and replaced.
fn tokio_fire(mut delays: Delays) -> f64 {
    in_tokio(&mut delays, async |delays, now, sleeps| {
        drop(sleeps);
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut timers: Vec<_> = (0..OUTSTANDING)
            .map(|index| {
                let waker = Waker::from(Arc::new(Ticket { index, woken: woken.clone() }));
                (sleep_with(now + delays.next(), &waker), waker)
            })
            .collect();
        let mut fired = 0;
        let start = Instant::now();
        while fired < OPERATIONS {
            tokio::time::advance(TOKIO_TURN).await;
            let now = tokio::time::Instant::now();
            for index in std::mem::take(&mut *woken.lock().unwrap()) {
                let (sleep, waker): &mut (Pin<Box<Sleep>>, Waker) = &mut timers[index];
                assert!(sleep.is_elapsed());
                *sleep = sleep_with(now + delays.next(), waker);
                fired += 1;
            }
        }
        start.elapsed().as_nanos() as f64 / fired as f64
    })
}

struct Ticket {
    index: usize,
    woken: Arc<Mutex<Vec<usize>>>,
}

impl Wake for Ticket {
    fn wake(self: Arc<Self>) {
        self.woken.lock().unwrap().push(self.index);
    }
}
