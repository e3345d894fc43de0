//! Row 125b: misuse of Deferreds, locks and futures.

use std::cell::RefCell;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use couplet::Shutdown;
use couplet::defer::{Deferred, DeferredLock, Permit};
use couplet::testing::{failure_of, hold, no_result_yet};

use crate::defer_witness::{Log, given, unhandled_in};
use crate::pace::TestLoop;
use couplet_testkit_loops::doubles::{Quiet, on_data};

fn poll<T>(deferred: &mut Deferred<T>) -> Poll<couplet::Result<T>> {
    Pin::new(deferred).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn c125b_a_writable_or_flushed_that_is_awaited_and_dropped_after_the_loss_is_not_reported() {
    let reports = unhandled_in(|| {
        let mut held = hold(on_data(|transport, _| transport.write(vec![0; 1024 * 1024])));
        held.push(b"?");
        let transport = held.connection.transport();
        let mut pending = [transport.writable(), transport.flushed()];
        assert!(pending.iter_mut().all(|pending| poll(pending).is_pending()));
        held.wire.reset();
        held.settle();
        let after = [transport.writable(), transport.flushed()];
        assert!(pending.iter().chain(&after).all(Deferred::has_fired));
        drop((pending, after));
    });
    assert_eq!(reports, [""; 0]);
}

#[test]
fn c125b_a_deferred_mapped_from_writable_reports_the_loss() {
    let reports = unhandled_in(|| {
        let mut held = hold(on_data(|transport, _| transport.write(vec![0; 1024 * 1024])));
        held.push(b"?");
        held.connection.transport().writable().map(|()| ()).detach();
        held.wire.reset();
        held.settle();
    });
    assert_eq!(reports.len(), 1, "{reports:?}");
}

#[test]
fn c125b_a_lock_held_by_a_cancelled_task_passes_to_the_next() {
    let mut clock = TestLoop::new(0);
    let lock = DeferredLock::new();
    let (holding, never) = (lock.clone(), Deferred::<()>::new());
    let task = clock.reactor.spawn(async move {
        let _permit = holding.acquire().await?;
        never.0.await
    });
    clock.jump(Duration::ZERO);
    assert!(lock.is_locked());
    let slot: Rc<RefCell<Option<Permit>>> = Rc::default();
    let place = slot.clone();
    lock.acquire().map(move |permit| *place.borrow_mut() = Some(permit)).detach();
    assert!(slot.borrow().is_none());
    task.cancel();
    clock.jump(Duration::ZERO);
    assert!(given(task).take().unwrap_err().is_cancelled());
    assert!(lock.is_locked() && slot.take().is_some());
    assert!(!lock.is_locked());
}

#[test]
fn c125b_a_deferred_polled_or_used_after_its_result_was_taken_panics() {
    const TAKEN: &str = "this Deferred has already returned its result";
    for fired_before in [true, false] {
        let taken = || {
            let (mut deferred, resolver) = Deferred::<u8>::new();
            if fired_before {
                deferred = Deferred::succeed(1);
            } else {
                assert!(poll(&mut deferred).is_pending());
            }
            resolver.callback(1);
            assert!(matches!(poll(&mut deferred), Poll::Ready(Ok(1))));
            deferred
        };
        let polls = || drop(poll(&mut taken()));
        let adds = || drop(taken().map(|n| n + 1));
        for panicked in [catch_unwind(polls), catch_unwind(adds)] {
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&TAKEN.to_owned()));
        }
        // These calls do nothing.
        let deferred = taken();
        deferred.cancel();
        assert!(deferred.has_fired() && deferred.history().is_none());
        deferred.detach();
    }
}

#[test]
fn c125b_tasks_and_calls_requested_after_the_end_fail_with_cancelled() {
    struct Noted(Log);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.say("dropped");
        }
    }
    let log = Log::default();
    let noted = || Noted(log.clone());
    let mut clock = TestLoop::new(0);
    let (reactor, never) = (clock.reactor.clone(), noted());
    let late = Rc::new(RefCell::new(None));
    let place = late.clone();
    clock.reactor.on(Shutdown::After, move || {
        *place.borrow_mut() = Some(reactor.spawn(async move {
            let _never = never;
            Ok(())
        }));
        Deferred::succeed(())
    });
    clock.run();
    assert!(failure_of(late.take().expect("it was called")).is_cancelled());
    assert_eq!(log.lines(), ["dropped"]);

    // A task spawned between two runs waits for the next one.
    let next = clock.reactor.spawn(async { Ok(7) });
    no_result_yet(&next);
    assert_eq!(clock.l.run_until(next).expect("the next run"), 7);

    let TestLoop { l, reactor, .. } = clock;
    drop(l);
    let (held, never) = (noted(), noted());
    let gone = reactor.spawn(async move {
        let _held = held;
        Ok(())
    });
    assert!(failure_of(gone).is_cancelled());
    assert!(failure_of(reactor.sleep(Duration::ZERO)).is_cancelled());
    assert!(failure_of(reactor.resolve("example")).is_cancelled());
    assert!(failure_of(reactor.defer_to_thread(|| Ok(()))).is_cancelled());
    assert!(!reactor.call_soon(move || drop(never)).active());
    assert_eq!(log.lines(), ["dropped", "dropped", "dropped"], "nothing is kept");
}

#[test]
fn c125b_a_port_of_a_dropped_loop_is_stopped_and_a_drain_fails_with_cancelled() {
    let TestLoop { mut l, reactor, .. } = TestLoop::new(0);
    let [port, other] = [(); 2]
        .map(|()| reactor.listen("tcp:0:interface=127.0.0.1", || Quiet).expect("a free port"));
    l.turn(Some(Duration::ZERO)).expect("a turn");
    let stopped = other.stop_listening().expect("it listens");
    let drained = reactor.drain(Duration::ZERO);
    drop(l);
    assert!(failure_of(stopped).is_cancelled() && failure_of(drained).is_cancelled());
    assert!(!port.is_listening() && port.stop_listening().is_none());
    for late in [reactor.drain(Duration::ZERO), port.drain(Duration::ZERO)] {
        assert!(failure_of(late).is_cancelled());
    }
}
