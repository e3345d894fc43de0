//! The example `databases`: its pool, its cache and its pages, with real servers.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

mod cache;
mod pages;
mod pool;

#[path = "../../src/bin/databases/main.rs"]
#[allow(dead_code, reason = "its main takes its places from the command line")]
mod example;

use std::time::Duration;

use couplet::{Loop, Reactor, Result};
use couplet_testkit::needed;

/// Longer than any test takes; a test that reaches it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a task on a new loop, over real sockets.
fn run(task: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) {
    let mut l = Loop::new().expect("a loop");
    let reactor = l.reactor();
    let limited = async move { reactor.timeout(PATIENCE, task(reactor.clone())).await };
    let task = l.reactor().spawn(limited);
    l.run_until(task).expect("the task succeeds");
}
