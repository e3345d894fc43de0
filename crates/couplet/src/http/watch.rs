//! What a connection of a server is doing, and for how long it may.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::{Fault, Progress};
use super::options::HttpOptions;
use super::share::{Claim, Pool, Share};
use crate::{Address, DelayedCall, Transport};

/// The time between two looks at a connection that has something to do.
const LOOKS: Duration = Duration::from_secs(5);

/// No place: there are fewer connections.
const NOWHERE: u32 = u32::MAX;

/// After so long without a request, the client has read the last answer, or will not.
const SETTLED: Duration = Duration::from_secs(5);

/// The shortest piece of a body that is sent from where it lies, in bytes.
const LENT: usize = 8 * 1024;

/// The most pieces that are remembered.
const PIECES: usize = 32;

/// What is told to a client that takes too long over the head of its request.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Watches a connection: one timer, however many requests it carries.
pub(super) struct Watch {
    transport: Transport,
    options: Rc<HttpOptions>,
    is_http1: Cell<bool>,
    /// Requests whose answers are not complete.
    in_flight: Cell<usize>,
    /// How many of them have something for the client.
    offered: Cell<usize>,
    /// When the client last took some of that.
    taken: Cell<Instant>,
    /// The first bytes of a request have come, but not all of its head.
    in_head: Cell<bool>,
    /// When the wait for a request began, or the head.
    since: Cell<Instant>,
    /// Our end of the stream was shut.
    is_shut: Cell<bool>,
    /// Nothing of the last request's body is to come.
    is_read: Cell<bool>,
    /// No request has come.
    is_fresh: Cell<bool>,
    /// Its place among the connections whose buffers may be freed, or [`NOWHERE`].
    place: Cell<u32>,
    asked: Cell<Asked>,
    /// The client takes nothing, since when, and what waited for it then.
    blocked: Cell<Option<(Instant, usize)>>,
    bodies: RefCell<Vec<Reading>>,
    /// The bytes that it holds for its client.
    share: Share,
    /// Law 9: at most [`PIECES`].
    lent: RefCell<VecDeque<Bytes>>,
    end: Cell<End>,
    /// Counts the steps of HTTP/2 answers, to notice progress.
    steps: Cell<u16>,
    /// WebSockets on streams of HTTP/2.
    guests: Cell<u32>,
    timer: Cell<Option<DelayedCall>>,
    next_look: Cell<Instant>,
    task: RefCell<Option<Waker>>,
    /// For the WebSockets on it.
    #[cfg(feature = "websocket")]
    finishing: std::cell::OnceCell<crate::defer::DeferredEvent>,
}

/// The end of what the client sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    ToCome,
    /// It arrived, and h2 must not see it yet: it would drop the pending answers. With the steps of those at
    /// the last look.
    Held(Option<u16>),
    Passed,
}

/// A body that is being read.
struct Reading {
    progress: Arc<Progress>,
    pieces: usize,
    since: Instant,
}

/// What the connection's task is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    #[default]
    Nothing,
    /// To drop what it needs only during a request.
    Park,
    /// To end after the requests it has: HTTP/2's, which tells its client so.
    Finish,
}

impl Watch {
    pub(super) fn new(
        transport: &Transport,
        options: &Rc<HttpOptions>,
        pool: &Rc<Pool>,
    ) -> Rc<Watch> {
        let now = transport.reactor().now();
        let watch = Rc::new(Watch {
            transport: transport.clone(),
            options: options.clone(),
            is_http1: Cell::new(true),
            in_flight: Cell::new(0),
            offered: Cell::new(0),
            taken: Cell::new(now),
            in_head: Cell::new(false),
            since: Cell::new(now),
            is_shut: Cell::new(false),
            is_read: Cell::new(true),
            is_fresh: Cell::new(true),
            place: Cell::new(NOWHERE),
            asked: Cell::default(),
            blocked: Cell::default(),
            bodies: RefCell::default(),
            share: Share::new(transport, pool),
            lent: RefCell::default(),
            end: Cell::default(),
            steps: Cell::default(),
            guests: Cell::default(),
            timer: Cell::default(),
            next_look: Cell::new(now),
            task: RefCell::default(),
            #[cfg(feature = "websocket")]
            finishing: std::cell::OnceCell::new(),
        });
        watch.arm(now);
        watch
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The connection ends after the requests that it has.
    #[cfg(feature = "websocket")]
    pub(super) fn finish(&self) {
        self.finishing.get_or_init(Default::default).set();
    }

    /// Ready when the connection is to end.
    #[cfg(feature = "websocket")]
    pub(super) fn finishing(&self) -> impl Future<Output = ()> + use<> {
        let event = self.finishing.get_or_init(Default::default).clone();
        async move {
            let _ = event.wait().await;
        }
    }

    /// A request has come; its answer is complete when the exchange is dropped.
    pub(super) fn begin(self: &Rc<Self>, body: Option<Arc<Progress>>) -> Exchange {
        self.in_head.set(false);
        self.is_fresh.set(false);
        self.in_flight.set(self.in_flight.get() + 1);
        if let Some(progress) = &body {
            let mut bodies = self.bodies.borrow_mut();
            bodies.retain(|reading| Arc::strong_count(&reading.progress) > 1);
            let since = self.transport.reactor().now();
            bodies.push(Reading { progress: progress.clone(), pieces: 0, since });
            drop(bodies);
            self.look_soon();
        }
        Exchange {
            watch: self.clone(),
            body,
            is_ready: Cell::new(false),
            pieces: Cell::new(0),
            reserved: Cell::new(0),
            claim: Claim::default(),
        }
    }

    /// Bytes have come.
    #[inline]
    pub(super) fn received(&self) {
        if self.in_flight.get() == 0 && !self.in_head.replace(true) {
            self.since.set(self.transport.reactor().now());
        }
    }

    /// Whether what comes is a head, if the body before it was read.
    pub(super) fn awaits_head(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Whether the client takes what is written to it.
    #[inline]
    pub(super) fn set_blocked(self: &Rc<Self>, is_blocked: bool) {
        if is_blocked != self.blocked.get().is_some() {
            let now = || (self.transport.reactor().now(), self.transport.buffered());
            self.blocked.set(is_blocked.then(now));
            self.look_soon();
        }
    }

    /// The piece of a body in which these bytes lie.
    pub(super) fn lent(&self, bytes: &[u8]) -> Option<Bytes> {
        if bytes.len() < LENT {
            return None;
        }
        let part = bytes.as_ptr_range();
        let lent = self.lent.borrow();
        let is_part = |whole: &Range<*const u8>| whole.start <= part.start && part.end <= whole.end;
        let whole = lent.iter().find(|whole| is_part(&whole.as_ptr_range()))?;
        Some(whole.slice_ref(bytes))
    }

    /// Records the end of the client's stream. True if h2 must not see it yet.
    pub(super) fn holds_end(&self) -> bool {
        if self.is_http1.get() || self.end.get() == End::Passed {
            return false;
        }
        if self.end.get() == End::ToCome {
            self.end.set(End::Held(None));
        }
        true
    }

    /// h2 has done all that it can, and the transport has room. True if the end of the client's stream is
    /// due: h2 is to be polled again.
    pub(super) fn is_idle_in_h2(&self) -> bool {
        self.share.idle();
        let End::Held(before) = self.end.get() else { return false };
        for reading in &*self.bodies.borrow() {
            reading.progress.fail(Fault::Cut);
        }
        let answering = self.in_flight.get() - self.guests.get() as usize - self.offered.get();
        if answering > 0 {
            return false;
        }
        // The answers left wait for windows that stay closed, unless one moved since the last look.
        let steps = Some(self.steps.get());
        if self.in_flight.get() > 0 && before != steps {
            self.end.set(End::Held(steps));
            self.wake();
            return false;
        }
        self.end.set(End::Passed);
        true
    }

    /// A WebSocket begins or ends on a stream.
    #[cfg(feature = "websocket")]
    pub(super) fn set_guests(&self, change: impl FnOnce(u32) -> u32) {
        self.guests.set(change(self.guests.get()));
    }

    /// Whether the client takes nothing at present.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.get().is_some()
    }

    pub(super) fn max_headers(&self) -> usize {
        self.options.max_headers
    }

    /// The client's address, for services that are to know it.
    pub(super) fn peer(&self) -> Option<Address> {
        self.options.peer.then(|| self.transport.peer().clone())
    }

    pub(super) fn has_allowances(&self) -> bool {
        self.options.allowance
    }

    pub(super) fn set_http2(self: &Rc<Self>) {
        self.is_http1.set(false);
        self.look_soon();
    }

    /// hyper has ended our side of the stream.
    pub(super) fn shut(&self) {
        self.is_shut.set(true);
    }

    /// The connection was given something to do.
    fn look_soon(self: &Rc<Self>) {
        let now = self.transport.reactor().now();
        if self.next_look.get() > now + LOOKS {
            self.cancel_timer();
            self.arm(now);
        }
    }

    fn cancel_timer(&self) {
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
    }

    /// What the task is asked to do. It is woken when that changes.
    pub(super) fn asked(&self, cx: &Context<'_>) -> Asked {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        self.asked.get()
    }

    /// Whether nothing of a request is anywhere between the client and the service: then no state of the
    /// protocol is needed.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
            && !self.in_head.get()
            && self.is_read.get()
            && !self.is_shut.get()
            && self.blocked.get().is_none()
    }

    pub(super) fn place(&self) -> Option<usize> {
        let place = self.place.get();
        (place != NOWHERE).then_some(place as usize)
    }

    pub(super) fn set_place(&self, place: Option<usize>) {
        self.place.set(place.map_or(NOWHERE, |place| place as u32));
    }

    /// Asks the task to drop what it needs only during a request, if none has come for so long.
    pub(super) fn cool(&self, after: Duration) {
        if self.is_idle() && self.transport.reactor().now() >= self.since.get() + after {
            self.ask(Asked::Park);
        }
    }

    /// Nothing of a request is left.
    pub(super) fn park(&self) {
        self.asked.set(Asked::Nothing);
        self.bodies.take();
    }

    /// Whether no answer can be on its way to the client.
    pub(super) fn is_settled(&self) -> bool {
        self.is_fresh.get() || self.transport.reactor().now() >= self.since.get() + SETTLED
    }

    /// A drain has begun: the connection ends after its requests.
    pub(super) fn drain(self: &Rc<Self>) {
        let now = self.transport.reactor().now();
        self.asked.set(Asked::Finish);
        self.since.set(now);
        self.cancel_timer();
        self.arm(now);
    }

    /// The connection speaks another protocol from now on, or has ended.
    pub(super) fn stop(&self) {
        self.cancel_timer();
        self.share.end();
    }

    fn ask(&self, what: Asked) {
        self.asked.set(what);
        self.wake();
    }

    /// Wakes the connection's task.
    fn wake(&self) {
        let task = self.task.borrow().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn arm(self: &Rc<Self>, now: Instant) {
        let HttpOptions { header_timeout, keep_alive, body_timeout, write_timeout, .. } =
            *self.options;
        let often = header_timeout.min(keep_alive).min(body_timeout).min(write_timeout);
        let is_idle = self.is_http1.get() && self.is_idle();
        let often = if is_idle { often } else { often.min(LOOKS) };
        let often = self.transport.drain_patience().map_or(often, |patience| often.min(patience));
        // What began since the last look is due later than this; what began before may be due earlier.
        let next = self.due().map_or(often, |due| due.saturating_duration_since(now).min(often));
        let weak = Rc::downgrade(self);
        let call = self.transport.reactor().call_later(next, move || Watch::look(&weak));
        self.timer.set(Some(call));
        self.next_look.set(now + next);
    }

    fn look(weak: &Weak<Watch>) {
        let Some(watch) = weak.upgrade() else { return };
        let now = watch.transport.reactor().now();
        watch.timer.set(None);
        watch.look_at_bodies(now);
        if !watch.is_blocked() {
            watch.share.idle();
        }
        if watch.look_at_client(now) {
            watch.arm(now);
        }
    }

    /// The first time at which something is too late.
    fn due(&self) -> Option<Instant> {
        let blocked = self.blocked.get().map(|(since, _)| since + self.options.write_timeout);
        let offered = self.is_offering().then(|| self.taken.get() + self.options.write_timeout);
        let waits = (self.in_flight.get() == 0).then(|| self.since.get() + self.patience());
        let bodies = self.bodies.borrow();
        let bodies = bodies.iter().filter(|reading| reading.progress.awaited().is_some());
        let body = bodies.map(|reading| reading.since + self.options.body_timeout).min();
        [blocked, offered, waits, body].into_iter().flatten().min()
    }

    /// Whether an answer of HTTP/2 waits for a window: its bytes have not come as far as the transport,
    /// which says of others whether they are taken.
    fn is_offering(&self) -> bool {
        self.offered.get() > 0 && !self.is_http1.get() && self.blocked.get().is_none()
    }

    /// How long the client may take over what is its turn.
    fn patience(&self) -> Duration {
        let HttpOptions { header_timeout, keep_alive, .. } = *self.options;
        // The time to answer our GOAWAY.
        if let Some(patience) = self.transport.drain_patience().filter(|_| !self.is_http1.get()) {
            return patience.min(keep_alive);
        }
        if self.in_head.get() && self.is_http1.get() { header_timeout } else { keep_alive }
    }

    fn look_at_bodies(&self, now: Instant) {
        let mut late = Vec::new();
        self.bodies.borrow_mut().retain_mut(|reading| {
            let awaited = reading.progress.awaited();
            if awaited != Some(reading.pieces) {
                reading.pieces = awaited.unwrap_or(usize::MAX);
                reading.since = now;
            } else if now >= reading.since + self.options.body_timeout {
                late.push(reading.progress.clone());
                return false;
            }
            Arc::strong_count(&reading.progress) > 1
        });
        for progress in late {
            self.tell("a request broke off", &"no more of its body came in time");
            progress.fail(Fault::Late);
        }
    }

    /// False once there is nothing more to look at.
    fn look_at_client(&self, now: Instant) -> bool {
        if let Some((since, buffered)) = self.blocked.get() {
            let left = self.transport.buffered();
            if left != buffered {
                self.blocked.set(Some((now, left)));
            } else if now >= since + self.options.write_timeout {
                return self.abort();
            }
        }
        if self.is_offering() && now >= self.taken.get() + self.options.write_timeout {
            return self.abort();
        }
        if self.in_flight.get() > 0 {
            return true;
        }
        let waited = now.saturating_duration_since(self.since.get());
        if waited >= self.patience() {
            return self.give_up();
        }
        true
    }

    /// The client takes nothing.
    fn abort(&self) -> bool {
        self.tell("a connection was aborted", &"its client took nothing of an answer in time");
        self.transport.abort_connection();
        false
    }

    /// The client sends no request, or not all of one.
    fn give_up(&self) -> bool {
        if !self.is_http1.get() && self.asked.get() != Asked::Finish {
            self.ask(Asked::Finish);
            // The client may take as long again to agree.
            self.since.set(self.transport.reactor().now());
            return true;
        }
        // HTTP/2 has been told by its GOAWAY.
        if self.in_head.get() && self.is_http1.get() {
            self.tell("a request was refused", &"its head did not come in time");
            self.transport.write(TOO_SLOW);
        }
        // A client that was silent for so long does not answer the end of the stream either.
        self.transport.set_close_at_once(self.transport.is_draining());
        self.transport.lose_connection();
        false
    }

    pub(super) fn tell(&self, what: &'static str, why: &dyn Display) {
        let (connection, peer) = (self.transport.id(), self.transport.peer());
        tracing::debug!(%connection, %peer, %why, "{what}");
    }
}

/// A request, until its answer is complete.
pub(super) struct Exchange {
    watch: Rc<Watch>,
    body: Option<Arc<Progress>>,
    /// There may be more of the answer once the client has room: it is not the service's turn.
    is_ready: Cell<bool>,
    /// Those of the answer that hyper holds for the client.
    pieces: Cell<usize>,
    /// Bytes that are held for the next piece, which the service fetches.
    reserved: Cell<usize>,
    claim: Claim,
}

impl Exchange {
    /// Whether the answer waits for the client, rather than for the service.
    fn is_offered(&self) -> bool {
        self.is_ready.get() || self.pieces.get() > 0
    }

    fn change(&self, is_ready: bool, pieces: usize) {
        // The transport knows whether an answer of HTTP/1.1 is taken.
        if self.watch.is_http1.get() {
            return;
        }
        let (before, offered) = (self.is_offered(), &self.watch.offered);
        self.is_ready.set(is_ready);
        self.pieces.set(pieces);
        offered.set(offered.get() + usize::from(self.is_offered()) - usize::from(before));
        self.watch.steps.set(self.watch.steps.get().wrapping_add(1));
        self.watch.taken.set(self.watch.transport.reactor().now());
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.change(is_ready, self.pieces.get());
    }

    /// Ready in the turn of this answer to pass a piece to hyper; then its turn is to be ended.
    #[inline]
    pub(super) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        // It had its turn when it began to fetch the piece.
        if self.reserved.get() > 0 {
            return Poll::Ready(());
        }
        self.watch.share.poll_turn(&self.claim, cx, || self.watch.wake())
    }

    #[inline]
    pub(super) fn end_turn(&self) {
        if self.watch.share.end_turn(&self.claim) {
            self.watch.wake();
        }
    }

    /// Holds up to `most` bytes for the next piece, which the service is about to fetch; returns how many.
    pub(super) fn reserve(&self, most: usize) -> usize {
        self.end_reservation();
        let count = self.watch.share.fetched(&self.claim, most);
        self.hold(count);
        self.reserved.set(count);
        count
    }

    /// The piece has come, or will not.
    pub(super) fn end_reservation(&self) {
        let count = self.reserved.take();
        if count > 0 {
            self.release(count);
        }
    }

    /// No more of the answer follows.
    pub(super) fn leave(&self) {
        self.end_reservation();
        self.watch.share.leave(&self.claim);
    }

    pub(super) fn hold(&self, count: usize) {
        self.watch.share.hold(&self.claim, count);
    }

    pub(super) fn release(&self, count: usize) {
        self.watch.share.release(&self.claim, count);
    }

    /// hyper has copied `count` of the held bytes.
    #[cfg(feature = "websocket")]
    pub(super) fn copied(&self, count: usize) {
        self.watch.share.copied(&self.claim, count);
    }

    pub(super) fn add_piece(&self, piece: &Bytes) {
        self.hold(piece.len());
        self.lend(piece);
        self.change(self.is_ready.get(), self.pieces.get() + 1);
    }

    /// Releases a piece of `count` bytes; `rest` is its unsent part.
    pub(super) fn drop_piece(&self, count: usize, rest: &Bytes) {
        self.release(count);
        if count >= LENT {
            let end = rest.as_ptr_range().end;
            let mut lent = self.watch.lent.borrow_mut();
            let at = lent.iter().position(|whole| whole.as_ptr_range().end == end);
            let piece = at.and_then(|at| lent.remove(at));
            drop(lent);
            drop(piece);
        }
        self.change(self.is_ready.get(), self.pieces.get().saturating_sub(1));
    }

    /// The answer broke off, and its end would pass for that of a whole.
    pub(super) fn abort(&self) {
        self.watch.tell("a connection was aborted", &"its answer broke off");
        self.watch.transport.abort_connection();
    }

    /// The client has taken something.
    pub(super) fn moved(&self) {
        self.change(self.is_ready.get(), self.pieces.get());
    }

    /// Whether the body of the request has come to its end, without trailers.
    pub(super) fn has_plain_end(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.has_plain_end())
    }

    /// Remembers a piece of the answer, which can then be sent from where it lies.
    fn lend(&self, piece: &Bytes) {
        if piece.len() >= LENT {
            let mut lent = self.watch.lent.borrow_mut();
            let oldest = if lent.len() == PIECES { lent.pop_front() } else { None };
            lent.push_back(piece.clone());
            drop(lent);
            drop(oldest);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.change(false, 0);
        self.leave();
        let watch = &self.watch;
        if let Some(why) = self.body.as_ref().and_then(|body| body.broken()) {
            watch.tell("a request broke off", why);
        }
        watch.in_flight.set(watch.in_flight.get() - 1);
        if watch.in_flight.get() == 0 {
            watch.since.set(watch.transport.reactor().now());
            watch.is_read.set(self.body.as_ref().is_none_or(|body| body.has_ended()));
        }
        if matches!(watch.end.get(), End::Held(_)) {
            watch.wake();
        }
    }
}
