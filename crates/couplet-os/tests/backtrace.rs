//! Backtraces of another thread. A separate process, because the handler of a signal is process-wide.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use couplet_os::backtrace::Thread;

static DONE: AtomicBool = AtomicBool::new(false);

/// Allocates all the time, so that most samples fall into malloc; panics, so that some fall into the
/// unwinder; and reads symbols, which takes the lock of the dynamic linker's list.
#[inline(never)]
fn allocates() {
    while !DONE.load(Ordering::SeqCst) {
        for size in 1..100 {
            black_box(vec![0_u8; size * 1000]);
        }
        let panicked = std::panic::catch_unwind(|| std::panic::resume_unwind(Box::new(1)));
        assert!(panicked.is_err());
        drop(black_box(std::backtrace::Backtrace::force_capture()));
    }
}

#[test]
fn a_thread_in_malloc_and_in_the_unwinder_survives_a_thousand_backtraces() {
    let (tell, told) = mpsc::channel();
    let other = thread::spawn(move || {
        tell.send(Thread::current().expect("on this system")).expect("it waits");
        allocates();
    });
    let other_thread: Thread = told.recv().expect("it runs");
    let mut named = 0;
    for _ in 0..1000 {
        let trace = other_thread.capture().expect("an answer");
        named += usize::from(trace.to_string().contains("backtrace::allocates"));
    }
    DONE.store(true, Ordering::SeqCst);
    other.join().expect("no panic");
    // The first may come before the call.
    assert!(named > 900, "{named} of 1000 name the function that runs");
    assert!(other_thread.capture().is_none(), "it has ended");
    assert!(Thread::current().expect("on this system").capture().is_none(), "not of itself");
}
