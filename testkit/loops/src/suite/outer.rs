//! A kit's outer loop: turns the loop under test only when the descriptor is readable or the due
//! time has come, and fails if neither announces pending work.
//!
//! Like other outer loops, it reads the due time after each turn, and not again before the next
//! turn: a request recorded in between must make the descriptor readable. Work that the driver does
//! not announce fails every test that waits for it.

use std::time::{Duration, Instant};

use couplet::Loop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::tap::Tapped;
use crate::PATIENCE;

#[derive(Default)]
pub struct Outer {
    /// The due time that the loop reported after the last turn.
    due: Option<Instant>,
}

impl Outer {
    /// Sleeps for at most the tap's nap; true if the descriptor or the due time asks for a turn.
    pub fn is_told(&self, l: &Loop, tapped: &Tapped) -> bool {
        let now = l.reactor().now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if is_due(self.due) || tapped.is_driver_due() || is_readable(l, tapped.nap.get()) {
            return true;
        }
        if is_due(l.next_turn()) {
            assert!(is_readable(l, PATIENCE), "work that neither descriptor nor due time told");
        }
        false
    }

    /// Makes the turn; false when the run has ended.
    pub fn turn(&mut self, l: &mut Loop, tapped: &Tapped) -> bool {
        let goes_on = l.turn(Some(Duration::ZERO)).expect("the driver does not fail");
        self.due = l.next_turn();
        tapped.note_wait(self.due);
        goes_on
    }
}

/// Whether the descriptor is readable within `time`.
pub fn is_readable(l: &Loop, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).expect("a short time");
    let descriptor = l.descriptor().expect("mio has one");
    let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout));
    ready.expect("an open descriptor") > 0
}
