//! Backtraces of another thread. A separate process, because a signal handler is process-wide.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(unsafe_code, reason = "masks a signal of a thread")]

#[macro_use]
extern crate couplet_testkit;

use std::hint::black_box;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use couplet_os::backtrace::Thread;

/// Longer than an answer takes if each memory access is checked.
const LONG: Duration = Duration::from_secs(60);

static DONE: AtomicBool = AtomicBool::new(false);

/// Allocates continuously, so that most samples interrupt malloc; panics, so that some interrupt
/// the unwinder; and reads symbols, which takes the lock of the dynamic linker's list.
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
        let trace = other_thread.capture_within(LONG).expect("an answer");
        named += usize::from(trace.to_string().contains("backtrace::allocates"));
    }
    DONE.store(true, Ordering::SeqCst);
    other.join().expect("no panic");
    // The first samples may come before the call.
    assert!(named > 900, "{named} of 1000 name the function that runs");
    assert!(other_thread.capture().is_none(), "it has ended");
    assert!(Thread::current().expect("on this system").capture().is_none(), "not of itself");
}

/// Reads one byte, in one call.
#[inline(never)]
fn waits_for_a_byte(mut from: impl Read) -> std::io::Result<usize> {
    from.read(&mut [0])
}

#[test]
fn a_backtrace_does_not_interrupt_a_system_call() {
    let (from, mut to) = std::io::pipe().expect("a pipe");
    let (tell, told) = mpsc::channel();
    let other = thread::spawn(move || {
        tell.send(Thread::current().expect("on this system")).expect("it waits");
        waits_for_a_byte(from)
    });
    let other_thread: Thread = told.recv().expect("it runs");
    let waits = || other_thread.capture_within(LONG).expect("an answer").to_string();
    while !waits().contains("backtrace::waits_for_a_byte") {}
    // A read interrupted by a signal would end before the last of them.
    for _ in 0..100 {
        assert!(waits().contains("backtrace::waits_for_a_byte"));
    }
    to.write_all(b"x").expect("it is read");
    assert_eq!(other.join().expect("no panic").expect("not interrupted"), 1);
}

/// Blocks or unblocks SIGURG in this thread.
fn block(how: std::ffi::c_int) {
    // SAFETY: an all-zero set is a valid value, and the pointers are to one on this stack.
    unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGURG);
        assert_eq!(libc::pthread_sigmask(how, &raw const signals, std::ptr::null_mut()), 0);
    }
}

#[test]
fn a_thread_that_does_not_answer_keeps_no_other_from_it_and_answers_later() {
    /// A thread, the channel that lets it proceed, and the channel for its message afterwards.
    fn start(blocked: bool) -> (Thread, mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (tell, told) = mpsc::channel();
        let (let_go, waits) = mpsc::channel();
        let (says, said) = mpsc::channel();
        thread::spawn(move || {
            if blocked {
                block(libc::SIG_BLOCK);
            }
            tell.send(Thread::current().expect("on this system")).expect("it waits");
            let Ok(()) = waits.recv() else { return };
            // The signal of the withdrawn request arrives now.
            block(libc::SIG_UNBLOCK);
            says.send(()).expect("it waits");
            let _ = waits.recv();
        });
        (told.recv().expect("it runs"), let_go, said)
    }
    let (blocked, let_go, has_gone) = start(true);
    let (other, _keep, _) = start(false);
    assert!(blocked.capture().is_none());
    assert!(other.capture_within(LONG).is_some());
    let_go.send(()).expect("it waits");
    has_gone.recv().expect("it runs");
    assert!(blocked.capture_within(LONG).is_some());
}
