//! Rows 96 to 98: calls from other threads, blocking work in the loop's thread pool, and threads
//! that block on the loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use couplet::defer::{Cancelled, Panicked};
use couplet::reactor::{LoopGone, WouldWaitForItself};
use couplet::testing::Manner;
use couplet::{
    ConnectionId, Failure, Loop, LoopOptions, ProducerKind, Protocol, Reactor, Remote, Transport,
};

use crate::defer_witness::given;
use crate::logged::logged;
use crate::pace::real_loop;
use crate::suite::kit::{Kit, LOOPBACK};

const SOON: Duration = Duration::ZERO;

/// Runs `f` in another thread and joins it.
fn elsewhere<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(f).join().expect("the thread does not panic")
}

// Notes left by calls in the loop's thread, in order.
thread_local! {
    static NOTES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

fn note(n: u32) {
    NOTES.with_borrow_mut(|notes| notes.push(n));
}

#[test]
fn c96_calls_come_in_the_order_of_sending_before_the_timed_calls_of_the_turn() {
    let mut l = real_loop();
    let reactor = l.reactor();
    reactor.call_later(SOON, || note(100));
    let remote = reactor.remote();
    elsewhere(move || {
        for n in 0..10 {
            remote.call(move |_| note(n)).expect("the loop exists");
        }
    });
    l.turn(Some(SOON)).expect("a turn");
    assert_eq!(NOTES.take(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100]);
}

#[test]
fn c96_a_call_made_by_a_call_waits_for_the_next_turn() {
    let mut l = real_loop();
    let remote = l.reactor().remote();
    let again = remote.clone();
    let call = move |reactor: &Reactor| {
        note(1);
        reactor.call_soon(|| note(3));
        again.call(|_| note(2)).expect("the loop exists");
    };
    elsewhere(move || remote.call(call)).expect("the loop exists");
    l.turn(Some(SOON)).expect("a turn");
    assert_eq!(NOTES.with_borrow(Vec::clone), [1]);
    // The loop does not sleep while the second call is queued.
    l.turn(None).expect("a turn");
    assert_eq!(NOTES.take(), [1, 2, 3]);
}

#[test]
fn c96_a_panic_in_a_call_is_logged_and_costs_nothing_else() {
    let mut l = real_loop();
    let remote = l.reactor().remote();
    elsewhere(move || {
        remote.call(|_| panic!("from afar")).expect("the loop exists");
        remote.call(|_| note(1)).expect("the loop exists");
    });
    let (turned, log) = logged(|| l.turn(Some(SOON)));
    turned.expect("a turn");
    assert!(log.iter().any(|line| line.contains("from afar")), "{log:?}");
    assert_eq!(NOTES.take(), [1]);
}

#[test]
fn c96_a_call_wakes_a_loop_that_sleeps_and_may_come_before_it_runs() {
    let mut l = real_loop();
    let remote = l.reactor().remote();
    elsewhere({
        let remote = remote.clone();
        move || remote.call(|_| note(1)).expect("the loop exists")
    });
    let asleep = Arc::new(Barrier::new(2));
    let waking = {
        let asleep = asleep.clone();
        thread::spawn(move || {
            asleep.wait();
            remote.call(Reactor::stop)
        })
    };
    l.run(|_| {
        asleep.wait();
        Ok(())
    })
    .expect("another thread stops it");
    assert_eq!(waking.join().expect("no panic"), Ok(()));
    assert_eq!(NOTES.take(), [1]);
}

struct Witness(Arc<AtomicBool>);

/// A value, and whether it was dropped.
fn witness() -> (Witness, Arc<AtomicBool>) {
    let dropped = Arc::new(AtomicBool::new(false));
    (Witness(dropped.clone()), dropped)
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn c96_a_dropped_loop_refuses_calls_and_drops_queued_ones() {
    let l = real_loop();
    let remote = l.reactor().remote();
    let (witness, dropped) = witness();
    remote.call(move |_| drop(witness)).expect("the loop exists");
    drop(l);
    assert!(dropped.load(Ordering::Acquire));
    let refused = elsewhere(move || {
        let tell = remote.tell(a_connection(), |_: &mut Counter, _| {});
        (remote.call(|_| {}), tell)
    });
    assert_eq!(refused, (Err(LoopGone), Err(LoopGone)));
}

/// Counts its calls, and publishes its transport.
#[derive(Default)]
struct Counter {
    tells: u32,
    made: Rc<RefCell<Option<Transport>>>,
}

impl Protocol for Counter {
    fn connection_made(&mut self, transport: &Transport) {
        *self.made.borrow_mut() = Some(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A loop connected to itself, and the server side's transport.
fn connected() -> (Loop, Transport) {
    let mut l = real_loop();
    let reactor = l.reactor();
    let made: Rc<RefCell<Option<Transport>>> = Rc::default();
    let slot = made.clone();
    let port = reactor
        .listen(LOOPBACK, move || Counter { tells: 0, made: slot.clone() })
        .expect("a free port");
    let to = port.host().socket_addr().expect("a TCP port");
    reactor.connect(("127.0.0.1", to.port()), Counter::default).detach();
    let transport = loop {
        if let Some(transport) = made.take() {
            break transport;
        }
        l.turn(None).expect("a turn");
    };
    (l, transport)
}

fn a_connection() -> ConnectionId {
    connected().1.id()
}

#[test]
fn a_tell_from_another_thread_reaches_the_protocol_of_its_connection() {
    let (mut l, transport) = connected();
    let (id, remote) = (transport.id(), l.reactor().remote());
    elsewhere(move || {
        for _ in 0..3 {
            let count = |counter: &mut Counter, _: &Transport| {
                counter.tells += 1;
                note(counter.tells);
            };
            remote.tell(id, count).expect("the loop exists");
        }
    });
    l.turn(None).expect("a turn");
    assert_eq!(NOTES.take(), [1, 2, 3]);
}

#[test]
fn a_connection_is_closed_by_its_id_from_another_thread() {
    let (mut l, transport) = connected();
    transport.write("the last words");
    let (id, remote) = (transport.id(), l.reactor().remote());
    // A second time, it does nothing.
    elsewhere(move || (0..2).for_each(|_| remote.lose_connection(id).expect("the loop exists")));
    while !l.snapshot().connections.is_empty() {
        l.turn(None).expect("a turn");
    }
    let ended = l.snapshot().ended;
    let reasons: Vec<_> = ended.reasons().filter(|(_, count)| *count > 0).collect();
    assert_eq!((reasons, ended.bytes_in), (vec![("done", 2)], 14));
}

#[test]
fn a_connection_with_an_active_producer_is_reset_by_its_id_from_another_thread() {
    let (mut l, transport) = connected();
    transport.register_producer(transport.clone(), ProducerKind::Push).expect("it is the first");
    let (id, remote) = (transport.id(), l.reactor().remote());
    remote.lose_connection(id).expect("the loop exists");
    for _ in 0..3 {
        l.turn(Some(SOON)).expect("a turn");
    }
    assert_eq!(l.snapshot().connections.len(), 2, "the close waits for the producer");
    elsewhere(move || (0..2).for_each(|_| remote.abort_connection(id).expect("the loop exists")));
    while !l.snapshot().connections.is_empty() {
        l.turn(None).expect("a turn");
    }
}

#[test]
fn a_tell_for_a_connection_that_was_lost_or_is_another_loops_is_dropped() {
    let (mut l, transport) = connected();
    let lost = transport.id();
    transport.abort_connection();
    for _ in 0..3 {
        l.turn(Some(SOON)).expect("a turn");
    }
    let foreign = a_connection();
    let remote = l.reactor().remote();
    let mut all = Vec::new();
    for id in [lost, foreign] {
        let (witness, dropped) = witness();
        all.push(dropped);
        let tell = move |_: &mut Counter, _: &Transport| {
            note(1);
            drop(witness);
        };
        remote.tell(id, tell).expect("the loop exists");
    }
    let (turned, log) = logged(|| l.turn(Some(SOON)));
    turned.expect("a turn");
    assert!(all.iter().all(|dropped| dropped.load(Ordering::Acquire)));
    assert!(NOTES.take().is_empty());
    assert!(log.iter().any(|line| line.contains("another loop")), "{log:?}");
}

#[test]
fn c97_blocking_work_runs_in_another_thread_and_gives_its_result() {
    let mut l = real_loop();
    let own = thread::current().id();
    let job = l.reactor().defer_to_thread(move || Ok(thread::current().id() != own));
    assert!(l.run_until(job).expect("it runs"));
    let failing = l.reactor().defer_to_thread(|| Err::<(), _>(Failure::msg("the disk is full")));
    assert_eq!(l.run_until(failing).expect_err("it fails").to_string(), "the disk is full");
}

#[test]
fn c97_a_panic_in_a_thread_of_the_pool_is_a_failure() {
    let mut l = real_loop();
    let job = l.reactor().defer_to_thread(|| -> couplet::Result<()> { panic!("in the pool") });
    let failure = l.run_until(job).expect_err("it panics");
    assert!(failure.downcast_ref::<Panicked>().is_some_and(|p| p.0 == "in the pool"), "{failure}");
}

#[test]
fn c97_the_pool_has_at_most_ten_threads_and_starts_none_without_work() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let mut l = real_loop();
    // The barrier needs ten threads; `MOST` would show an eleventh.
    let meeting = Arc::new(Barrier::new(10));
    let jobs: Vec<_> = (0..100)
        .map(|_| {
            let meeting = meeting.clone();
            l.reactor().defer_to_thread(move || {
                MOST.fetch_max(RUNNING.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
                meeting.wait();
                RUNNING.fetch_sub(1, Ordering::AcqRel);
                Ok(())
            })
        })
        .collect();
    l.run_until(couplet::defer::gather(jobs)).expect("all run");
    assert_eq!(MOST.load(Ordering::Acquire), 10);
}

#[test]
fn c97_cancelling_answers_at_once_while_the_thread_finishes() {
    let mut l = real_loop();
    let (begun, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (ended, has_ended) = mpsc::channel();
    let job = l.reactor().defer_to_thread(move || {
        begun.send(()).map_err(Failure::from)?;
        let _ = may_go.recv();
        ended.send(()).map_err(Failure::from)
    });
    l.turn(Some(SOON)).expect("a turn");
    has_begun.recv().expect("the job starts");
    job.cancel();
    assert!(given(job).take().unwrap_err().is::<Cancelled>());
    go.send(()).expect("the job is still waiting");
    has_ended.recv().expect("the job finishes");
    l.turn(Some(SOON)).expect("a turn");
}

#[test]
fn c97_a_job_that_has_not_begun_never_does_once_it_is_cancelled() {
    // The memory driver starts a job as soon as it gets it.
    for kit in [Kit::mio(), Kit::memory(Manner::Readiness)] {
        let mut rig = kit.rig();
        let began = Arc::new(AtomicBool::new(false));
        let begins = began.clone();
        let job = rig.reactor.defer_to_thread(move || {
            begins.store(true, Ordering::Relaxed);
            Ok(())
        });
        job.add_both(|_| Ok(())).cancel();
        let last = rig.reactor.defer_to_thread(|| Ok(7));
        assert_eq!(rig.l.run_until(last).expect("it runs"), 7);
        assert!(!began.load(Ordering::Relaxed));
        assert_eq!(rig.l.snapshot().jobs, 0);
    }
}

#[test]
fn c97_a_run_waits_for_its_jobs_when_it_ends() {
    let mut l = real_loop();
    let (stopped, has_stopped) = mpsc::channel::<()>();
    let mut done = None;
    l.run(|reactor| {
        let job = reactor.defer_to_thread(move || Ok(has_stopped.recv().is_ok()));
        done = Some(given(job));
        let stopping = reactor.clone();
        reactor.call_soon(move || {
            stopping.stop();
            // The job ends after this turn, while the run is ending.
            stopped.send(()).expect("the job is waiting");
        });
        Ok(())
    })
    .expect("it stops");
    let done = done.expect("it was set").take();
    assert!(done.unwrap(), "the job's result arrived before the run ended");
}

#[test]
fn c97_a_run_waits_no_longer_than_the_grace_for_a_job_that_does_not_end() {
    let options = LoopOptions::default().tune(|it| it.job_grace(Duration::from_millis(20)));
    let mut l = Loop::with_options(options).expect("a loop");
    let (never, blocked) = mpsc::channel::<()>();
    let mut ended = None;
    l.run(|reactor| {
        let job = reactor.defer_to_thread(move || Ok(blocked.recv().is_ok()));
        ended = Some(given(job));
        let stopping = reactor.clone();
        reactor.call_soon(move || stopping.stop());
        Ok(())
    })
    .expect("it stops");
    assert!(ended.expect("it was set").take().unwrap_err().is::<Cancelled>());
    drop(never);
}

/// Runs a loop while `f` runs in another thread, which then stops the loop.
fn beside<T: Send + 'static>(f: impl FnOnce(&Remote) -> T + Send + 'static) -> T {
    let mut l = real_loop();
    let remote = l.reactor().remote();
    let other = thread::spawn(move || {
        let outcome = f(&remote);
        remote.call(Reactor::stop).expect("the loop exists");
        outcome
    });
    l.run(|_| Ok(())).expect("it is stopped");
    other.join().expect("no panic")
}

#[test]
fn c98_a_thread_waits_for_a_deferred_and_gets_its_failure_as_its_own() {
    let (value, failure) = beside(|remote| {
        let value = remote.block_on_reactor(|reactor| {
            reactor.sleep(Duration::from_millis(1)).map(|()| String::from("rested"))
        });
        let failure = remote
            .block_on_reactor(|_| couplet::Deferred::<()>::fail(Failure::msg("no such poem")));
        (value, failure)
    });
    assert_eq!(value.expect("it sleeps"), "rested");
    assert_eq!(failure.expect_err("it fails").to_string(), "no such poem");
}

#[test]
fn c98_a_blocked_thread_gets_an_error_when_the_loop_is_dropped_or_the_call_panics() {
    let panicked = beside(|remote| {
        remote.block_on_reactor(|_| -> couplet::Deferred<()> { panic!("in the call") })
    });
    assert!(panicked.expect_err("it panics").is::<LoopGone>());
    let l = real_loop();
    let remote = l.reactor().remote();
    let (asked, has_asked) = mpsc::channel();
    let waiting = thread::spawn(move || {
        asked.send(()).expect("the receiver waits");
        remote.block_on_reactor(|reactor| reactor.sleep(Duration::MAX))
    });
    has_asked.recv().expect("the thread has started");
    drop(l);
    assert!(waiting.join().expect("no panic").expect_err("the loop is dropped").is::<LoopGone>());
}

#[test]
fn c98_a_thread_that_waits_for_a_deferred_that_outlives_the_loop_gets_an_error() {
    let mut l = real_loop();
    let (remote, kept) = (l.reactor().remote(), Rc::new(RefCell::new(None)));
    let slot = kept.clone();
    // The resolver stays here and outlives the loop.
    l.reactor().call_soon(move || {
        let (deferred, resolver) = couplet::Deferred::<u8>::new();
        *slot.borrow_mut() = Some(resolver);
        DEFERRED.with(|cell| *cell.borrow_mut() = Some(deferred));
    });
    l.turn(Some(Duration::ZERO)).expect("a turn");
    let waiting = thread::spawn(move || {
        remote.block_on_reactor(|_| {
            let deferred = DEFERRED.with(|cell| cell.borrow_mut().take());
            deferred.expect("it was stored before")
        })
    });
    while DEFERRED.with(|cell| cell.borrow().is_some()) {
        l.turn(None).expect("a turn");
    }
    drop(l);
    assert!(waiting.join().expect("no panic").expect_err("the loop is dropped").is::<LoopGone>());
    assert!(kept.borrow().is_some(), "the resolver exists, but nothing waits for it");
}

thread_local! {
    static DEFERRED: RefCell<Option<couplet::Deferred<u8>>> = const { RefCell::new(None) };
}

#[test]
fn c98_the_loops_own_thread_is_refused_and_does_not_wait_for_itself() {
    let l = real_loop();
    let remote = l.reactor().remote();
    let refused = || remote.block_on_reactor(|reactor| reactor.sleep(SOON)).expect_err("no wait");
    assert!(refused().is::<WouldWaitForItself>());
    drop(l);
    assert!(refused().is::<LoopGone>());
}

#[test]
fn c97_of_several_jobs_only_the_cancelled_ones_never_begin() {
    for kit in [Kit::mio(), Kit::memory(Manner::Readiness)] {
        let mut rig = kit.rig();
        rig.tapped.nap.set(Duration::from_millis(1));
        for _ in 0..2 {
            let began = Arc::new([const { AtomicBool::new(false) }; 4]);
            let jobs = [0, 1, 2, 3].map(|n| {
                let begins = began.clone();
                rig.reactor.defer_to_thread(move || {
                    begins[n].store(true, Ordering::Relaxed);
                    Ok(n)
                })
            });
            jobs[0].cancel();
            jobs[2].cancel();
            let outcomes = jobs.map(|job| rig.l.run_until(job).ok());
            assert_eq!(outcomes, [None, Some(1), None, Some(3)]);
            let began = began.each_ref().map(|began| began.load(Ordering::Relaxed));
            assert_eq!(began, [false, true, false, true]);
            assert_eq!(rig.l.snapshot().jobs, 0);
        }
    }
}

#[test]
fn c97_each_unfinished_job_fails_at_the_end_and_is_counted_in_the_log() {
    for grace in [Duration::from_millis(20), Duration::ZERO] {
        let options = LoopOptions::default().tune(|it| it.job_grace(grace));
        let mut l = Loop::with_options(options).expect("a loop");
        for _ in 0..2 {
            let (never, blocked) = mpsc::channel::<()>();
            let blocked = Arc::new(Mutex::new(blocked));
            let mut ends = Vec::new();
            let (run, log) = logged(|| {
                l.run(|reactor| {
                    for _ in 0..3 {
                        let blocked = blocked.clone();
                        ends.push(given(reactor.defer_to_thread(move || {
                            Ok(blocked.lock().expect("no panic").recv().is_ok())
                        })));
                    }
                    let stopping = reactor.clone();
                    reactor.call_soon(move || stopping.stop());
                    Ok(())
                })
            });
            run.expect("it stops");
            for end in ends {
                assert!(end.take().unwrap_err().is::<Cancelled>());
            }
            let counted = log.iter().filter(|line| line.contains("jobs=3")).count();
            assert_eq!(counted, usize::from(!grace.is_zero()), "{log:?}");
            assert_eq!(l.snapshot().jobs, 0);
            drop(never);
        }
    }
}

thread_local! {
    static KEPT: RefCell<Vec<couplet::Resolver<u8>>> = const { RefCell::new(Vec::new()) };
}

#[test]
fn c98_each_of_several_blocked_threads_gets_an_error_when_the_loop_is_dropped() {
    let mut l = real_loop();
    let asked = Arc::new(AtomicUsize::new(0));
    let wait = |_| {
        let (remote, asked) = (l.reactor().remote(), asked.clone());
        thread::spawn(move || {
            remote.block_on_reactor(move |_| {
                asked.fetch_add(1, Ordering::Relaxed);
                let (deferred, resolver) = couplet::Deferred::new();
                KEPT.with_borrow_mut(|kept| kept.push(resolver));
                deferred
            })
        })
    };
    let waiting: Vec<_> = (0..3).map(wait).collect();
    while asked.load(Ordering::Relaxed) < 3 {
        l.turn(None).expect("a turn");
    }
    drop(l);
    // The resolvers have outlived the loop.
    for resolver in KEPT.take() {
        resolver.callback(1);
    }
    for thread in waiting {
        let failure = thread.join().expect("no panic").expect_err("the loop is dropped");
        assert!(failure.is::<LoopGone>());
    }
}
