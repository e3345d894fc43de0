//! The memory of an inspected loop does not grow with its events.

use std::future::poll_fn;
use std::process::Command;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use couplet::defer::Failure;
use couplet::inspect::{Inspector, Recording, TableLimits};
use couplet::{Deferred, LoopOptions};
use couplet_testkit::processes::memory;

use crate::kit::Program;

/// Set in the process whose memory is measured.
const IS_CHILD: &str = "COUPLET_TEST_MEMORY";

/// Each poll of a task leaves two records: its begin and its end.
const POLLS: u64 = 5_000_000;

/// Tasks that run side by side.
const TASKS: u64 = 100;

/// The records of a ring of 16 MiB.
const RING: usize = 1024 * 1024;

/// Has the program poll tasks `polls` times, and waits for that. One poll in a hundred has a Deferred
/// with a failure that is handled.
fn poll_tasks(program: &Program, polls: u64) {
    let (done, waits) = mpsc::channel::<()>();
    program.call(move |reactor| {
        for _ in 0..TASKS {
            let (mut left, done) = (polls / TASKS, done.clone());
            let polls = poll_fn(move |context| {
                left -= 1;
                if left % 100 == 0 {
                    let (poem, resolver) = Deferred::<()>::new();
                    poem.map(drop).add_errback(|_| Ok(())).detach();
                    resolver.errback(Failure::msg("no poem"));
                }
                if left == 0 {
                    return Poll::Ready(Ok(()));
                }
                context.waker().wake_by_ref();
                Poll::Pending
            });
            let task = async move {
                let ended = polls.await;
                drop(done);
                ended
            };
            reactor.spawn(task).detach();
        }
    });
    // The senders are dropped.
    assert!(waits.recv().is_err());
}

fn events(program: &Program) -> usize {
    let recording = program.inspector.recording().expect("a loop is inspected");
    Recording::parse(&recording).expect("a recording").events()
}

#[test]
#[ignore = "measures; run it alone"]
fn c184_memory_is_fixed_over_ten_million_events() {
    if std::env::var_os(IS_CHILD).is_none() {
        // Other tests of this process need memory too.
        let mut alone = Command::new(std::env::current_exe().expect("a test has a path"));
        alone.args([
            "--ignored",
            "--exact",
            "memory::c184_memory_is_fixed_over_ten_million_events",
            "--nocapture",
        ]);
        let ended = alone.env(IS_CHILD, "1").output().expect("it starts");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        return;
    }
    // The tables are soon as large as they may be: 20 000 rows.
    let limits = TableLimits::default().interval(Duration::from_millis(10));
    let inspector = Inspector::at("0").tables(limits);
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |_| {});
    let at_first = memory("self", "RssAnon");
    poll_tasks(&program, 10 * TASKS);
    let records = events(&program);
    assert!(records as u64 >= 20 * TASKS, "{records}");
    // Until each page of the ring is used.
    poll_tasks(&program, POLLS / 5);
    let full = memory("self", "RssAnon");
    poll_tasks(&program, POLLS);
    let last = memory("self", "RssAnon");
    eprintln!("{at_first} KiB, {full} KiB with a full ring, {last} KiB after {POLLS} polls");
    assert!(last < at_first + 16 * 1024, "{at_first} KiB, then {last} KiB");
    assert!(last < full + 1024, "{full} KiB, then {last} KiB");
    let records = events(&program);
    assert!((RING - 10_000..=RING).contains(&records), "{records}");
}
