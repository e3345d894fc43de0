//! Calls into a loop from other threads, and tasks, beside tokio's: nanoseconds each, the best of
//! several rounds.
//!
//! `cargo bench -p couplet --bench threads`

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

const TIMES: u32 = 300_000;

fn best(what: &str, run: impl Fn()) {
    let best = (0..9)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{best:8.1} ns  {what}");
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn couplet_calls() {
    couplet::run(|reactor| {
        let remote = reactor.remote();
        let calling = move || {
            for n in 1..=TIMES {
                let call = move |reactor: &couplet::Reactor| {
                    if black_box(n) == TIMES {
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
}

fn tokio_calls() {
    tokio_runtime().block_on(async {
        let (sender, mut calls) = mpsc::unbounded_channel::<Box<dyn FnOnce() -> bool + Send>>();
        thread::spawn(move || {
            for n in 1..=TIMES {
                let call = Box::new(move || black_box(n) == TIMES);
                sender.send(call).map_err(drop).expect("it is received");
            }
        });
        while let Some(call) = calls.recv().await {
            if call() {
                break;
            }
        }
    });
}

fn couplet_tasks() {
    couplet::run_until(|reactor| {
        let inner = reactor.clone();
        reactor.spawn(async move {
            let sum = Rc::new(Cell::new(0));
            for n in 0..TIMES {
                let sum = sum.clone();
                let task = async move {
                    sum.set(sum.get() ^ black_box(n));
                    Ok(())
                };
                inner.spawn(task).await?;
            }
            Ok(sum.get())
        })
    })
    .expect("it ends");
}

fn tokio_tasks() {
    let local = LocalSet::new();
    local.block_on(&tokio_runtime(), async {
        let sum = Rc::new(Cell::new(0));
        for n in 0..TIMES {
            let sum = sum.clone();
            spawn_local(async move { sum.set(sum.get() ^ black_box(n)) }).await.expect("it ends");
        }
        black_box(sum.get());
    });
}

fn main() {
    best("Remote::call, one thread to another", couplet_calls);
    best("tokio: an unbounded channel of closures", tokio_calls);
    best("spawn and await, one after another", couplet_tasks);
    best("tokio: spawn_local and await", tokio_tasks);
}
