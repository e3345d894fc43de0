//! A loop's inbox for other threads, model-checked by loom over every interleaving: no call and no
//! wake-up is lost.

#[macro_use]
extern crate couplet_testkit;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(super) use loom::sync::{Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[path = "../src/reactor/inbox.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test uses a part")]
mod inbox;

use inbox::Inbox;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

/// An inbox, and the wake-up flag of the driver that may be sleeping behind it.
struct Loop {
    inbox: Inbox<u8, u8>,
    rung: AtomicBool,
}

impl Loop {
    fn new() -> Arc<Loop> {
        Arc::new(Loop { inbox: Inbox::new(), rung: AtomicBool::new(false) })
    }

    fn wake(&self, task: u8) {
        if self.inbox.wake(task) {
            self.rung.store(true, Ordering::Release);
        }
    }

    fn call(&self, call: u8) -> bool {
        let taken = self.inbox.call(call);
        if taken == Ok(true) {
            self.rung.store(true, Ordering::Release);
        }
        taken.is_ok()
    }

    /// The part of a turn that drains the inbox.
    fn turn(&self, seen: &mut Vec<u8>) {
        if self.inbox.has_items() {
            seen.extend(self.inbox.take_calls());
            self.inbox.take_woken(seen);
        }
    }

    /// Turns until it would sleep with no wake-up pending.
    fn turn_until_asleep(&self, seen: &mut Vec<u8>) {
        while self.rung.swap(false, Ordering::AcqRel) || self.inbox.has_items() {
            self.turn(seen);
        }
    }
}

#[test]
fn c96_no_wake_up_and_no_call_is_lost() {
    loom::model(|| {
        let l = Loop::new();
        let (waking, calling) = (l.clone(), l.clone());
        let waker = thread::spawn(move || waking.wake(1));
        let caller = thread::spawn(move || assert!(calling.call(2)));
        let mut seen = Vec::new();
        l.turn(&mut seen);
        waker.join().unwrap();
        caller.join().unwrap();
        l.turn_until_asleep(&mut seen);
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    });
}

#[test]
fn c96_calls_of_one_thread_come_in_order() {
    loom::model(|| {
        let l = Loop::new();
        let calling = l.clone();
        let caller = thread::spawn(move || assert!(calling.call(1) && calling.call(2)));
        let mut seen = Vec::new();
        l.turn(&mut seen);
        caller.join().unwrap();
        l.turn_until_asleep(&mut seen);
        assert_eq!(seen, [1, 2]);
    });
}

#[test]
fn c96_a_call_while_the_loop_is_dropped_is_refused_or_found() {
    loom::model(|| {
        let l = Loop::new();
        let calling = l.clone();
        let caller = thread::spawn(move || calling.call(1));
        let left = l.inbox.close();
        let taken = caller.join().unwrap();
        assert_eq!(taken, left.len() == 1, "{taken} {left:?}");
        assert!(l.inbox.take_calls().is_empty());
    });
}
