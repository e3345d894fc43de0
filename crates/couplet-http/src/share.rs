//! [`Share`]: bounds the response bytes that a connection holds for a slow client.
//!
//! A response passes a piece of its body to hyper only in its turn. While the connection holds less
//! than its share, every response has its turn; above it, responses queue for a turn as pieces
//! leave. hyper and h2 hold a piece until the transport has taken it or its stream ends.
//!
//! Streams whose windows are closed can hold the whole share. So when no held piece can leave,
//! responses that hold nothing get a turn each, as far as the server's share allows.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::options::HttpOptions;
use couplet_core::Transport;

/// A connection's share once the server's share is used up, in bytes.
const LEAST: usize = 64 * 1024;

/// Minimum fetch in a turn, and by a response that holds nothing, in bytes.
const SMALL: usize = 2 * 1024;

/// A fetch takes up to one part in `PART` of the unused share.
const PART: usize = 16;

/// The share of a server, which its connections use together.
pub(super) struct Pool {
    most: usize,
    /// The share of each connection.
    each: usize,
    held: Cell<usize>,
}

impl Pool {
    pub(super) fn new(options: &HttpOptions) -> Rc<Pool> {
        let HttpOptions { max_unsent_of_all: most, max_unsent: each, .. } = *options;
        Rc::new(Pool { most, each, held: Cell::new(0) })
    }

    fn has_room(&self) -> bool {
        self.held.get() < self.most
    }
}

/// The share of one connection. The transport stores the number of bytes held.
pub(super) struct Share {
    transport: Transport,
    pool: Rc<Pool>,
    /// Created by the first wait: most connections need no queue.
    queue: OnceCell<Box<Queue>>,
}

#[derive(Default)]
struct Queue {
    /// Law 9: one place for each open request.
    waiting: RefCell<VecDeque<Rc<Place>>>,
    /// A place that was queued has its turn.
    is_granted: Cell<bool>,
    /// The connection has ended.
    is_over: Cell<bool>,
    /// Bytes that hyper copied from WebSockets: since the last call of `idle`, and before it.
    copied: Cell<[usize; 2]>,
}

/// The claim of one response to its connection's share.
#[derive(Default)]
pub(super) struct Claim {
    held: Cell<usize>,
    /// Created by the claim's first wait.
    place: OnceCell<Rc<Place>>,
}

/// A claim's place in the queue.
#[derive(Default)]
struct Place {
    standing: Cell<Standing>,
    holds_nothing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Away,
    Queued,
    /// It is the claim's turn.
    Granted,
}

impl Claim {
    fn standing(&self) -> Standing {
        self.place.get().map_or(Standing::Away, |place| place.standing.get())
    }

    fn set_held(&self, held: usize) {
        self.held.set(held);
        if let Some(place) = self.place.get() {
            place.holds_nothing.set(held == 0);
        }
    }
}

impl Share {
    pub(super) fn new(transport: &Transport, pool: &Rc<Pool>) -> Share {
        Share { transport: transport.clone(), pool: pool.clone(), queue: OnceCell::new() }
    }

    fn queue(&self) -> &Queue {
        self.queue.get_or_init(Box::default)
    }

    fn held(&self) -> usize {
        couplet_core::hooks::held(&self.transport)
    }

    /// Ready in the turn of this claim, which [`end_turn`](Self::end_turn) ends; otherwise queues
    /// the claim and wakes its task for the turn. Calls `queued` when the wait begins, because the
    /// connection may be [`idle`](Self::idle).
    #[inline]
    pub(super) fn poll_turn(
        &self,
        claim: &Claim,
        cx: &Context<'_>,
        queued: impl FnOnce(),
    ) -> Poll<()> {
        match claim.standing() {
            Standing::Granted => Poll::Ready(()),
            Standing::Away
                if self.has_room() && self.queue.get().is_none_or(|it| it.is_empty()) =>
            {
                Poll::Ready(())
            }
            standing => {
                self.wait(claim, cx);
                if standing == Standing::Away {
                    queued();
                }
                Poll::Pending
            }
        }
    }

    #[cold]
    fn wait(&self, claim: &Claim, cx: &Context<'_>) {
        let place = claim.place.get_or_init(Rc::default);
        let before = place.waker.replace(Some(cx.waker().clone()));
        drop(before);
        if place.standing.get() == Standing::Away {
            place.standing.set(Standing::Queued);
            place.holds_nothing.set(claim.held.get() == 0);
            self.queue().waiting.borrow_mut().push_back(place.clone());
            self.advance();
        }
    }

    /// Ends a turn, in which the claim may have begun to hold a piece. Returns true if queued
    /// claims wait for the connection to be idle.
    pub(super) fn end_turn(&self, claim: &Claim) -> bool {
        let Some(queue) = self.queue.get() else { return false };
        if let Some(place) = claim.place.get()
            && place.standing.get() == Standing::Granted
        {
            place.standing.set(Standing::Away);
            queue.is_granted.set(false);
        }
        self.advance();
        !queue.is_granted.get() && !queue.is_empty()
    }

    /// Removes a claim whose response is complete or dropped. Its pieces may still be held.
    pub(super) fn leave(&self, claim: &Claim) {
        let (Some(place), Some(queue)) = (claim.place.get(), self.queue.get()) else { return };
        match place.standing.replace(Standing::Away) {
            Standing::Away => {}
            Standing::Queued => queue.waiting.borrow_mut().retain(|one| !Rc::ptr_eq(one, place)),
            Standing::Granted => {
                queue.is_granted.set(false);
                self.advance();
            }
        }
    }

    pub(super) fn hold(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held.get() + count);
        self.set_held(self.held() + count);
    }

    pub(super) fn release(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held.get() - count);
        self.release_held(count);
    }

    /// Returns how many bytes a response may fetch, at most `most`: fewer as the share is used up.
    pub(super) fn fetched(&self, claim: &Claim, most: usize) -> usize {
        let rest = self.most().saturating_sub(self.held());
        let is_small = rest > 0 || claim.held.get() == 0 || claim.standing() == Standing::Granted;
        // Powers of two limit the number of sizes, so the allocator can reuse freed pieces.
        let part = (rest / PART).checked_ilog2().map_or(0, |power| 1 << power);
        most.min(if is_small { part.max(SMALL) } else { 0 })
    }

    /// Records that hyper copied bytes held for a WebSocket. hyper doesn't report when they leave.
    #[cfg(feature = "websocket")]
    pub(super) fn copied(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held.get() - count);
        let copied = &self.queue().copied;
        let [new, old] = copied.get();
        copied.set([new + count, old]);
    }

    /// Called when no output can leave although the transport has room: the streams' windows are
    /// closed.
    pub(super) fn idle(&self) {
        // Bytes that were copied before the previous call have left, or wait for a window.
        let Some(queue) = self.queue.get() else { return };
        let [new, old] = queue.copied.replace([0; 2]);
        queue.copied.set([0, new]);
        self.release_held(old);
        self.advance();
        if !queue.is_granted.get() && self.pool.has_room() {
            queue.grant(|place| place.holds_nothing.get());
        }
    }

    /// Ends the share with its connection. Wakes the queued responses, which get the reason from
    /// hyper.
    pub(super) fn end(&self) {
        let queue = self.queue();
        queue.is_over.set(true);
        let waiting = queue.waiting.take();
        for place in waiting {
            place.standing.set(Standing::Away);
            let waker = place.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn most(&self) -> usize {
        let each = self.pool.each;
        if self.pool.has_room() { each } else { each.min(LEAST) }
    }

    fn has_room(&self) -> bool {
        self.held() < self.most() || self.queue.get().is_some_and(|queue| queue.is_over.get())
    }

    fn set_held(&self, held: usize) {
        let pool = &self.pool;
        pool.held.set(pool.held.get() - self.held() + held);
        couplet_core::hooks::set_held(&self.transport, held);
    }

    fn release_held(&self, count: usize) {
        if count > 0 {
            self.set_held(self.held() - count);
            self.advance();
        }
    }

    /// Gives the first claim in the queue its turn, if there is room.
    fn advance(&self) {
        if let Some(queue) = self.queue.get()
            && !queue.is_granted.get()
            && self.has_room()
        {
            queue.grant(|_| true);
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn grant(&self, is_fit: impl Fn(&Place) -> bool) {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting.iter().position(|place| is_fit(place));
        let Some(place) = first.and_then(|at| waiting.remove(at)) else { return };
        drop(waiting);
        place.standing.set(Standing::Granted);
        self.is_granted.set(true);
        let waker = place.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_held(0);
    }
}
