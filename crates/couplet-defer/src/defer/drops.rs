//! Queues work triggered by a drop while another drop is being processed. A chain of drops of any
//! length (a dropped resolver fails a Deferred, whose callback owns the next resolver, …) thus runs
//! in constant stack.
//!
//! Contract: 112.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::cancel;
use super::node::Node;

/// Work that a drop triggers.
pub(super) enum DropWork {
    /// A resolver was dropped before it fired.
    Orphaned(Rc<dyn Node>),
    /// A Deferred was dropped while it was being awaited.
    Abandoned(Rc<dyn Node>),
    /// A permit, or the claim to an item of a queue, was dropped while others waited.
    Freed(Rc<dyn Serve>),
}

/// A semaphore or a queue.
pub(super) trait Serve {
    /// Hands free tokens or items to waiters.
    fn serve(self: Rc<Self>);
}

impl DropWork {
    fn run(self) {
        match self {
            Self::Orphaned(node) => node.orphaned(),
            Self::Abandoned(node) => cancel::cancel(node),
            Self::Freed(freed) => freed.serve(),
        }
    }
}

thread_local! {
    static FIRING: Cell<bool> = const { Cell::new(false) };
    // Unlimited: each entry stands for an object that existed and was dropped.
    static QUEUE: RefCell<VecDeque<DropWork>> = const { RefCell::new(VecDeque::new()) };
}

/// The capacity that the queue keeps when it is empty.
const SPARE: usize = 64;

/// Runs `job` now, or after the queued jobs if another drop is being processed.
///
/// No job panics: user code is contained where it is called.
pub(super) fn fire(job: DropWork) {
    if FIRING.replace(true) {
        return enqueue(job);
    }
    job.run();
    while let Some(job) = next() {
        job.run();
    }
    let _ = QUEUE.try_with(|queue| queue.borrow_mut().shrink_to(SPARE));
    FIRING.set(false);
}

fn enqueue(job: DropWork) {
    let mut job = Some(job);
    let _ = QUEUE.try_with(|queue| queue.borrow_mut().extend(job.take()));
    // The thread is ending and its queue has been destroyed.
    if let Some(job) = job {
        job.run();
    }
}

fn next() -> Option<DropWork> {
    QUEUE.try_with(|queue| queue.borrow_mut().pop_front()).ok().flatten()
}
