//! Calls into a loop from other threads, and tasks, compared with tokio's.
//!
//! `cargo bench -p couplet-core --bench threads`, or with `-- spawn` for the rows that contain `spawn`.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use couplet::Deferred;
use couplet_testkit::bench::rows::{row, timed};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{LocalSet, spawn_local};

const TIMES: u32 = 200_000;
/// Number of answers that a thread waits for, with two wake-ups each.
const ANSWERS: u32 = 10_000;

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn sum(times: u32) -> u64 {
    (1..=u64::from(times)).sum()
}

fn couplet_calls() {
    thread_local!(static CALLED: Cell<u64> = const { Cell::new(0) });
    CALLED.set(0);
    couplet::run(|reactor| {
        let remote = reactor.remote();
        let calling = move || {
            for n in 1..=TIMES {
                let call = move |reactor: &couplet::Reactor| {
                    CALLED.set(CALLED.get() + u64::from(n));
                    if n == TIMES {
                        reactor.stop();
                    }
                };
                remote.call(call).expect("the loop is there");
            }
        };
        thread::spawn(calling);
        Ok(())
    })
    .expect("it is stopped");
    assert_eq!(CALLED.get(), sum(TIMES));
}

fn tokio_calls() {
    tokio_runtime().block_on(async {
        let (sender, mut calls) = mpsc::unbounded_channel::<Box<dyn FnOnce(&mut u64) + Send>>();
        thread::spawn(move || {
            for n in 1..=TIMES {
                let call = Box::new(move |called: &mut u64| *called += u64::from(n));
                sender.send(call).map_err(drop).expect("it is received");
            }
        });
        let mut called = 0;
        // Ends when the sender is dropped.
        while let Some(call) = calls.recv().await {
            call(&mut called);
        }
        assert_eq!(called, sum(TIMES));
    });
}

fn couplet_answers() {
    couplet::run(|reactor| {
        let remote = reactor.remote();
        thread::spawn(move || {
            for n in 1..=ANSWERS {
                let answer = remote.block_on_reactor(move |_| Deferred::succeed(n));
                assert_eq!(answer.expect("the loop is there"), n);
            }
            remote.call(|reactor| reactor.stop())
        });
        Ok(())
    })
    .expect("it is stopped");
}

fn tokio_answers() {
    tokio_runtime().block_on(async {
        let (sender, mut calls) = mpsc::unbounded_channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || {
            for n in 1..=ANSWERS {
                let (answer, answered) = oneshot::channel();
                let call = Box::new(move || answer.send(n).expect("it is awaited"));
                sender.send(call).map_err(drop).expect("it is received");
                assert_eq!(answered.blocking_recv().expect("it is called"), n);
            }
        });
        while let Some(call) = calls.recv().await {
            call();
        }
    });
}

fn couplet_tasks() {
    let spawned = couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move {
            let sum = Rc::new(Cell::new(0));
            for n in 1..=TIMES {
                let sum = sum.clone();
                let task = async move {
                    sum.set(sum.get() + u64::from(black_box(n)));
                    Ok(())
                };
                inner.spawn(task).await?;
            }
            Ok(sum.get())
        })
    });
    assert_eq!(spawned.expect("it ends"), sum(TIMES));
}

fn tokio_tasks() {
    let local = LocalSet::new();
    local.block_on(&tokio_runtime(), async {
        let all = Rc::new(Cell::new(0));
        for n in 1..=TIMES {
            let all = all.clone();
            let task = async move { all.set(all.get() + u64::from(black_box(n))) };
            spawn_local(task).await.expect("it ends");
        }
        assert_eq!(all.get(), sum(TIMES));
    });
}

fn both(name: &str, times: u32, ours: (&str, fn()), theirs: (&str, fn())) {
    let [mut run_ours, mut run_theirs] =
        [ours.1, theirs.1].map(|run| move || -> Duration { timed(run) });
    row(name, times as usize, &mut [(ours.0, &mut run_ours), (theirs.0, &mut run_theirs)]);
}

fn main() {
    both(
        "a call from another thread",
        TIMES,
        ("Remote::call", couplet_calls),
        ("tokio, an unbounded channel of closures", tokio_calls),
    );
    both(
        "a call from another thread, which blocks for its answer",
        ANSWERS,
        ("Remote::block_on_reactor", couplet_answers),
        ("tokio, a channel of closures and oneshot::blocking_recv", tokio_answers),
    );
    both(
        "spawn a task and await it",
        TIMES,
        ("Reactor::spawn", couplet_tasks),
        ("tokio, spawn_local", tokio_tasks),
    );
}
