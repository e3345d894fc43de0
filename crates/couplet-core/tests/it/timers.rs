//! Rows 86 to 95: the reactor's delayed calls, on the memory driver's clock; row 94 also tests the
//! system's wait.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::testing::{Manner, Wire, hold};
use couplet::{Deferred, DelayedCall, Loop, Protocol, Reactor, Transport};

use crate::defer_witness::{Log, given};
use crate::logged::logged;
use crate::pace::{TestLoop, s};
use crate::suite::kit::{Kit, Rig};
use couplet_testkit_loops::doubles::Quiet;

impl TestLoop {
    /// A call that logs its name.
    fn call(&self, delay: Duration, name: &str) -> DelayedCall {
        let (log, name) = (self.log.clone(), name.to_owned());
        self.reactor.call_later(delay, move || log.say(name))
    }

    /// Advances the clock and makes one turn; returns the calls made in it.
    fn due(&mut self, by: Duration) -> Vec<String> {
        self.jump(by);
        self.log.take()
    }
}

#[test]
fn c86_a_delay_of_zero_runs_in_the_next_turn() {
    let mut clock = TestLoop::new(0);
    clock.call(Duration::ZERO, "a");
    assert!(clock.log.take().is_empty(), "call_later only records");
    assert_eq!(clock.due(Duration::ZERO), ["a"]);
    let (reactor, log) = (clock.reactor.clone(), clock.log.clone());
    for name in ["b", "c"] {
        let log = log.clone();
        reactor.call_soon(move || log.say(name));
    }
    // Requested during a turn, it waits for the next one, which does not sleep.
    let reactor = clock.reactor.clone();
    clock.reactor.call_soon(move || {
        let inner = log.clone();
        reactor.call_later(Duration::ZERO, move || inner.say("e"));
        log.say("d");
    });
    assert_eq!(clock.due(Duration::ZERO), ["b", "c", "d"]);
    assert_eq!(clock.due(Duration::ZERO), ["e"]);
    assert_eq!(clock.network.elapsed(), Duration::ZERO);
}

/// Requests a timed call for each batch of bytes; that call answers, and requests another call.
struct Timing(Log);
impl Protocol for Timing {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        let (transport, log) = (transport.clone(), self.0.clone());
        log.say("bytes");
        transport.reactor().clone().call_later(Duration::ZERO, move || {
            log.say("call");
            transport.write(b"!");
            transport.reactor().call_later(Duration::ZERO, move || log.say("call of a call"));
        });
    }
}

/// A loop with an accepted connection, and its far end.
fn timing() -> (TestLoop, Wire) {
    let mut clock = TestLoop::new(0);
    let log = clock.log.clone();
    let port = clock.listen(move || Timing(log.clone()));
    let wire = clock.client(port.host());
    (clock, wire)
}

#[test]
fn c86a_due_calls_are_made_before_the_next_events_if_that_is_asked() {
    let (mut clock, wire) = timing();
    wire.push(b"x");
    assert_eq!(clock.due(Duration::ZERO), ["bytes"]);
    // Timed calls requested in that turn, and timed calls that became due after it.
    clock.call(s(1), "late");
    clock.call(s(2), "later");
    clock.network.advance(s(1));
    wire.push(b"y");
    for made in [&["call", "late"][..], &["call of a call"], &[]] {
        assert!(clock.l.make_timed_calls());
        assert_eq!(clock.log.take(), made);
        assert_eq!(wire.take(), if made.contains(&"call") { &b"!"[..] } else { b"" });
    }
    assert_eq!(clock.due(Duration::ZERO), ["bytes"]);
}

#[test]
fn c86a_late_calls_wait_for_input_that_has_arrived() {
    let (mut clock, wire) = timing();
    // Twice, in one loop.
    for _ in 0..2 {
        clock.call(s(1), "late");
        assert!(clock.due(Duration::ZERO).is_empty());
        clock.network.advance(s(1) + Duration::from_millis(11));
        wire.push(b"x");
        assert!(clock.l.make_timed_calls());
        assert!(clock.log.take().is_empty(), "a late call overtook the input");
        assert_eq!(clock.due(Duration::ZERO), ["bytes", "late"]);
        // A call that the last turn requested precedes the next events, also if it is late.
        clock.network.advance(s(1));
        wire.push(b"y");
        assert!(clock.l.make_timed_calls());
        assert_eq!(clock.log.take(), ["call"]);
        assert_eq!(clock.due(Duration::ZERO), ["bytes", "call of a call"]);
        assert_eq!(clock.due(Duration::ZERO), ["call"]);
        assert_eq!(clock.due(Duration::ZERO), ["call of a call"]);
    }
}

#[test]
fn c87_a_call_made_by_a_call_waits_for_the_next_turn() {
    fn again(reactor: Reactor, log: Log, delay: Duration) {
        let (inner, next) = (reactor.clone(), log.clone());
        reactor.call_later(delay, move || {
            log.say("call");
            again(inner, next, delay);
        });
    }
    // In a late turn too: by the clock, the second call would be due in the same turn.
    for delay in [Duration::ZERO, Duration::from_nanos(1), s(1)] {
        let mut clock = TestLoop::new(0);
        again(clock.reactor.clone(), clock.log.clone(), delay);
        for _ in 0..5 {
            assert_eq!(clock.due(s(10)), ["call"]);
        }
    }
    // The same holds for a call that is reset to now during the turn.
    let mut clock = TestLoop::new(0);
    let moved = clock.call(s(100), "moved");
    clock.reactor.call_later(s(1), move || {
        moved.reset(Duration::ZERO);
    });
    assert!(clock.due(s(1)).is_empty());
    assert_eq!(clock.due(Duration::ZERO), ["moved"]);
}

#[test]
fn c88_calls_run_in_the_order_of_their_deadlines() {
    let mut clock = TestLoop::new(0);
    for n in [5, 1, 4, 2, 3] {
        clock.call(s(n), &n.to_string());
    }
    assert_eq!(clock.due(s(10)), ["1", "2", "3", "4", "5"]);
    // Requested at different times, sorted by deadline.
    clock.call(s(9), "late");
    clock.due(s(5));
    clock.call(s(3), "early");
    assert_eq!(clock.due(s(10)), ["early", "late"]);
}

#[test]
fn c88_equal_deadlines_run_in_the_order_of_their_requests() {
    let mut clock = TestLoop::new(0);
    let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for name in &names {
        clock.call(s(1), name);
    }
    assert_eq!(clock.due(s(1)), names);
    // Also when the same deadline is requested at different times with different delays.
    clock.call(s(5), "first");
    clock.due(s(2));
    clock.call(s(3), "second");
    let moved = clock.call(s(100), "third");
    moved.reset(s(3));
    clock.due(s(1));
    clock.call(s(2), "fourth");
    assert_eq!(clock.due(s(2)), ["first", "second", "third", "fourth"]);
}

#[test]
fn c89_a_panic_in_a_call_is_logged_and_the_next_runs() {
    let mut clock = TestLoop::new(0);
    clock.call(s(1), "before");
    clock.reactor.call_later(s(1), || panic!("no {}", "poem"));
    clock.call(s(1), "after");
    let (called, log) = logged(|| clock.due(s(1)));
    assert_eq!(called, ["before", "after"]);
    assert_eq!(log.len(), 1, "{log:?}");
    assert!(log[0].contains("no poem"), "{log:?}");
    clock.call(s(1), "later");
    assert_eq!(clock.due(s(1)), ["later"], "the loop continues");
}

#[test]
fn c90_cancel_reset_and_delay_by_say_whether_a_call_was_left() {
    let mut clock = TestLoop::new(0);
    let call = clock.call(s(1), "a");
    assert!(call.reset(s(2)) && call.delay_by(s(1)) && call.cancel());
    assert!(!call.cancel() && !call.reset(s(1)) && !call.delay_by(s(1)), "cancelled");
    assert!(clock.due(s(10)).is_empty());
    let call = clock.call(s(1), "b");
    assert_eq!(clock.due(s(1)), ["b"]);
    assert!(!call.cancel() && !call.reset(s(1)) && !call.delay_by(s(1)), "called");
    assert!(clock.due(s(10)).is_empty(), "it is not called again");
    // The closure of a cancelled call is dropped immediately.
    let held = Rc::new(());
    let inside = held.clone();
    let call = clock.reactor.call_later(s(1), move || drop(inside));
    assert!(call.cancel());
    assert_eq!(Rc::strong_count(&held), 1);
    // Dropping a handle does not cancel its call, and a handle may outlive its loop.
    drop(clock.call(s(1), "c"));
    let call = clock.call(s(5), "d");
    assert_eq!(clock.due(s(1)), ["c"]);
    drop(clock);
    assert!(!call.cancel() && !call.reset(s(1)) && !call.delay_by(s(1)) && !call.active());
}

#[test]
fn c90_inside_its_own_body_a_call_has_run() {
    let mut clock = TestLoop::new(0);
    let own: Rc<RefCell<Option<DelayedCall>>> = Rc::default();
    let (inside, log) = (own.clone(), clock.log.clone());
    let call = clock.reactor.call_later(s(1), move || {
        let own = inside.take().expect("it was stored");
        log.say(format!("{} {}", own.active(), own.deadline().is_some()));
        log.say(format!("{} {} {}", own.cancel(), own.reset(s(1)), own.delay_by(s(1))));
    });
    *own.borrow_mut() = Some(call);
    assert_eq!(clock.due(s(1)), ["false false", "false false false"]);
    assert!(clock.due(s(10)).is_empty());
}

#[test]
fn c90_a_call_may_cancel_another_of_the_same_turn() {
    let mut clock = TestLoop::new(0);
    let victim: Rc<RefCell<Option<DelayedCall>>> = Rc::default();
    let (other, log) = (victim.clone(), clock.log.clone());
    clock.reactor.call_later(s(1), move || {
        let victim = other.take().expect("it was stored");
        log.say(format!("cancelled {}", victim.cancel()));
    });
    *victim.borrow_mut() = Some(clock.call(s(1), "the other"));
    assert_eq!(clock.due(s(1)), ["cancelled true"]);
}

#[test]
fn c91_reset_counts_from_now_later_and_sooner() {
    let mut clock = TestLoop::new(0);
    let later = clock.call(s(5), "later");
    let sooner = clock.call(s(100), "sooner");
    assert!(clock.due(s(3)).is_empty());
    assert!(later.reset(s(5)) && sooner.reset(s(1)));
    assert_eq!(clock.due(s(1)), ["sooner"]);
    assert!(clock.due(s(3)).is_empty(), "no longer due 5 s after the start");
    assert!(clock.due(Duration::from_millis(999)).is_empty());
    assert_eq!(clock.due(Duration::from_millis(1)), ["later"]);
}

#[test]
fn c91_the_deadline_is_the_effective_one() {
    let mut clock = TestLoop::new(0);
    let start = clock.reactor.now();
    let call = clock.call(s(5), "call");
    assert_eq!(call.deadline(), Some(start + s(5)));
    clock.due(s(2));
    for delay in [s(50), s(1), s(7)] {
        assert!(call.reset(delay));
        assert_eq!(call.deadline(), Some(start + s(2) + delay));
    }
    assert_eq!(clock.due(s(7)), ["call"]);
    assert_eq!(call.deadline(), None);
}

#[test]
fn c92_delay_by_adds_to_the_deadline() {
    let mut clock = TestLoop::new(0);
    let start = clock.reactor.now();
    let call = clock.call(s(5), "call");
    clock.due(s(3));
    assert!(call.delay_by(s(5)) && call.delay_by(s(1)));
    assert_eq!(call.deadline(), Some(start + s(11)), "counted from the old deadline, not from now");
    assert!(clock.due(s(7)).is_empty());
    assert_eq!(clock.due(s(1)), ["call"]);
}

#[test]
fn c93_active_until_run_or_cancelled() {
    let mut clock = TestLoop::new(0);
    let (run, cancelled) = (clock.call(s(1), "run"), clock.call(s(1), "cancelled"));
    assert!(run.active() && cancelled.active());
    run.reset(s(2));
    assert!(run.active());
    cancelled.cancel();
    assert!(run.active() && !cancelled.active());
    clock.due(s(2));
    assert!(!run.active());
}

#[test]
fn c94_a_deadline_in_the_far_future_is_harmless() {
    let mut clock = TestLoop::new(0);
    let far = clock.call(Duration::MAX, "far");
    let farther = clock.call(s(1), "farther");
    assert!(farther.delay_by(Duration::MAX) && far.reset(Duration::MAX));
    clock.call(s(2), "near");
    assert_eq!(clock.due(s(100 * 365 * 24 * 3600)), ["near"]);
    assert!(far.active() && farther.active());
    assert!(far.reset(s(1)));
    assert_eq!(clock.due(s(1)), ["far"], "it can be reset to an earlier deadline");
}

#[test]
fn c94_the_systems_wait_takes_any_deadline() {
    // More than 24 or 49 days overflow the milliseconds that a system call accepts.
    let days = |n: u64| s(n * 24 * 3600);
    for far in [days(24), days(25), days(40), days(50), days(100_000), Duration::MAX] {
        let mut l = Loop::new().expect("a poll descriptor");
        let reactor = l.reactor();
        let call = reactor.call_later(far, || panic!("not in this test"));
        let stop = reactor.clone();
        reactor.call_later(Duration::from_millis(2), move || stop.stop());
        let mut turns = 0;
        l.run(|_| Ok(())).expect("the system accepts the timeout");
        assert!(!call.active(), "dropped with the run");
        // With no earlier deadline it sleeps until another thread wakes it.
        let call = reactor.call_later(far, || panic!("not in this test"));
        let (deferred, waker) = wake_from_outside(&reactor);
        let thread = std::thread::spawn(move || waker.recv().expect("it is polled").wake());
        while !deferred.has_fired() {
            l.turn(None).expect("the system accepts the timeout");
            turns += 1;
        }
        thread.join().expect("it only wakes");
        assert!(call.active() && turns <= 4, "{turns} turns for {far:?}");
    }
}

/// A task that ends when the waker sent through the channel is used.
fn wake_from_outside(
    reactor: &Reactor,
) -> (Deferred<()>, std::sync::mpsc::Receiver<std::task::Waker>) {
    let (send, receive) = std::sync::mpsc::channel();
    let mut polled = false;
    let task = std::future::poll_fn(move |context| {
        if std::mem::replace(&mut polled, true) {
            return std::task::Poll::Ready(Ok(()));
        }
        send.send(context.waker().clone()).expect("the receiver exists");
        std::task::Poll::Pending
    });
    (reactor.spawn(task), receive)
}

/// A call that logs its name and the seconds since `start`.
fn noting(
    reactor: &Reactor,
    start: Instant,
    log: &Log,
) -> impl Fn(Duration, &'static str) -> DelayedCall + use<> {
    let (reactor, log) = (reactor.clone(), log.clone());
    move |delay, name| {
        let (log, now) = (log.clone(), reactor.clone());
        reactor.call_later(delay, move || {
            log.say(format!("{name} at {}", now.now().duration_since(start).as_secs()));
        })
    }
}

#[test]
fn c95_a_clock_moves_first_and_then_runs_due_calls() {
    let (mut held, log) = (hold(Quiet), Log::default());
    let noting = noting(&held.reactor(), held.reactor().now(), &log);
    for (delay, name) in [(s(2), "b"), (s(1), "a"), (s(3), "c")] {
        noting(delay, name);
    }
    held.advance(s(2));
    assert_eq!(log.take(), ["a at 1", "b at 2"]);
    held.advance(Duration::ZERO);
    assert!(log.take().is_empty());
    held.advance(s(1));
    assert_eq!(log.take(), ["c at 3"], "the clock advances before the call");
}

#[test]
fn c95_a_call_moved_while_the_clock_runs_finds_its_place() {
    let (mut held, log) = (hold(Quiet), Log::default());
    let noting = noting(&held.reactor(), held.reactor().now(), &log);
    let (moved, nearer) = (noting(s(2), "moved"), noting(s(50), "nearer"));
    let (reactor, added) = (held.reactor(), log.clone());
    held.reactor().call_later(s(1), move || {
        moved.reset(s(4));
        nearer.reset(s(1));
        reactor.call_later(s(2), move || added.say("added"));
    });
    noting(s(4), "second to last");
    held.advance(s(10));
    assert_eq!(log.take(), ["nearer at 2", "added", "second to last at 4", "moved at 5"]);
}

#[test]
fn a_turns_time_is_never_before_the_previous_turns() {
    let mut rig = Kit::memory(Manner::Readiness).rig();
    let times: Rc<RefCell<Vec<Instant>>> = Rc::default();
    let note = |rig: &mut Rig| {
        let (times, reactor) = (times.clone(), rig.reactor.clone());
        rig.reactor.call_soon(move || times.borrow_mut().push(reactor.now()));
        rig.turns(2);
    };
    rig.pass(s(10));
    note(&mut rig);
    rig.tapped.go_back(s(5));
    note(&mut rig);
    assert_eq!(times.borrow()[0], times.borrow()[1]);
}

#[test]
fn a_result_in_time_leaves_no_timed_call_in_its_loop() {
    let mut stage = TestLoop::new(1);
    let (deferred, resolver) = Deferred::<u8>::new();
    let given = given(deferred.add_timeout(&stage.reactor, s(1)));
    assert_eq!(stage.l.snapshot().pending_calls, 1);
    resolver.callback(1);
    assert_eq!(stage.l.snapshot().pending_calls, 0);
    assert_eq!(given.take().unwrap(), 1);
}

#[test]
fn a_cancelled_sleep_leaves_no_timed_call_and_cancels_no_other() {
    let mut stage = TestLoop::new(1);
    for _ in 0..2 {
        let sleeps = [1, 1, 2].map(|seconds| stage.reactor.sleep(s(seconds)));
        sleeps[0].cancel();
        sleeps[2].cancel();
        assert_eq!(stage.l.snapshot().pending_calls, 1);
        stage.jump(s(2));
        let slept = sleeps.map(|sleep| given(sleep).take().is_ok());
        assert_eq!(slept, [false, true, false]);
    }
}
