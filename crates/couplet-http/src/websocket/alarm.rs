//! [`Alarm`]: the one timer of a WebSocket.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

use couplet_core::{DelayedCall, Reactor};

/// Wakes the task that polls the WebSocket, no later than a deadline. Postponing the deadline, as
/// every message does, costs nothing until the alarm fires.
#[derive(Default)]
pub(super) struct Alarm {
    waker: Rc<RefCell<Option<Waker>>>,
    call: Option<(Instant, DelayedCall)>,
}

impl Alarm {
    /// Ensures that the task is woken at `at` or earlier.
    pub(super) fn set(&mut self, reactor: &Reactor, at: Instant, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            let before = waker.replace(cx.waker().clone());
            drop(waker);
            drop(before);
        } else {
            drop(waker);
        }
        // The call was made.
        self.call.take_if(|(_, call)| !call.active());
        if self.call.as_ref().is_some_and(|(due, _)| *due <= at) {
            return;
        }
        self.cancel();
        let waker = self.waker.clone();
        let delay = at.saturating_duration_since(reactor.now());
        self.call = Some((at, reactor.call_later(delay, move || wake(&waker))));
    }

    fn cancel(&mut self) {
        if let Some((_, call)) = self.call.take() {
            call.cancel();
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.cancel();
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}
