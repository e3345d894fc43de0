//! Streams and tasks leak nothing: no memory, no task, no connection. A separate binary, because it
//! installs a counting allocator.

#[macro_use]
extern crate couplet_testkit;

use std::cell::Cell;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::{Cancelled, list};
use couplet::testing::{Manner, Memory, Network};
use couplet::{Deferred, Loop, LoopOptions, Reactor, Result, Stream};
use couplet_testkit::counting;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Concurrent streams.
const WAVE: usize = 1000;
/// After this number of waves or rounds, all caches are allocated.
const WARM: usize = 3;
/// Number of streams in each mode of the driver, both ends counted.
const STREAMS: usize = 100_000;
const ROUNDS: usize = 1_000_000;

fn in_memory(manner: Manner) -> (Loop, Network) {
    let (driver, network) = Memory::new(manner, 5);
    (Loop::with_driver(driver, LoopOptions::default()), network)
}

/// Counts bytes on the heap, the loop's tasks and connections, and the driver's slots.
fn inventory(l: &mut Loop, network: &Network) -> (isize, usize, usize, usize) {
    let snapshot = l.snapshot();
    let counts = (snapshot.tasks, snapshot.connections.len());
    drop(snapshot);
    (counting::live(), counts.0, counts.1, network.slots_in_use())
}

fn settle(l: &mut Loop) {
    for _ in 0..20 {
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
    }
}

/// Sends a line and reads the answer; then closes, half-closes or aborts, depending on `n`.
async fn ask(reactor: Reactor, port: String, n: usize) -> Result<()> {
    let mut stream = reactor.connect_stream(port).await?;
    stream.write_all(format!("{n}\n")).await?;
    match n % 3 {
        0 => {
            let line = stream.read_line().await?;
            assert_eq!(line, Some(n.to_string().into_bytes()));
            Ok(stream.close().await?)
        }
        1 => {
            let (mut reads, mut writes) = stream.split();
            writes.shutdown().await?;
            let mut answer = Vec::new();
            reads.read_to_end(&mut answer, 100).await?;
            assert_eq!(answer, format!("{n}\n").into_bytes());
            Ok(())
        }
        _ => {
            let line = stream.read_line().await?;
            assert_eq!(line, Some(n.to_string().into_bytes()));
            stream.abort();
            Ok(())
        }
    }
}

async fn echo_lines(mut stream: Stream) -> Result<()> {
    while let Some(mut line) = stream.read_line().await? {
        line.push(b'\n');
        stream.write_all(line).await?;
    }
    Ok(stream.close().await?)
}

#[test]
#[ignore = "measures; run it alone"]
fn a_hundred_thousand_streams_leave_nothing() {
    for manner in [Manner::Readiness, Manner::Completion] {
        let (mut l, network) = in_memory(manner);
        let reactor = l.reactor();
        let port = reactor.serve("tcp:0:interface=127.0.0.1:backlog=1000", echo_lines);
        let port = port.expect("a free port").host().to_string();
        let mut wave = || {
            let asked = (0..WAVE).map(|n| reactor.spawn(ask(reactor.clone(), port.clone(), n)));
            for asked in l.run_until(list(asked)).expect("a list does not fail") {
                asked.expect("an answer");
            }
            settle(&mut l);
            inventory(&mut l, &network)
        };
        let before = (0..WARM).map(|_| wave()).last().expect("some waves");
        let after = (0..STREAMS / 2 / WAVE).map(|_| wave()).last().expect("some waves");
        assert_eq!(after, before, "{manner:?}: heap, tasks, connections, slots");
        assert_eq!((after.1, after.2), (0, 0));
    }
}

/// Counts dropped futures.
struct Dropped(Rc<Cell<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn a_million_tasks_that_are_cancelled_leave_nothing() {
    let (mut l, network) = in_memory(Manner::Readiness);
    let (reactor, dropped) = (l.reactor(), Rc::<Cell<usize>>::default());
    let mut round = |n: usize| {
        let tasks: Vec<Deferred<()>> = (0..WAVE)
            .map(|_| {
                let dropped = Dropped(dropped.clone());
                reactor.spawn(async move {
                    let _dropped = dropped;
                    pending().await
                })
            })
            .collect();
        // Every other wave is cancelled before its first poll.
        if n.is_multiple_of(2) {
            l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        }
        for task in tasks {
            task.cancel();
            let failure = couplet::testing::failure_of(task);
            assert!(failure.downcast_ref::<Cancelled>().is_some(), "{failure}");
        }
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        inventory(&mut l, &network)
    };
    let before = (0..WARM).map(&mut round).last().expect("some rounds");
    let after = (0..ROUNDS / WAVE).map(&mut round).last().expect("some rounds");
    assert_eq!(dropped.get(), ROUNDS + WARM * WAVE);
    assert_eq!(after, before, "heap, tasks, connections, slots");
    assert_eq!(after.1, 0);
}

/// Drops reads repeatedly while the connection stays.
#[test]
#[ignore = "measures; run it alone"]
fn a_million_reads_that_are_dropped_leave_nothing() {
    let (mut l, _network) = in_memory(Manner::Readiness);
    let reactor = l.reactor();
    let held = reactor.serve("tcp:0:interface=127.0.0.1", async |_stream| pending().await);
    let port = held.expect("a free port").host().to_string();
    let connecting = reactor.connect_stream(port);
    let mut stream = l.run_until(connecting).expect("the port listens");
    let before = std::cell::OnceCell::new();
    let task = reactor.spawn(async move {
        for n in 0..ROUNDS {
            if n == WARM {
                before.set(counting::live()).expect("once");
            }
            let mut buffer = [0; 100];
            let mut reading = std::pin::pin!(stream.read(&mut buffer));
            std::future::poll_fn(|cx| {
                assert!(reading.as_mut().poll(cx).is_pending(), "nothing has arrived");
                std::task::Poll::Ready(())
            })
            .await;
        }
        Ok(counting::live() - before.get().expect("it is set"))
    });
    assert_eq!(l.run_until(task).expect("no read fails"), 0, "bytes more");
}
