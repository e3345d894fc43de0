//! What is fired by a drop waits in line while another drop fires. So a chain of drops of any
//! length (a dropped resolver fails a Deferred, whose callback owns the next resolver, …) runs
//! in constant stack.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::cancel;
use super::node::Node;
use super::semaphore::Line;

/// What a drop leaves to be done.
pub(super) enum Job {
    /// A resolver was dropped and had fired nothing.
    Orphaned(Rc<dyn Node>),
    /// A Deferred was dropped while it was being awaited.
    Abandoned(Rc<dyn Node>),
    /// A permit was dropped, and somebody waits for it.
    Freed(Rc<Line>),
}

impl Job {
    fn run(self) {
        match self {
            Self::Orphaned(node) => node.orphaned(),
            Self::Abandoned(node) => cancel::cancel(node),
            Self::Freed(line) => line.serve(),
        }
    }
}

thread_local! {
    static FIRING: Cell<bool> = const { Cell::new(false) };
    // No bound: each entry stands for something that lived and has been dropped.
    static LINE: RefCell<VecDeque<Job>> = const { RefCell::new(VecDeque::new()) };
}

/// The room that the line keeps when it is empty.
const SPARE: usize = 64;

/// Does `job`: now, or after those before it if a drop is firing already.
///
/// No job panics: all that users wrote is contained where it is called.
pub(super) fn fire(job: Job) {
    if FIRING.replace(true) {
        return stand_in_line(job);
    }
    job.run();
    while let Some(job) = next() {
        job.run();
    }
    let _ = LINE.try_with(|line| line.borrow_mut().shrink_to(SPARE));
    FIRING.set(false);
}

fn stand_in_line(job: Job) {
    let mut job = Some(job);
    let _ = LINE.try_with(|line| line.borrow_mut().extend(job.take()));
    // The thread is ending and its line has gone.
    if let Some(job) = job {
        job.run();
    }
}

fn next() -> Option<Job> {
    LINE.try_with(|line| line.borrow_mut().pop_front()).ok().flatten()
}
