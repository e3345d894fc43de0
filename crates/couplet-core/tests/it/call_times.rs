//! The times of calls into user code.

use std::time::{Duration, Instant};

use couplet::{Address, Loop, LoopOptions, Protocol, Transport};

use couplet_testkit_loops::doubles::Quiet;

use crate::suite::kit::{READINESS, s};
use crate::suite::recorder::{On, Script};

/// Keeps the loop busy for each byte that it receives.
struct Busy;

const TIME: Duration = Duration::from_millis(5);

#[expect(clippy::disallowed_methods, reason = "the loop's time stands still while it is busy")]
fn be_busy() {
    let began = Instant::now();
    while began.elapsed() < TIME {}
}

impl Protocol for Busy {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        be_busy();
        transport.lose_connection();
    }
}

/// The loop, after it has served a connection, a timed call and a task that take their time.
fn after_slow_calls(options: LoopOptions) -> Loop {
    let mut l = Loop::with_options(options).expect("a loop");
    let reactor = l.reactor();
    let port = reactor.listen("localhost:0", || Busy).expect("a port");
    reactor.call_later(Duration::ZERO, be_busy);
    let program = async move {
        be_busy();
        let mut client = reactor.connect_stream(port.host().to_string()).await?;
        client.write_all("a").await?;
        client.read_to_end(&mut Vec::new(), 1).await?;
        Ok(())
    };
    let task = l.reactor().spawn(program);
    l.run_until(task).expect("it succeeds");
    l
}

#[test]
fn each_slow_call_is_in_its_bucket() {
    let mut l = after_slow_calls(LoopOptions::default().tune(|it| it.time_calls(true)));
    let calls = l.snapshot().calls;
    let slow: u64 =
        calls.buckets().filter(|(limit, _)| *limit > TIME).map(|(_, count)| count).sum();
    // On a busy machine others may be slow too.
    assert!(slow >= 3, "a callback, a timed call and a task: {calls:?}");
    assert!(calls.count() > slow && calls.total() >= 3 * TIME, "{calls:?}");
}

#[test]
fn calls_are_not_timed_unless_the_options_say_so() {
    let mut l = after_slow_calls(LoopOptions::default());
    assert_eq!(l.snapshot().calls.count(), 0);
}

#[test]
fn a_call_inside_a_call_is_a_part_of_it() {
    let mut l =
        Loop::with_options(LoopOptions::default().tune(|it| it.time_calls(true))).expect("a loop");
    l.reactor().listen("localhost:0", || Quiet).expect("a port");
    let before = l.snapshot().calls.count();
    l.turn(Some(Duration::ZERO)).expect("a turn");
    // The start of the port calls `do_start`.
    assert_eq!(l.snapshot().calls.count(), before + 1);
}

fn timed() -> LoopOptions {
    LoopOptions::default().tune(|it| it.time_calls(true))
}

#[test]
fn the_time_of_a_call_includes_all_calls_inside_it() {
    let mut rig = READINESS.options(timed).rig();
    for round in 1..=2 {
        let (a, peer, clock) = (rig.end(), rig.peer_port(), rig.tapped.clone());
        let made = clock.clone();
        let script = Script::new().once(On::Made, move |_| made.pass(s(2)));
        let mut protocol = Some(a.plays(script));
        // Both calls are made inside the call of the connect.
        let build = move |_: &Address| {
            clock.pass(s(1));
            protocol.take()
        };
        rig.connect_with(peer.address(), build);
        rig.until("connection_made", || a.is_made());
        assert_eq!(rig.l.snapshot().calls.total(), 3 * round * s(1));
    }
}
