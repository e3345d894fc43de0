//! Rows 130 to 132: `LoopingCall`; also `timeout`, and callbacks of `sleep`. All use the memory driver's
//! clock.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{Deferred, Failure, Panicked, Resolver, TimedOut};
use couplet::task::AlreadyRunning;
use couplet::{LoopingCall, Result};

use crate::defer_witness::{given, unhandled_in};
use crate::pace::{TestLoop, ms};

/// The time in milliseconds and the count of each call.
type Calls = Rc<RefCell<Vec<(u128, u64)>>>;

const S: Duration = Duration::from_secs(1);

impl TestLoop {
    /// A looping call whose only call returns a Deferred, and the resolver of that.
    fn one_round(&self) -> (LoopingCall, Resolver<()>) {
        let (round, resolver) = Deferred::<()>::new();
        let mut round = Some(round);
        let call = move || round.take().expect("one round");
        (LoopingCall::new(&self.reactor, call), resolver)
    }

    /// A looping call that logs its calls.
    fn counting(&self) -> (LoopingCall, Calls) {
        let calls = Calls::default();
        let (network, log) = (self.network.clone(), calls.clone());
        let looping = LoopingCall::with_count(&self.reactor, move |count| {
            log.borrow_mut().push((network.elapsed().as_millis(), count));
        });
        (looping, calls)
    }
}

#[test]
fn c130_the_first_call_comes_in_the_next_turn_or_after_one_interval() {
    let mut clock = TestLoop::new(0);
    let (at_once, calls) = clock.counting();
    at_once.start(S).detach();
    assert!(calls.borrow().is_empty(), "start only records");
    clock.jump(Duration::ZERO);
    assert_eq!(calls.take(), [(0, 1)]);
    at_once.stop();
    let (later, calls) = clock.counting();
    later.start_later(S).detach();
    clock.jump(ms(999));
    assert!(calls.borrow().is_empty() && later.is_running());
    clock.jump(ms(1));
    assert_eq!(calls.take(), [(1000, 1)]);
    assert_eq!(later.interval(), S);
}

/// A step of a test's time.
#[derive(Clone, Copy)]
enum Step {
    /// In one step.
    Jump(Duration),
    /// With a turn at each deadline.
    Pass(Duration),
    Reset,
}

/// The time in milliseconds and the count of each call.
type Told = &'static [(u128, u64)];

#[test]
fn c130_c132_calls_come_at_the_points_of_the_grid_with_the_count_of_those_that_passed() {
    use Step::{Jump, Pass, Reset};
    const TURN: Step = Jump(Duration::ZERO);
    let cases: [(&str, Duration, &[Step], Told); 5] = [
        (
            "missed points are left out",
            S,
            &[Pass(S), Jump(ms(2500)), Pass(ms(2500))],
            &[(0, 1), (1000, 1), (3500, 2), (4000, 1), (5000, 1), (6000, 1)],
        ),
        (
            "a late first call does not shift the grid",
            S,
            &[Jump(ms(300)), Pass(ms(1700))],
            &[(300, 1), (1000, 1), (2000, 1)],
        ),
        (
            "an interval too long to tell is waited for",
            Duration::MAX,
            &[TURN, Jump(Duration::from_secs(3600 * 24 * 365))],
            &[(0, 1)],
        ),
        (
            "a reset begins a new grid",
            S,
            &[TURN, Pass(ms(700)), Reset, Pass(ms(3000))],
            &[(0, 1), (1700, 1), (2700, 1), (3700, 1)],
        ),
        (
            "with an interval of zero there is a call each turn and the count is 1",
            Duration::ZERO,
            &[TURN, TURN, TURN, TURN, Jump(ms(10_000))],
            &[(0, 1), (0, 1), (0, 1), (0, 1), (10_000, 1)],
        ),
    ];
    for (case, interval, steps, expected) in cases {
        let mut clock = TestLoop::new(0);
        let (looping, calls) = clock.counting();
        assert!(!looping.reset(), "{case}: it is not running yet");
        looping.start(interval).detach();
        for step in steps {
            match *step {
                Jump(by) => drop(clock.jump(by)),
                Pass(by) => clock.pass(by),
                Reset => assert!(looping.reset(), "{case}"),
            }
        }
        assert_eq!(calls.take(), expected, "{case}");
        assert!(looping.is_running(), "{case}");
    }
}

#[test]
fn c130_a_grid_of_odd_nanoseconds_is_exact_after_a_million_points() {
    let mut clock = TestLoop::new(0);
    let (looping, calls) = clock.counting();
    let third = Duration::from_nanos(333_333_333);
    looping.start(third).detach();
    clock.jump(third * 1_000_000);
    assert_eq!(calls.take().last().unwrap().1, 1_000_001);
    clock.jump(third - Duration::from_nanos(1));
    assert!(calls.borrow().is_empty());
    clock.jump(Duration::from_nanos(1));
    assert_eq!(calls.take().len(), 1, "exactly one interval after the previous point");
    // After a call that came late by an odd time, the next one comes at its point.
    for late in [1, 999, 1001, 123_456_789].map(Duration::from_nanos) {
        clock.jump(third + late);
        assert_eq!(calls.take().len(), 1);
        clock.jump(third - late - Duration::from_nanos(1));
        assert!(calls.borrow().is_empty(), "late by {late:?}");
        clock.jump(Duration::from_nanos(1));
        assert_eq!(calls.take().len(), 1, "late by {late:?}");
    }
}

#[test]
fn c131_a_looping_call_waits_for_its_deferred_and_continues_at_the_next_point() {
    let mut clock = TestLoop::new(0);
    let rounds: Rc<RefCell<Vec<Resolver<()>>>> = Rc::default();
    let inside = rounds.clone();
    let looping = LoopingCall::with_count(&clock.reactor, {
        let log = clock.log.clone();
        move |count| {
            log.say(count.to_string());
            let (round, resolver) = Deferred::new();
            inside.borrow_mut().push(resolver);
            round
        }
    });
    looping.start(S).detach();
    clock.jump(Duration::ZERO);
    clock.pass(ms(3500));
    assert_eq!(clock.log.lines(), ["1"], "the call is still running");
    rounds.borrow_mut().pop().unwrap().callback(());
    assert_eq!(clock.jump(ms(499)), ["1"]);
    assert_eq!(clock.jump(ms(1)), ["1", "4"], "the count includes the missed points");
}

#[test]
fn c131_a_failure_stops_a_looping_call_and_is_its_result() {
    for panics in [false, true] {
        let mut clock = TestLoop::new(0);
        let log = clock.log.clone();
        let left = Cell::new(2);
        let looping = LoopingCall::new(&clock.reactor, move || {
            log.say("call");
            left.set(left.get() - 1);
            match left.get() {
                0 if panics => panic!("no more"),
                0 => Err(Failure::msg("no more")),
                _ => Ok(()),
            }
        });
        let ended = given(looping.start(S));
        clock.jump(Duration::ZERO);
        assert!(ended.is_none());
        clock.pass(ms(10_000));
        let failure = ended.take().unwrap_err();
        assert!(failure.to_string().contains("no more"));
        assert_eq!(failure.is::<Panicked>(), panics);
        assert_eq!(clock.log.lines().len(), 2);
        assert!(!looping.is_running() && !looping.stop());
        // A looping call keeps its function and can be started again, even after a panic.
        looping.start(S).detach();
        clock.jump(Duration::ZERO);
        assert_eq!(clock.log.lines().len(), 3);
    }
}

#[test]
fn c131_a_failing_deferred_stops_a_looping_call() {
    let mut clock = TestLoop::new(0);
    let (looping, resolver) = clock.one_round();
    let ended = given(looping.start(S));
    clock.jump(Duration::ZERO);
    resolver.errback(Failure::msg("no"));
    assert_eq!(ended.text(), "no");
    assert!(!looping.is_running());
    let reports = unhandled_in(|| {
        let looping =
            LoopingCall::new(&clock.reactor, || -> Result<()> { Err(Failure::msg("no")) });
        looping.start(S).detach();
        clock.jump(Duration::ZERO);
    });
    assert_eq!(reports, ["no"]);
}

/// Ends a looping call, whose call under way has this resolver.
type End = fn(&LoopingCall, Resolver<()>);

/// However it ends, it has ended when its Deferred fires.
#[test]
fn c131_the_callbacks_of_its_end_can_start_a_looping_call_again() {
    let ends: [(&str, End); 5] = [
        ("the call fails", |_, call| call.errback(Failure::msg("no"))),
        ("stopped in a call", |looping, call| {
            assert!(looping.stop());
            call.callback(());
        }),
        ("stopped in a call that fails", |looping, call| {
            assert!(looping.stop());
            call.errback(Failure::msg("no"));
        }),
        ("stopped between calls", |looping, call| {
            call.callback(());
            assert!(looping.stop());
        }),
        ("stopped after a reset", |looping, call| {
            call.callback(());
            assert!(looping.reset() && looping.stop());
        }),
    ];
    for (case, end) in ends {
        let mut clock = TestLoop::new(0);
        let calls: Rc<RefCell<Vec<Resolver<()>>>> = Rc::default();
        let made = calls.clone();
        let looping = LoopingCall::new(&clock.reactor, move || {
            let (call, resolver) = Deferred::new();
            made.borrow_mut().push(resolver);
            call
        });
        let (log, again) = (clock.log.clone(), looping.clone());
        let restarted = looping.start(S).add_both(move |_| {
            log.say(format!("running: {}", again.is_running()));
            Ok(given(again.start(S)))
        });
        let restarted = given(restarted);
        clock.jump(Duration::ZERO);
        let call = calls.borrow_mut().pop().expect("it was called");
        end(&looping, call);
        assert_eq!(clock.log.lines(), ["running: false"], "{case}");
        let restarted = restarted.take().expect("its callback ran");
        assert!(looping.is_running() && restarted.is_none(), "{case}");
        clock.jump(Duration::ZERO);
        assert_eq!(calls.borrow().len(), 1, "{case}: it is called again");
        assert!(looping.stop(), "{case}");
    }
}

#[test]
fn c131_stop_gives_the_looping_call() {
    let mut clock = TestLoop::new(0);
    let (looping, calls) = clock.counting();
    let ended = given(looping.start(S));
    clock.pass(ms(1500));
    assert!(looping.stop());
    let same = ended.take().unwrap();
    assert!(!same.is_running() && !looping.stop());
    clock.pass(S * 10);
    assert_eq!(calls.take().len(), 2);
    // The returned looping call can be started again.
    same.start(S).detach();
    clock.pass(ms(500));
    assert!(looping.is_running());
    assert_eq!(calls.take(), [(11_500, 1)]);
}

#[test]
fn c131_a_stop_inside_the_call_lets_it_end_first() {
    let mut clock = TestLoop::new(0);
    let own: Rc<RefCell<Option<LoopingCall>>> = Rc::default();
    let (round, resolver) = Deferred::<()>::new();
    let (mut round, inside, log) = (Some(round), own.clone(), clock.log.clone());
    let looping = LoopingCall::new(&clock.reactor, move || {
        let looping = inside.borrow().clone().expect("it was started");
        assert!(looping.stop() && !looping.stop() && !looping.reset());
        let restarted = given(looping.start(S));
        assert!(restarted.take().unwrap_err().is::<AlreadyRunning>());
        log.say("called");
        round.take().expect("one round")
    });
    *own.borrow_mut() = Some(looping.clone());
    let ended = given(looping.start(S));
    assert!(given(looping.start(S)).take().unwrap_err().is::<AlreadyRunning>());
    clock.jump(Duration::ZERO);
    assert!(!looping.is_running() && ended.is_none(), "it waits for the call's Deferred");
    resolver.callback(());
    ended.take().unwrap();
    clock.pass(S * 10);
    assert_eq!(clock.log.lines(), ["called"]);
    own.take();
}

#[test]
fn c131_a_cancel_stops_a_looping_call_and_the_call_under_way() {
    let mut clock = TestLoop::new(0);
    let (looping, calls) = clock.counting();
    let running = looping.start(S);
    clock.jump(Duration::ZERO);
    running.cancel();
    assert!(given(running).take().unwrap_err().is_cancelled());
    clock.pass(S * 3);
    assert_eq!((calls.take().len(), looping.is_running()), (1, false));

    let (looping, resolver) = clock.one_round();
    let running = looping.start(S);
    clock.jump(Duration::ZERO);
    running.cancel();
    assert!(resolver.is_cancelled() && !looping.is_running());
    assert!(given(running).take().unwrap_err().is_cancelled());
    let again = given(looping.start_later(S));
    looping.stop();
    again.take().unwrap();

    let (looping, resolver) = clock.one_round();
    let running = looping.start(S);
    clock.jump(Duration::ZERO);
    assert!(looping.stop());
    assert!(!resolver.is_cancelled(), "a stop waits for the call");
    running.cancel();
    assert!(resolver.is_cancelled(), "the call in progress when it was stopped, too");
    assert!(given(running).take().unwrap_err().is_cancelled());
}

#[test]
fn c131_the_end_of_the_loop_ends_a_looping_call() {
    let clock = TestLoop::new(0);
    let (looping, _) = clock.counting();
    let ended = given(looping.start(S));
    drop(clock.l);
    assert!(ended.take().unwrap_err().is_cancelled());
    assert!(!looping.is_running());
}

#[test]
fn c132_the_count_includes_every_point_that_passed() {
    let mut clock = TestLoop::new(0);
    let (looping, calls) = clock.counting();
    looping.start(S).detach();
    clock.pass(ms(4000));
    looping.stop();
    // Counted from the start: three points lie before 3.5 s.
    looping.start(S).detach();
    clock.jump(Duration::ZERO);
    calls.take();
    clock.jump(ms(3500));
    assert_eq!(calls.take(), [(7500, 3)]);
    looping.stop();
    looping.start_later(S).detach();
    clock.jump(ms(3500));
    assert_eq!(calls.take(), [(11_000, 3)]);
}

#[test]
fn a_callback_of_sleep_is_called_after_the_delay_and_gives_the_result() {
    let mut clock = TestLoop::new(0);
    let log = clock.log.clone();
    let later = given(clock.reactor.sleep(S).add_callback(move |()| {
        log.say("called");
        Ok(7)
    }));
    clock.jump(ms(999));
    assert!(later.is_none() && clock.log.lines().is_empty());
    clock.jump(ms(1));
    assert_eq!(later.take().unwrap(), 7);
    let failing = given(clock.reactor.sleep(S).add_callback(|()| Err::<(), _>(Failure::msg("no"))));
    let panicking =
        given(clock.reactor.sleep(S).add_callback(|()| -> Result<()> { panic!("in it") }));
    clock.jump(S);
    assert_eq!(failing.text(), "no");
    assert!(panicking.take().unwrap_err().is::<Panicked>());
}

#[test]
fn a_cancelled_sleep_calls_nothing_and_leaves_no_timer() {
    let mut clock = TestLoop::new(0);
    let log = clock.log.clone();
    let later = clock.reactor.sleep(S).add_callback(move |()| {
        log.say("called");
        Ok(())
    });
    later.cancel();
    assert!(given(later).take().unwrap_err().is_cancelled());
    assert_eq!(clock.l.snapshot().pending_calls, 0);
    assert!(clock.jump(S * 2).is_empty());
    let never = given(clock.reactor.sleep(S).add_callback(|()| Ok(())));
    drop(clock.l);
    assert!(never.take().unwrap_err().is_cancelled());
}

/// Awaits `future` for at most one second.
fn timed<T: 'static>(
    clock: &TestLoop,
    future: impl Future<Output = Result<T>> + 'static,
) -> Deferred<T> {
    let reactor = clock.reactor.clone();
    clock.reactor.spawn(async move { reactor.timeout(S, future).await })
}

#[test]
fn timeout_returns_a_result_in_time_and_stops_its_timer() {
    let mut clock = TestLoop::new(0);
    let inner = clock.reactor.clone();
    let result = given(timed(&clock, async move {
        inner.sleep(S).await?;
        Ok("at the last moment")
    }));
    let failed = given(timed(&clock, async { Err::<(), _>(Failure::msg("no")) }));
    clock.jump(Duration::ZERO);
    assert_eq!(failed.text(), "no");
    clock.jump(S);
    clock.jump(Duration::ZERO);
    assert_eq!(result.take().unwrap(), "at the last moment");
    assert_eq!(clock.l.snapshot().pending_calls, 0);
}

#[test]
fn timeout_leaves_no_timer_behind_a_future_that_is_ready_at_once() {
    let answer = couplet::testing::run(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move { inner.timeout(S, async { Ok("at once") }).await })
    });
    assert_eq!(answer.expect("in time"), "at once");
}

#[test]
fn timeout_starts_with_the_first_poll() {
    let mut clock = TestLoop::new(0);
    let (never, _resolver) = Deferred::<()>::new();
    let reactor = clock.reactor.clone();
    let result = given(clock.reactor.spawn(async move {
        let timed = reactor.timeout(S, never);
        reactor.sleep(S * 5).await?;
        timed.await
    }));
    clock.pass(S * 5 + ms(999));
    assert!(result.is_none());
    clock.pass(ms(1));
    let failure = result.take().unwrap_err();
    assert_eq!(failure.downcast_ref::<TimedOut>(), Some(&TimedOut { after: S }));
}

#[test]
fn timeout_drops_the_future_on_expiry() {
    let mut clock = TestLoop::new(0);
    let (never, resolver) = Deferred::<()>::new();
    let result = given(timed(&clock, never));
    clock.jump(Duration::ZERO);
    clock.jump(ms(999));
    assert!(result.is_none() && !resolver.is_cancelled());
    clock.jump(ms(1));
    clock.jump(Duration::ZERO);
    let failure = result.take().unwrap_err();
    assert_eq!(failure.downcast_ref::<TimedOut>(), Some(&TimedOut { after: S }));
    assert!(resolver.is_cancelled(), "its future was dropped");
}

#[test]
fn timeout_ends_with_its_loop() {
    let mut clock = TestLoop::new(0);
    let (never, _resolver) = Deferred::<()>::new();
    let waiting = given(timed(&clock, never));
    clock.jump(Duration::ZERO);
    drop(clock.l);
    assert!(waiting.take().unwrap_err().is_cancelled());
}
