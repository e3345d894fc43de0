//! What a connection of a server is doing, and for how long it may.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::body::Progress;
use super::options::HttpOptions;
use crate::{Address, DelayedCall, Transport};

/// A connection that has had nothing to do for so long gives its buffers back.
const PARKED_AFTER: Duration = Duration::from_secs(5);

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
    /// The protocol's state was dropped, because there was nothing in it.
    is_parked: Cell<bool>,
    /// Nothing of the last request's body is to come.
    is_read: Cell<bool>,
    asked: Cell<Asked>,
    /// The client takes nothing, since when, and what waited for it then.
    blocked: Cell<Option<(Instant, usize)>>,
    bodies: RefCell<Vec<Reading>>,
    /// Law 9: at most [`PIECES`].
    lent: RefCell<VecDeque<Bytes>>,
    timer: Cell<Option<DelayedCall>>,
    next_look: Cell<Instant>,
    task: RefCell<Option<Waker>>,
    /// For the WebSockets on it.
    #[cfg(feature = "websocket")]
    finishing: crate::defer::DeferredEvent,
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
    pub(super) fn new(transport: &Transport, options: &Rc<HttpOptions>) -> Rc<Watch> {
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
            // Most begin with a request.
            is_parked: Cell::new(false),
            is_read: Cell::new(true),
            asked: Cell::default(),
            blocked: Cell::default(),
            bodies: RefCell::default(),
            lent: RefCell::default(),
            timer: Cell::default(),
            next_look: Cell::new(now),
            task: RefCell::default(),
            #[cfg(feature = "websocket")]
            finishing: crate::defer::DeferredEvent::default(),
        });
        watch.arm(now);
        watch.set_parked(true);
        watch
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The connection ends after the requests that it has.
    #[cfg(feature = "websocket")]
    pub(super) fn finish(&self) {
        self.finishing.set();
    }

    /// Ready when the connection is to end.
    #[cfg(feature = "websocket")]
    pub(super) fn finishing(&self) -> impl Future<Output = ()> + use<> {
        let event = self.finishing.clone();
        async move {
            let _ = event.wait().await;
        }
    }

    /// A request has come; its answer is complete when the exchange is dropped.
    pub(super) fn begin(self: &Rc<Self>, body: Option<Arc<Progress>>) -> Exchange {
        self.in_head.set(false);
        if self.in_flight.get() == 0 {
            self.forget_pieces();
        }
        self.in_flight.set(self.in_flight.get() + 1);
        if let Some(progress) = &body {
            let mut bodies = self.bodies.borrow_mut();
            bodies.retain(|reading| Arc::strong_count(&reading.progress) > 1);
            let since = self.transport.reactor().now();
            bodies.push(Reading { progress: progress.clone(), pieces: 0, since });
        }
        Exchange { watch: self.clone(), body, is_ready: Cell::new(false), pieces: Cell::new(0) }
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
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        if is_blocked != self.blocked.get().is_some() {
            let now = || (self.transport.reactor().now(), self.transport.buffered());
            self.blocked.set(is_blocked.then(now));
        }
    }

    /// The piece of a body in which these bytes lie.
    pub(super) fn lent(&self, bytes: &[u8]) -> Option<Bytes> {
        if bytes.len() < LENT {
            return None;
        }
        let start = bytes.as_ptr() as usize;
        let end = start + bytes.len();
        let range =
            |whole: &Bytes| (whole.as_ptr() as usize, whole.as_ptr() as usize + whole.len());
        let mut lent = self.lent.borrow_mut();
        let at = lent.iter().position(|whole| range(whole).0 <= start && end <= range(whole).1)?;
        if end == range(&lent[at]).1 {
            // Its last bytes.
            return lent.remove(at).map(|whole| whole.slice_ref(bytes));
        }
        Some(lent[at].slice_ref(bytes))
    }

    /// Forgets the pieces that were not sent.
    fn forget_pieces(&self) {
        let lent = std::mem::take(&mut *self.lent.borrow_mut());
        drop(lent);
    }

    pub(super) fn max_headers(&self) -> usize {
        self.options.max_headers
    }

    /// The client's address, for services that are to know it.
    pub(super) fn peer(&self) -> Option<Address> {
        self.options.peer.then(|| self.transport.peer().clone())
    }

    pub(super) fn set_http1(&self, is_http1: bool) {
        self.is_http1.set(is_http1);
    }

    pub(super) fn set_parked(self: &Rc<Self>, is_parked: bool) {
        if is_parked {
            self.bodies.take();
            self.forget_pieces();
        }
        self.is_parked.set(is_parked);
        let now = self.transport.reactor().now();
        if !is_parked && self.next_look.get() > now + PARKED_AFTER {
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

    /// It did what it was asked for.
    pub(super) fn done(&self) {
        self.asked.set(Asked::Nothing);
    }

    /// Whether nothing of a request is anywhere between the client and the service.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
            && !self.in_head.get()
            && self.is_read.get()
            && self.blocked.get().is_none()
    }

    /// The connection speaks another protocol from now on, or has ended.
    pub(super) fn stop(&self) {
        self.cancel_timer();
        self.forget_pieces();
    }

    fn ask(&self, what: Asked) {
        self.asked.set(what);
        let task = self.task.borrow().clone();
        if let Some(task) = task {
            task.wake();
        }
    }

    fn arm(self: &Rc<Self>, now: Instant) {
        let HttpOptions { header_timeout, keep_alive, body_timeout, write_timeout, .. } =
            *self.options;
        let often = header_timeout.min(keep_alive).min(body_timeout).min(write_timeout);
        let often = if self.is_parked.get() { often } else { often.min(PARKED_AFTER) };
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
            progress.fail();
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
        if waited >= PARKED_AFTER && !self.is_parked.get() && self.is_http1.get() && self.is_idle()
        {
            self.ask(Asked::Park);
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
        self.watch.taken.set(self.watch.transport.reactor().now());
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.change(is_ready, self.pieces.get());
    }

    pub(super) fn add_piece(&self) {
        self.change(self.is_ready.get(), self.pieces.get() + 1);
    }

    pub(super) fn drop_piece(&self) {
        self.change(self.is_ready.get(), self.pieces.get().saturating_sub(1));
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
    pub(super) fn lend(&self, piece: &Bytes) {
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
        let watch = &self.watch;
        if let Some(why) = self.body.as_ref().and_then(|body| body.broken()) {
            watch.tell("a request broke off", why);
        }
        watch.in_flight.set(watch.in_flight.get() - 1);
        if watch.in_flight.get() == 0 {
            watch.since.set(watch.transport.reactor().now());
            watch.is_read.set(self.body.as_ref().is_none_or(|body| body.has_ended()));
        }
    }
}
