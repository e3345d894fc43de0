//! A program that handles SIGURG itself has no backtraces and keeps its handler. A separate
//! process, because handlers are process-wide.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(unsafe_code, reason = "installs a handler of a signal")]

#[macro_use]
extern crate couplet_testkit;

use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use couplet_os::backtrace::Thread;

static CALLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn counts(_: c_int) {
    CALLED.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_program_with_a_sigurg_handler_keeps_it_and_has_no_backtraces() {
    // SAFETY: the handler only counts.
    let before = unsafe { libc::signal(libc::SIGURG, counts as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    let (tell, told) = mpsc::channel();
    let (let_go, waits) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        tell.send(Thread::current().expect("on this system")).expect("it waits");
        waits.recv()
    });
    let other_thread: Thread = told.recv().expect("it runs");
    assert!(other_thread.capture().is_none());
    assert_eq!(CALLED.load(Ordering::SeqCst), 0, "the thread is not interrupted");
    drop(let_go);
    assert!(other.join().expect("no panic").is_err());
    // SAFETY: no precondition; the handler only counts.
    assert_eq!(unsafe { libc::raise(libc::SIGURG) }, 0);
    assert_eq!(CALLED.load(Ordering::SeqCst), 1);
}
