//! [`ConnectionShare`]: bounds the response bytes that a connection holds for a slow client.
//!
//! A response passes on a piece of its body only in its turn. While the connection holds less
//! than its share, every response has its turn; above it, responses queue for a turn as pieces
//! leave. hyper, or the session of HTTP/2, holds a piece until the transport has taken it or its
//! stream ends.
//!
//! Streams whose windows are closed can hold the whole share. So when no held piece can leave,
//! responses that hold nothing get a turn each, as far as the server's share allows.
//!
//! Contract: 175a.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::options::HttpOptions;
use couplet_core::Transport;

/// A connection's share once the server's share is used up, in bytes.
const MIN_SHARE: usize = 64 * 1024;

/// Minimum fetch in a turn, in bytes.
const MIN_FETCH: usize = 2 * 1024;

/// A fetch takes up to one part in `FETCH_DIVISOR` of the unused share.
const FETCH_DIVISOR: usize = 4;

/// The options of a server, and the share that its connections use together.
pub(super) struct ServerShare {
    options: HttpOptions,
    held: Cell<usize>,
}

impl ServerShare {
    pub(super) fn new(options: HttpOptions) -> Rc<ServerShare> {
        Rc::new(ServerShare { options, held: Cell::new(0) })
    }

    pub(super) fn options(&self) -> &HttpOptions {
        &self.options
    }

    fn has_room(&self) -> bool {
        self.held.get() < self.options.max_unsent_of_all
    }
}

/// The share of one connection. The transport stores the number of bytes held.
pub(super) struct ConnectionShare {
    transport: Transport,
    server_share: Rc<ServerShare>,
    /// Created by the first wait: most connections need no queue.
    queue: OnceCell<Box<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: RefCell<VecDeque<Rc<QueueEntry>>>,
    turn: Cell<Turn>,
    /// Bytes that were copied from WebSockets: since the last call of `on_stall`, and before it.
    copied: Cell<[usize; 2]>,
}

/// Whether an entry that was queued has its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    #[default]
    Free,
    Granted,
    /// The connection has ended.
    Ended,
}

/// The claim of one response to its connection's share.
#[derive(Default)]
pub(super) struct Claim {
    /// Number of bytes held, until there is an entry.
    held: Cell<usize>,
    /// Created by the claim's first wait.
    entry: OnceCell<Rc<QueueEntry>>,
}

/// A claim's entry in the queue.
#[derive(Default)]
struct QueueEntry {
    state: Cell<ClaimState>,
    /// Number of bytes that the claim holds.
    held: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ClaimState {
    #[default]
    NotQueued,
    Queued,
    /// The claim has its turn.
    Granted,
}

impl Claim {
    fn state(&self) -> ClaimState {
        self.entry.get().map_or(ClaimState::NotQueued, |entry| entry.state.get())
    }

    /// Number of bytes held.
    fn held(&self) -> usize {
        self.held_cell().get()
    }

    fn set_held(&self, held: usize) {
        self.held_cell().set(held);
    }

    fn held_cell(&self) -> &Cell<usize> {
        self.entry.get().map_or(&self.held, |entry| &entry.held)
    }
}

impl ConnectionShare {
    pub(super) fn new(transport: &Transport, server_share: &Rc<ServerShare>) -> ConnectionShare {
        ConnectionShare {
            transport: transport.clone(),
            server_share: server_share.clone(),
            queue: OnceCell::new(),
        }
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    pub(super) fn options(&self) -> &HttpOptions {
        self.server_share.options()
    }

    fn queue(&self) -> &Queue {
        self.queue.get_or_init(Box::default)
    }

    fn held(&self) -> usize {
        couplet_core::hooks::held(&self.transport)
    }

    /// Ready in the turn of this claim, which [`end_turn`](Self::end_turn) ends; otherwise queues
    /// the claim and wakes its task for the turn. Calls `queued` when the wait begins, because the
    /// connection may be [`on_stall`](Self::on_stall).
    #[inline]
    pub(super) fn poll_turn(
        &self,
        claim: &Claim,
        cx: &Context<'_>,
        queued: impl FnOnce(),
    ) -> Poll<()> {
        match claim.state() {
            ClaimState::Granted => Poll::Ready(()),
            ClaimState::NotQueued
                if self.has_room() && self.queue.get().is_none_or(|it| it.is_empty()) =>
            {
                Poll::Ready(())
            }
            state => {
                self.queue_claim(claim, cx);
                if state == ClaimState::NotQueued {
                    queued();
                }
                Poll::Pending
            }
        }
    }

    #[cold]
    fn queue_claim(&self, claim: &Claim, cx: &Context<'_>) {
        let entry = claim.entry.get_or_init(|| {
            Rc::new(QueueEntry { held: claim.held.clone(), ..QueueEntry::default() })
        });
        let before = entry.waker.replace(Some(cx.waker().clone()));
        drop(before);
        if entry.state.get() == ClaimState::NotQueued {
            entry.state.set(ClaimState::Queued);
            self.queue().waiting.borrow_mut().push_back(entry.clone());
            self.grant_next();
        }
    }

    /// Ends a turn, in which the claim may have begun to hold a piece. Returns true if queued
    /// claims wait for the connection to be idle.
    pub(super) fn end_turn(&self, claim: &Claim) -> bool {
        let Some(queue) = self.queue.get() else { return false };
        if let Some(entry) = claim.entry.get()
            && entry.state.get() == ClaimState::Granted
        {
            entry.state.set(ClaimState::NotQueued);
            queue.end_turn();
        }
        self.grant_next();
        !queue.is_granted() && !queue.is_empty()
    }

    /// Removes a claim whose response is complete or dropped, although its pieces may still be held.
    pub(super) fn remove_claim(&self, claim: &Claim) {
        let (Some(entry), Some(queue)) = (claim.entry.get(), self.queue.get()) else { return };
        match entry.state.replace(ClaimState::NotQueued) {
            ClaimState::NotQueued => {}
            ClaimState::Queued => queue.waiting.borrow_mut().retain(|one| !Rc::ptr_eq(one, entry)),
            ClaimState::Granted => {
                queue.end_turn();
                self.grant_next();
            }
        }
    }

    pub(super) fn hold(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held() + count);
        self.set_held(self.held() + count);
    }

    pub(super) fn release(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held() - count);
        self.release_held(count);
    }

    /// Returns how many bytes a response may fetch, at most `most`: fewer as the share is used up,
    /// and then none except in its turn.
    pub(super) fn fetch_limit(&self, claim: &Claim, most: usize, in_turn: bool) -> usize {
        let rest = self.limit().saturating_sub(self.held());
        let may_fetch = in_turn || self.has_room() || claim.state() == ClaimState::Granted;
        // Powers of two limit the number of sizes, so the allocator can reuse freed pieces.
        let part = (rest / FETCH_DIVISOR).checked_ilog2().map_or(0, |power| 1 << power);
        most.min(if may_fetch { part.max(MIN_FETCH) } else { 0 })
    }

    /// Records that bytes held for a WebSocket were copied. The copy's end is not reported.
    #[cfg(feature = "websocket")]
    pub(super) fn note_copied(&self, claim: &Claim, count: usize) {
        claim.set_held(claim.held() - count);
        let copied = &self.queue().copied;
        let [new, old] = copied.get();
        copied.set([new + count, old]);
    }

    /// Called when no output can leave although the transport has room: the streams' windows are
    /// closed.
    pub(super) fn on_stall(&self) {
        // Bytes that were copied before the previous call have left, or wait for a window.
        let Some(queue) = self.queue.get() else { return };
        let [new, old] = queue.copied.replace([0; 2]);
        queue.copied.set([0, new]);
        self.release_held(old);
        self.grant_next();
        if !queue.is_granted() && self.server_share.has_room() {
            queue.grant(|entry| entry.held.get() == 0);
        }
    }

    /// Ends the share with its connection. Wakes the queued responses, which end with it.
    pub(super) fn end(&self) {
        let queue = self.queue();
        queue.turn.set(Turn::Ended);
        let waiting = queue.waiting.take();
        for entry in waiting {
            entry.state.set(ClaimState::NotQueued);
            let waker = entry.waker.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn limit(&self) -> usize {
        let each = self.options().max_unsent;
        if self.server_share.has_room() { each } else { each.min(MIN_SHARE) }
    }

    fn has_room(&self) -> bool {
        self.held() < self.limit()
            || self.queue.get().is_some_and(|queue| queue.turn.get() == Turn::Ended)
    }

    fn set_held(&self, held: usize) {
        let server_share = &self.server_share;
        server_share.held.set(server_share.held.get() - self.held() + held);
        couplet_core::hooks::set_held(&self.transport, held);
    }

    fn release_held(&self, count: usize) {
        if count > 0 {
            self.set_held(self.held() - count);
            self.grant_next();
        }
    }

    /// Gives the first claim in the queue its turn, if there is room.
    fn grant_next(&self) {
        if let Some(queue) = self.queue.get()
            && !queue.is_granted()
            && self.has_room()
        {
            queue.grant(|_| true);
        }
    }
}

impl Queue {
    fn is_granted(&self) -> bool {
        self.turn.get() == Turn::Granted
    }

    fn end_turn(&self) {
        if self.is_granted() {
            self.turn.set(Turn::Free);
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    fn grant(&self, is_fit: impl Fn(&QueueEntry) -> bool) {
        let mut waiting = self.waiting.borrow_mut();
        let first = waiting.iter().position(|entry| is_fit(entry));
        let Some(entry) = first.and_then(|at| waiting.remove(at)) else { return };
        drop(waiting);
        entry.state.set(ClaimState::Granted);
        self.turn.set(Turn::Granted);
        let waker = entry.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for ConnectionShare {
    fn drop(&mut self) {
        self.set_held(0);
    }
}

#[cfg(test)]
mod tests {
    use couplet_core::testing::hold;
    use couplet_core::{Protocol, Transport};

    use super::*;

    struct Nothing;

    impl Protocol for Nothing {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_claim_that_is_removed_leaves_its_place_to_the_next() {
        for is_granted in [false, true] {
            let held = hold(Nothing);
            let server_share = ServerShare::new(HttpOptions::default().max_unsent(64 * 1024));
            let share = ConnectionShare::new(&held.connection.transport(), &server_share);
            let [holder, first, second] = [(); 3].map(|()| Claim::default());
            let cx = Context::from_waker(Waker::noop());
            let has_turn = |claim: &Claim| share.poll_turn(claim, &cx, || ()).is_ready();
            share.hold(&holder, 64 * 1024);
            assert_eq!([&first, &second].map(has_turn), [false; 2]);
            // The first response is dropped while it waits, or after it was woken, before it is polled.
            if is_granted {
                share.release(&holder, 64 * 1024);
                share.remove_claim(&first);
            } else {
                share.remove_claim(&first);
                share.release(&holder, 64 * 1024);
            }
            assert!(has_turn(&second), "the turn is not kept, granted: {is_granted}");
        }
    }

    #[test]
    fn claims_have_their_turns_in_the_order_of_their_waits() {
        let held = hold(Nothing);
        let server_share = ServerShare::new(HttpOptions::default().max_unsent(64 * 1024));
        let share = ConnectionShare::new(&held.connection.transport(), &server_share);
        let (holder, claims) = (Claim::default(), [(); 4].map(|()| Claim::default()));
        let cx = Context::from_waker(Waker::noop());
        let has_turn = |n: usize| share.poll_turn(&claims[n], &cx, || ()).is_ready();
        share.hold(&holder, 64 * 1024);
        assert_eq!([0, 1, 2, 3].map(has_turn), [false; 4]);
        share.release(&holder, 64 * 1024);
        for turn in 0..12 {
            let has_turns = [0, 1, 2, 3].map(has_turn);
            assert_eq!(has_turns, std::array::from_fn(|n| n == turn % 4), "{turn}");
            share.end_turn(&claims[turn % 4]);
            assert!(!has_turn(turn % 4), "it waits for the others");
        }
    }

    #[test]
    fn a_connection_that_ends_returns_its_part_of_the_servers_share() {
        let held = hold(Nothing);
        let server_share = ServerShare::new(HttpOptions::default().max_unsent_of_all(64 * 1024));
        let share = ConnectionShare::new(&held.connection.transport(), &server_share);
        share.hold(&Claim::default(), 64 * 1024);
        assert!(!server_share.has_room());
        drop(share);
        assert!(server_share.has_room());
    }

    #[test]
    fn a_fetch_takes_a_quarter_of_the_rest() {
        let held = hold(Nothing);
        let server_share = ServerShare::new(HttpOptions::default().max_unsent(64 * 1024));
        let share = ConnectionShare::new(&held.connection.transport(), &server_share);
        let (first, second) = (Claim::default(), Claim::default());
        assert_eq!(share.fetch_limit(&first, 1000, false), 1000);
        assert_eq!(share.fetch_limit(&first, usize::MAX, false), 16 * 1024);
        share.hold(&first, 32 * 1024);
        assert_eq!(share.fetch_limit(&first, usize::MAX, false), 8 * 1024);
        share.hold(&first, 32 * 1024);
        let limits = [false, true].map(|in_turn| share.fetch_limit(&second, usize::MAX, in_turn));
        assert_eq!(limits, [0, MIN_FETCH]);
        share.release(&first, 64 * 1024);
    }

    /// The limit of a connection while the server's share has room, and once it is used up.
    #[test]
    fn a_connection_without_the_servers_share_holds_the_minimum_or_its_own_limit() {
        const K: usize = 1024;
        let rows = [(16 * K, 16 * K), (64 * K, 64 * K), (65 * K, 64 * K), (384 * K, 64 * K)];
        for (each, least) in rows {
            let held = hold(Nothing);
            let options = HttpOptions::default().max_unsent(each).max_unsent_of_all(1024 * K);
            let server_share = ServerShare::new(options);
            let transport = held.connection.transport();
            let share = ConnectionShare::new(&transport, &server_share);
            // Twice: the limit returns with the room.
            for _ in 0..2 {
                server_share.held.set(1024 * K - 1);
                assert_eq!(share.limit(), each);
                server_share.held.set(1024 * K);
                assert_eq!(share.limit(), least, "of {each}");
            }
            server_share.held.set(0);
        }
    }
}
