//! Row 97 and law 10: a job's captures and its result are user values, which may panic when
//! dropped, in any thread.

use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use couplet::testing::{Manner, Memory};
use couplet::{Deferred, Loop, LoopOptions, Reactor};
use couplet_core::driver::Driver;

use crate::logged::logged;
use crate::pace::real_loop;
use crate::suite::peer::World;

/// Size of a driver's pool.
const THREADS: usize = 10;

/// A loop on each driver.
fn loops() -> [Loop; 3] {
    let memory: Box<dyn Driver> = Box::new(Memory::new(Manner::Readiness, 1).0);
    let sim = World::new(4096).1;
    let on = |driver| Loop::with_driver(driver, LoopOptions::default());
    [real_loop(), on(memory), on(sim)]
}

fn turn(l: &mut Loop) {
    l.turn(Some(Duration::ZERO)).expect("a turn");
}

/// Panics without printing a message to stderr.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

/// A job that has started, and waits for `go`.
struct Begun {
    job: Deferred<PanicsInDrop>,
    go: Sender<()>,
}

/// Occupies all threads of the pool with jobs whose results panic in their drop.
fn take_all_threads(l: &mut Loop) -> Vec<Begun> {
    let (begun, has_begun) = mpsc::channel();
    let jobs: Vec<Begun> = (0..THREADS)
        .map(|_| {
            let begun = begun.clone();
            let (go, may_go) = mpsc::channel();
            let job = l.reactor().defer_to_thread(move || {
                begun.send(())?;
                let _ = may_go.recv();
                Ok(PanicsInDrop)
            });
            Begun { job, go }
        })
        .collect();
    turn(l);
    for _ in 0..THREADS {
        has_begun.recv().expect("each job starts");
    }
    jobs
}

fn cancel<T: 'static>(job: Deferred<T>) {
    job.add_both(|_| Ok(())).cancel();
}

/// A job that panics if dropped before it runs, and a receiver for its start.
fn to_be_run(reactor: &Reactor) -> (Deferred<()>, Receiver<()>) {
    let (begun, has_begun) = mpsc::channel();
    let owned = PanicsInDrop;
    let job = reactor.defer_to_thread(move || {
        std::mem::forget(owned);
        Ok(begun.send(())?)
    });
    (job, has_begun)
}

fn a_job_still_runs(l: &mut Loop) {
    let last = l.reactor().defer_to_thread(|| Ok(7));
    assert_eq!(l.run_until(last).expect("it runs"), 7);
}

#[test]
fn c97_a_waiting_job_whose_drop_panics_can_be_cancelled() {
    let mut l = real_loop();
    let busy = take_all_threads(&mut l);
    let (job, has_begun) = to_be_run(&l.reactor());
    turn(&mut l);
    cancel(job);
    let ((), log) = logged(|| turn(&mut l));
    assert!(log.iter().any(|line| line.contains("a drop")), "{log:?}");
    assert!(has_begun.recv().is_err(), "it never starts");
    drop(busy);
    a_job_still_runs(&mut l);
}

#[test]
fn c97_a_job_whose_drop_panics_can_be_cancelled_on_every_driver() {
    for mut l in loops() {
        cancel(to_be_run(&l.reactor()).0);
        turn(&mut l);
        let (job, _) = to_be_run(&l.reactor());
        turn(&mut l);
        cancel(job);
        turn(&mut l);
        a_job_still_runs(&mut l);
    }
}

#[test]
fn c97_dropping_the_results_of_cancelled_jobs_costs_no_thread() {
    let mut l = real_loop();
    for Begun { job, go } in take_all_threads(&mut l) {
        cancel(job);
        turn(&mut l);
        drop(go);
    }
    a_job_still_runs(&mut l);
}

#[test]
fn c97_the_result_of_a_job_cancelled_after_its_run_may_panic_in_its_drop() {
    let mut l = real_loop();
    let mut busy = take_all_threads(&mut l);
    let (next, next_has_begun) = to_be_run(&l.reactor());
    turn(&mut l);
    let Begun { job, go } = busy.pop().expect("ten jobs");
    l.reactor().call_soon(move || {
        drop(go);
        // A thread that starts the next job has finished this one.
        next_has_begun.recv().expect("the next job starts");
        cancel(job);
    });
    let ((), log) = logged(|| turn(&mut l));
    assert!(log.iter().any(|line| line.contains("a drop")), "{log:?}");
    l.run_until(next).expect("it has run");
    drop(busy);
    a_job_still_runs(&mut l);
}

#[test]
fn c97_an_untaken_result_may_panic_in_its_drop() {
    for mut l in loops() {
        l.reactor().defer_to_thread(|| Ok(PanicsInDrop)).detach();
        drop(l.reactor().defer_to_thread(|| Ok(PanicsInDrop)));
        while l.snapshot().jobs > 0 {
            l.turn(None).expect("a turn");
        }
        a_job_still_runs(&mut l);
    }
}

#[test]
fn c97_jobs_that_never_begin_may_panic_in_their_drop_when_the_loop_is_dropped() {
    let mut l = real_loop();
    let busy = take_all_threads(&mut l);
    let jobs = [(); 2].map(|()| to_be_run(&l.reactor()));
    turn(&mut l);
    let fresh = to_be_run(&l.reactor());
    drop(l);
    for (_, has_begun) in jobs.into_iter().chain([fresh]) {
        assert!(has_begun.recv().is_err(), "it never starts");
    }
    drop(busy);
}
