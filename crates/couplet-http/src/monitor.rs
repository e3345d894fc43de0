//! Tracks the activity of a server's connection and enforces its timeouts.
//!
//! Contract: 51d, 58a, 58b, 105b, 105f, 172, 174, 175–175b.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::access::AccessLine;
use super::body::{Content, Progress};
use super::options::HttpOptions;
use super::share::{Claim, ConnectionShare, ServerShare};
use couplet_core::defer::DeferredEvent;
use couplet_core::hooks::{self, ConnectionEnd, Departure, GuestStream};
use couplet_core::transport::Timeout;
use couplet_core::transport::{FileChanged, FilePart};
use couplet_core::{Address, DelayedCall, Reason, Stream, Transport};
use couplet_defer::bounded::{AtMost, Bounded};

/// Interval between two checks of an active connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// No index: a server has fewer connections.
const NO_INDEX: u32 = u32::MAX;

/// After this long without a request, the client has read the last response or never will.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Minimum length of a body piece that is sent without a copy, in bytes.
const MIN_LENT: usize = 8 * 1024;

/// Maximum number of remembered pieces.
const MAX_LENT_PIECES: usize = 32;

/// Response to a request head that times out.
const TIMEOUT_RESPONSE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Watches one connection with one timer, regardless of the number of requests.
pub(super) struct Monitor {
    ending: ConnectionEnd,
    protocol: Cell<Protocol>,
    /// Requests without a complete response.
    in_flight: Cell<u32>,
    /// The number of those whose response has data for the client.
    offered: Cell<u32>,
    /// Whether a request has begun, in this process or the ones before.
    has_begun: Cell<bool>,
    /// Whether the response of the last request has begun.
    is_responding: Cell<bool>,
    /// While `in_flight` is 0.
    phase: Cell<MonitorPhase>,
    /// While `in_flight` is 0: when the connection became idle, or the current request head began.
    /// While `offered` is not: when the client last took such data.
    since: Cell<Instant>,
    /// Index in `WarmConnections`'s list of connections, or [`NO_INDEX`].
    idle_index: Cell<u32>,
    instruction: Cell<Instruction>,
    client_end: Cell<ClientEnd>,
    /// Set when the client has left; created for the first handler that may ask.
    client_left: OnceCell<DeferredEvent>,
    /// The client has stopped taking output. The transport limits that.
    is_blocked: Cell<bool>,
    /// Allocated by the first body, until the connection parks.
    contents: RefCell<Option<Box<Contents>>>,
    /// The transport, and the response bytes held for the client.
    share: ConnectionShare,
    timer: Cell<Option<DelayedCall>>,
    next_check: Cell<Instant>,
    task: Cell<Option<Waker>>,
    /// Set when the connection begins to finish; awaited by its WebSockets.
    #[cfg(feature = "websocket")]
    finishing: OnceCell<DeferredEvent>,
}

/// The bodies of the requests in flight and of their responses.
#[derive(Default)]
struct Contents {
    bodies: Vec<MonitoredBody>,
    lent: Bounded<VecDeque<Bytes>, AtMost<MAX_LENT_PIECES>>,
    /// The parts of files among the pieces that hyper holds, in their order.
    // hyper queues at most 16 pieces.
    files: VecDeque<FilePart>,
    /// The place in the connection's output at which the part begins that is on its way.
    file_from: Option<u64>,
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.bodies.is_empty() && self.lent.is_empty() && self.files.is_empty()
    }
}

/// The progress of a connection without requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MonitorPhase {
    Idle,
    /// A request head has begun to arrive.
    Head,
    /// The last request's body was not read to its end.
    Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// HTTP/1.1, whose output hyper has ended.
    Http1Ended,
    Http2,
}

/// The end of the client's side of the connection, while requests are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientEnd {
    /// No request has waited for the service yet.
    Unwatched,
    Awaited,
    /// The end has arrived; the service may work until this time.
    Limited(Instant),
    /// The end has arrived, and the client takes no output: the service has this time once it does.
    Stopped(Duration),
    /// The end has arrived, and the service has no limit.
    Unlimited,
    /// The service's time is up.
    Overdue,
    /// The connection becomes a WebSocket, which watches its client.
    WebSocket,
    /// The connection has another protocol, or has ended.
    Ignored,
}

impl ClientEnd {
    fn limited(now: Instant, left: Duration) -> ClientEnd {
        // Past the end of the clock: no limit.
        now.checked_add(left).map_or(ClientEnd::Unlimited, ClientEnd::Limited)
    }

    fn has_arrived(self) -> bool {
        use ClientEnd::{Limited, Overdue, Stopped, Unlimited};
        matches!(self, Limited(_) | Stopped(_) | Unlimited | Overdue)
    }
}

/// A request body that is being read.
struct MonitoredBody {
    progress: Arc<Progress>,
    pieces: usize,
    since: Instant,
}

/// Forgets the bodies that their readers have dropped.
fn prune(bodies: &mut Vec<MonitoredBody>) {
    bodies.retain(|monitored| Arc::strong_count(&monitored.progress) > 1);
}

/// Instruction for the connection's task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Instruction {
    #[default]
    Continue,
    /// Free the memory that only a request needs.
    Park,
    /// End after the pending requests. HTTP/2 only: sends GOAWAY.
    Finish,
}

impl Monitor {
    pub(super) fn new(stream: &Stream, server_share: &Rc<ServerShare>) -> Rc<Monitor> {
        let (transport, ending) = (stream.transport(), stream.ending());
        let now = transport.reactor().now();
        // The service has its own time after the client's end.
        transport.set_timeout(Timeout::HalfClose, None);
        transport.set_timeout(Timeout::Write, Some(server_share.options().write_timeout));
        let monitor = Rc::new(Monitor {
            ending,
            protocol: Cell::new(Protocol::Http1),
            in_flight: Cell::new(0),
            offered: Cell::new(0),
            has_begun: Cell::new(hooks::bytes_sent(transport) > 0),
            is_responding: Cell::new(false),
            phase: Cell::new(MonitorPhase::Idle),
            since: Cell::new(now),
            idle_index: Cell::new(NO_INDEX),
            instruction: Cell::default(),
            client_end: Cell::new(ClientEnd::Unwatched),
            client_left: OnceCell::new(),
            is_blocked: Cell::default(),
            contents: RefCell::default(),
            share: ConnectionShare::new(transport, server_share),
            timer: Cell::default(),
            next_check: Cell::new(now),
            task: Cell::default(),
            #[cfg(feature = "websocket")]
            finishing: OnceCell::new(),
        });
        monitor.arm(now);
        monitor
    }

    pub(super) fn options(&self) -> &HttpOptions {
        self.share.options()
    }

    pub(super) fn transport(&self) -> &Transport {
        self.share.transport()
    }

    pub(super) fn ending(&self) -> &ConnectionEnd {
        &self.ending
    }

    /// Whether the connection may leave for another process, and whether it was asked to and could not.
    pub(super) fn departure(&self) -> Departure {
        if self.options().name.is_some() { self.ending.departure() } else { Departure::NotAsked }
    }

    /// Notifies the WebSockets that the connection ends after its pending requests.
    #[cfg(feature = "websocket")]
    pub(super) fn finish(&self) {
        self.finishing.get_or_init(Default::default).set();
    }

    /// Resolves when the connection begins to finish.
    #[cfg(feature = "websocket")]
    pub(super) fn finishing(&self) -> impl Future<Output = ()> + use<> {
        let event = self.finishing.get_or_init(Default::default).clone();
        async move {
            let _ = event.wait().await;
        }
    }

    /// Watches for the end of a client whose request waits for the service. Returns true once the
    /// service's time is up; wakes the connection's task for that.
    pub(super) fn watch_client(self: &Rc<Self>, cx: &Context<'_>) -> bool {
        if self.client_end.get() == ClientEnd::Unwatched {
            self.begin_watch();
        }
        self.register(cx);
        self.is_overdue()
    }

    #[cold]
    fn begin_watch(self: &Rc<Self>) {
        self.client_end.set(ClientEnd::Awaited);
        let weak = Rc::downgrade(self);
        // A failure means that the connection is lost.
        let ended = self.transport().peer_ended().add_both(move |_| {
            if let Some(monitor) = weak.upgrade() {
                monitor.set_client_left();
                monitor.client_ended();
            }
            Ok(())
        });
        ended.detach();
    }

    fn set_client_left(&self) {
        if let Some(event) = self.client_left.get() {
            event.set();
        }
    }

    /// The client has ended its side of the connection, or the connection is lost.
    pub(super) fn client_ended(self: &Rc<Self>) {
        let HttpOptions { half_close_timeout, http2_half_close_timeout, .. } = *self.options();
        if matches!(self.client_end.get(), ClientEnd::Unwatched | ClientEnd::Awaited) {
            let now = self.transport().reactor().now();
            let left = if self.is_http1() { half_close_timeout } else { http2_half_close_timeout };
            let end = match left {
                Some(left) if self.is_blocked() => ClientEnd::Stopped(left),
                Some(left) => ClientEnd::limited(now, left),
                None => ClientEnd::Unlimited,
            };
            self.client_end.set(end);
            self.check_service(now);
            self.rearm(now);
        }
    }

    /// Whether the service's time for a client that has left is up.
    pub(super) fn is_overdue(&self) -> bool {
        self.client_end.get() == ClientEnd::Overdue
    }

    /// Set when the client has left.
    pub(super) fn client_left(self: &Rc<Self>) -> &DeferredEvent {
        if self.client_end.get() == ClientEnd::Unwatched {
            self.begin_watch();
        }
        self.client_left.get_or_init(|| {
            let event = DeferredEvent::new();
            if self.client_end.get().has_arrived() {
                event.set();
            }
            event
        })
    }

    /// Stops the service's clock while the client takes no output.
    #[cold]
    fn set_service_clock(self: &Rc<Self>, runs: bool) {
        let now = self.transport().reactor().now();
        let end = match self.client_end.get() {
            ClientEnd::Limited(due) if !runs => {
                ClientEnd::Stopped(due.saturating_duration_since(now))
            }
            ClientEnd::Stopped(left) if runs => ClientEnd::limited(now, left),
            _ => return,
        };
        self.client_end.set(end);
        self.rearm(now);
    }

    /// When the service's time for a client that has left is up.
    fn service_due(&self) -> Option<Instant> {
        match self.client_end.get() {
            ClientEnd::Limited(due) => Some(due),
            _ => None,
        }
    }

    fn check_service(&self, now: Instant) {
        if self.service_due().is_some_and(|due| now >= due) {
            self.client_end.set(ClientEnd::Overdue);
            if self.in_flight.get() > 0 {
                self.log_debug("a request is dropped", &"its client has left");
            }
            self.wake();
        }
    }

    /// Ends a connection of HTTP/1.1 whose client has left. Without its rest, a response is reset.
    pub(super) fn cut_response(&self) {
        if self.is_responding.get() {
            self.transport().abort_connection();
        }
        // Nothing follows the client's end.
        self.transport().set_close_at_once(true);
    }

    /// The connection of HTTP/1.1 becomes a WebSocket after its response.
    #[cfg(feature = "websocket")]
    pub(super) fn become_websocket(&self) {
        if self.is_http1() {
            self.client_end.set(ClientEnd::WebSocket);
        }
    }

    /// Whether requests are in progress.
    pub(super) fn has_requests(&self) -> bool {
        self.in_flight.get() > 0
    }

    /// The connection may continue with a protocol that its user has upgraded it to: ends it if nothing
    /// moves for too long after the client's end.
    pub(super) fn leave_to_upgrade(&self) {
        self.transport().set_timeout(Timeout::HalfClose, self.options().half_close_timeout);
    }

    /// Records a new request, whose response is complete when the exchange is dropped.
    pub(super) fn begin(self: &Rc<Self>, body: Option<Arc<Progress>>) -> Exchange {
        self.phase.set(MonitorPhase::Idle);
        self.has_begun.set(true);
        self.is_responding.set(false);
        self.in_flight.set(self.in_flight.get() + 1);
        if let Some(progress) = &body {
            let since = self.transport().reactor().now();
            let monitored = MonitoredBody { progress: progress.clone(), pieces: 0, since };
            let mut contents = self.contents.borrow_mut();
            let Contents { bodies, .. } = &mut **contents.get_or_insert_default();
            prune(bodies);
            bodies.push(monitored);
            drop(contents);
            self.check_soon();
        }
        Exchange {
            monitor: self.clone(),
            body,
            is_ready: Cell::new(false),
            pieces: Cell::new(0),
            reserved: Cell::new(0),
            claim: Claim::default(),
            access: None,
        }
    }

    /// Records the arrival of bytes.
    #[inline]
    pub(super) fn received(&self) {
        if self.in_flight.get() > 0 || self.in_head() {
            return;
        }
        self.phase.set(MonitorPhase::Head);
        self.since.set(self.transport().reactor().now());
    }

    fn in_head(&self) -> bool {
        self.phase.get() == MonitorPhase::Head
    }

    fn is_http1(&self) -> bool {
        self.protocol.get() != Protocol::Http2
    }

    /// Whether the next bytes are a request head, if the previous body was read.
    pub(super) fn awaits_head(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Records whether the client stopped taking output.
    #[inline]
    pub(super) fn set_blocked(self: &Rc<Self>, is_blocked: bool) {
        if self.is_blocked.replace(is_blocked) != is_blocked {
            self.set_service_clock(!is_blocked);
            self.check_soon();
        }
    }

    /// Returns the remembered piece that contains `bytes`, as a slice of it.
    pub(super) fn find_lent(&self, bytes: &[u8]) -> Option<Bytes> {
        if bytes.len() < MIN_LENT {
            return None;
        }
        let part = bytes.as_ptr_range();
        let contents = self.contents.borrow();
        let lent = &contents.as_ref()?.lent;
        let is_part = |whole: &Range<*const u8>| whole.start <= part.start && part.end <= whole.end;
        let whole = lent.iter().find(|whole| is_part(&whole.as_ptr_range()))?;
        Some(whole.slice_ref(bytes))
    }

    /// Takes the next part of a file that hyper writes, to be sent now.
    pub(super) fn take_file(&self) -> Option<FilePart> {
        let transport = self.transport();
        let from = hooks::bytes_sent(transport) + transport.buffered() as u64;
        let mut contents = self.contents.borrow_mut();
        let contents = contents.as_mut()?;
        let part = contents.files.pop_front()?;
        contents.file_from = Some(from);
        Some(part)
    }

    /// Called when that part has been sent, or its connection ends. Returns how many bytes have been
    /// sent since it began.
    pub(super) fn end_file(&self) -> u64 {
        let from = self.contents.borrow_mut().as_mut().and_then(|it| it.file_from.take());
        from.map_or(0, |from| hooks::bytes_sent(self.transport()).saturating_sub(from))
    }

    /// Called when an HTTP/2 connection can't progress although its transport has room.
    pub(super) fn note_stall(&self) {
        self.share.on_stall();
    }

    /// Whether the client has stopped taking output.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    pub(super) fn max_headers(&self) -> usize {
        self.options().max_headers
    }

    /// The client's address, if the `peer` option is set.
    pub(super) fn peer(&self) -> Option<Address> {
        self.options().peer.then(|| self.transport().peer().clone())
    }

    pub(super) fn has_allowances(&self) -> bool {
        self.options().allowance
    }

    pub(super) fn set_http2(self: &Rc<Self>) {
        self.protocol.set(Protocol::Http2);
        self.check_soon();
    }

    /// Records that hyper shut down our side of a connection of HTTP/1.1.
    pub(super) fn note_shutdown(&self) {
        self.protocol.set(Protocol::Http1Ended);
    }

    /// Schedules an early check, because the connection became active.
    fn check_soon(self: &Rc<Self>) {
        let now = self.transport().reactor().now();
        if self.next_check.get() > now + CHECK_INTERVAL {
            self.rearm(now);
        }
    }

    fn rearm(self: &Rc<Self>, now: Instant) {
        self.cancel_timer();
        self.arm(now);
    }

    fn cancel_timer(&self) {
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
    }

    /// Returns the instruction for the task, and registers the task to be woken when it changes.
    pub(super) fn instruction(&self, cx: &Context<'_>) -> Instruction {
        self.register(cx);
        self.instruction.get()
    }

    /// Registers the task to be woken.
    fn register(&self, cx: &Context<'_>) {
        let same = self.task.take().filter(|task| task.will_wake(cx.waker()));
        self.task.set(Some(same.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Whether no part of a request is in transit or in progress, so that the connection needs no
    /// protocol state.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.phase.get() == MonitorPhase::Idle && self.is_between_requests()
    }

    /// Whether nothing but a part of a request head is in transit or in progress.
    pub(super) fn is_between_requests(&self) -> bool {
        self.in_flight.get() == 0
            && self.phase.get() != MonitorPhase::Body
            && self.protocol.get() != Protocol::Http1Ended
            && !self.is_blocked()
    }

    /// Whether a drain has asked the connection to finish and its client is not new: the first request
    /// of a new one is awaited.
    pub(super) fn is_finished(&self) -> bool {
        self.transport().is_draining() && self.has_begun.get()
    }

    pub(super) fn idle_index(&self) -> Option<usize> {
        let idle_index = self.idle_index.get();
        (idle_index != NO_INDEX).then_some(idle_index as usize)
    }

    pub(super) fn set_idle_index(&self, idle_index: Option<usize>) {
        self.idle_index.set(idle_index.map_or(NO_INDEX, |idle_index| idle_index as u32));
    }

    /// Asks the task to park if the connection has been idle for `after`.
    pub(super) fn park_if_idle(&self, after: Duration) {
        // Bytes between the requests of HTTP/2 are not the beginning of one.
        let is_idle = if self.is_http1() { self.is_idle() } else { self.in_flight.get() == 0 };
        let may_park = is_idle && self.instruction.get() == Instruction::Continue;
        if may_park && self.transport().reactor().now() >= self.since.get() + after {
            self.instruct(Instruction::Park);
        }
    }

    /// Resets the monitor when the task parks.
    pub(super) fn park(&self) {
        self.instruction.set(Instruction::Continue);
        let mut contents = self.contents.borrow_mut();
        if let Some(contents) = contents.as_mut() {
            prune(&mut contents.bodies);
        }
        drop(contents.take_if(|contents| contents.is_empty()));
    }

    /// Whether no response can still be in transit to the client.
    pub(super) fn is_settled(&self) -> bool {
        hooks::bytes_sent(self.transport()) == 0
            || self.transport().reactor().now() >= self.since.get() + SETTLE_TIME
    }

    /// Starts a drain: the connection ends after its pending requests.
    pub(super) fn drain(self: &Rc<Self>) {
        let now = self.transport().reactor().now();
        self.instruction.set(Instruction::Finish);
        if self.in_flight.get() == 0 {
            self.since.set(now);
        }
        self.rearm(now);
    }

    /// Stops watching: the connection was upgraded or has ended.
    pub(super) fn stop(&self) {
        self.cancel_timer();
        // The client may leave later, during an upgraded protocol.
        if self.client_end.get() != ClientEnd::WebSocket {
            self.client_end.set(ClientEnd::Ignored);
        }
        let reason = self.ending.reason();
        if let Some(error) = reason.as_ref().and_then(Reason::downcast_ref::<FileChanged>) {
            let (connection, peer) = (self.transport().id(), self.transport().peer());
            tracing::warn!(%connection, %peer, %error, "a response was cut off");
        }
        self.share.end();
    }

    fn instruct(&self, what: Instruction) {
        self.instruction.set(what);
        self.wake();
    }

    /// Wakes the connection's task.
    fn wake(&self) {
        if let Some(task) = self.task.take() {
            self.task.set(Some(task.clone()));
            task.wake();
        }
    }

    fn arm(self: &Rc<Self>, now: Instant) {
        let HttpOptions { head_timeout, keep_alive, body_timeout, write_timeout, .. } =
            *self.options();
        let interval = head_timeout.min(keep_alive).min(body_timeout).min(write_timeout);
        let is_idle = self.is_http1() && self.is_idle();
        let interval = if is_idle { interval } else { interval.min(CHECK_INTERVAL) };
        let interval = hooks::drain_patience(self.transport())
            .map_or(interval, |patience| interval.min(patience));
        // Events that begin from now on are due later than `interval`; earlier ones may be due before.
        let next =
            self.due().map_or(interval, |due| due.saturating_duration_since(now).min(interval));
        let weak = Rc::downgrade(self);
        let call = self.transport().reactor().call_later(next, move || Monitor::check(&weak));
        self.timer.set(Some(call));
        self.next_check.set(now + next);
    }

    fn check(weak: &Weak<Monitor>) {
        let Some(monitor) = weak.upgrade() else { return };
        let now = monitor.transport().reactor().now();
        monitor.timer.set(None);
        monitor.check_bodies(now);
        monitor.check_service(now);
        if !monitor.is_blocked() {
            monitor.share.on_stall();
        }
        if monitor.check_client(now) {
            monitor.arm(now);
        }
    }

    /// The earliest deadline.
    fn due(&self) -> Option<Instant> {
        let offered = self.is_offering().then(|| self.since.get() + self.options().write_timeout);
        let waits = (self.in_flight.get() == 0).then(|| self.since.get() + self.idle_limit());
        let contents = self.contents.borrow();
        let bodies = contents.iter().flat_map(|contents| &contents.bodies);
        let bodies = bodies.filter(|monitored| monitored.progress.pieces_if_awaited().is_some());
        let body = bodies.map(|monitored| monitored.since + self.options().body_timeout).min();
        [offered, waits, body, self.service_due()].into_iter().flatten().min()
    }

    /// Whether an HTTP/2 response waits for a flow-control window, with bytes that have not reached the
    /// transport. The transport tracks whether the client takes all other output.
    fn is_offering(&self) -> bool {
        self.offered.get() > 0 && !self.is_http1() && !self.is_blocked()
    }

    /// Timeout of an idle connection, or of a request head.
    fn idle_limit(&self) -> Duration {
        let HttpOptions { head_timeout, keep_alive, .. } = *self.options();
        // Time for the client to act on our GOAWAY.
        let patience = hooks::drain_patience(self.transport());
        if let Some(patience) = patience.filter(|_| !self.is_http1() && self.has_begun.get()) {
            return patience.min(keep_alive);
        }
        if self.in_head() && self.is_http1() { head_timeout } else { keep_alive }
    }

    fn check_bodies(&self, now: Instant) {
        let mut late = Vec::new();
        let mut contents = self.contents.borrow_mut();
        let Some(Contents { bodies, .. }) = contents.as_deref_mut() else { return };
        bodies.retain_mut(|monitored| {
            let awaited = monitored.progress.pieces_if_awaited();
            if awaited != Some(monitored.pieces) {
                monitored.pieces = awaited.unwrap_or(usize::MAX);
                monitored.since = now;
            } else if now >= monitored.since + self.options().body_timeout {
                late.push(monitored.progress.clone());
                return false;
            }
            Arc::strong_count(&monitored.progress) > 1
        });
        drop(contents);
        for progress in late {
            self.log_debug("a request was cut off", &"reading its body timed out");
            progress.time_out();
        }
    }

    /// Returns false when the connection needs no further checks.
    fn check_client(&self, now: Instant) -> bool {
        if self.is_offering() && now >= self.since.get() + self.options().write_timeout {
            return self.abort();
        }
        if self.in_flight.get() > 0 {
            return true;
        }
        let waited = now.saturating_duration_since(self.since.get());
        if waited >= self.idle_limit() {
            return self.time_out();
        }
        true
    }

    /// Aborts a connection whose client takes no output.
    fn abort(&self) -> bool {
        self.log_debug("a connection was aborted", &"its client took no response bytes in time");
        self.transport().abort_connection();
        false
    }

    /// Ends a connection whose client sends no request, or only part of a head.
    fn time_out(&self) -> bool {
        if !self.is_http1() && self.instruction.get() != Instruction::Finish {
            self.instruct(Instruction::Finish);
            // The client may take as long again to act on GOAWAY.
            self.since.set(self.transport().reactor().now());
            return true;
        }
        // An HTTP/2 client has already received GOAWAY.
        if self.in_head() && self.is_http1() {
            self.log_debug("a request was refused", &"its head did not arrive in time");
            self.transport().write(TIMEOUT_RESPONSE);
        }
        // During a drain, don't wait for a FIN from a client that was silent for so long.
        self.transport().set_close_at_once(self.transport().is_draining());
        self.transport().lose_connection();
        false
    }

    pub(super) fn log_debug(&self, what: &'static str, why: &dyn Display) {
        let (connection, peer) = (self.transport().id(), self.transport().peer());
        tracing::debug!(%connection, %peer, %why, "{what}");
    }
}

/// A request without a complete response.
pub(super) struct Exchange {
    monitor: Rc<Monitor>,
    body: Option<Arc<Progress>>,
    /// More of the response may be available: it waits for the client, not for the service.
    is_ready: Cell<bool>,
    /// Response pieces that are held for the client.
    pieces: Cell<usize>,
    /// Bytes reserved for the next piece, which the service is fetching.
    reserved: Cell<usize>,
    claim: Claim,
    /// The line to be logged, if such lines are on.
    pub(super) access: Option<Box<AccessLine>>,
}

impl Exchange {
    /// Whether the response waits for the client rather than for the service.
    fn is_offered(&self) -> bool {
        self.is_ready.get() || self.pieces.get() > 0
    }

    fn set_offer(&self, is_ready: bool, pieces: usize) {
        // For HTTP/1.1, the transport tracks whether the client takes output.
        if self.monitor.is_http1() {
            return;
        }
        let (before, offered) = (self.is_offered(), &self.monitor.offered);
        self.is_ready.set(is_ready);
        self.pieces.set(pieces);
        offered.set(offered.get() + u32::from(self.is_offered()) - u32::from(before));
        self.monitor.since.set(self.monitor.transport().reactor().now());
    }

    /// Records that the response has begun.
    pub(super) fn begin_response(&self) {
        self.monitor.is_responding.set(true);
    }

    pub(super) fn set_ready(&self, is_ready: bool) {
        self.set_offer(is_ready, self.pieces.get());
    }

    /// Ready when this response may pass on a piece; `end_turn` must follow.
    #[inline]
    pub(super) fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        // The turn began with the reservation.
        if self.reserved.get() > 0 {
            return Poll::Ready(());
        }
        self.monitor.share.poll_turn(&self.claim, cx, || self.monitor.wake())
    }

    #[inline]
    pub(super) fn end_turn(&self) {
        if self.monitor.share.end_turn(&self.claim) {
            self.monitor.wake();
        }
    }

    /// Reserves up to `most` bytes for the next piece, which the service will fetch; returns the
    /// count.
    pub(super) fn reserve(&self, most: usize) -> usize {
        // The turn that began with a reservation continues with the one that replaces it.
        let in_turn = self.reserved.get() > 0;
        self.end_reservation();
        let count = self.monitor.share.fetch_limit(&self.claim, most, in_turn);
        self.hold(count);
        self.reserved.set(count);
        count
    }

    /// Ends the reservation: the piece arrived, or never will.
    pub(super) fn end_reservation(&self) {
        let count = self.reserved.take();
        if count > 0 {
            self.release(count);
        }
    }

    /// Records that the response has no further pieces.
    pub(super) fn end_pieces(&self) {
        self.end_reservation();
        self.monitor.share.remove_claim(&self.claim);
    }

    pub(super) fn hold(&self, count: usize) {
        self.monitor.share.hold(&self.claim, count);
    }

    pub(super) fn release(&self, count: usize) {
        self.monitor.share.release(&self.claim, count);
    }

    /// Records that `count` of the held bytes were copied.
    #[cfg(feature = "websocket")]
    pub(super) fn note_copied(&self, count: usize) {
        self.monitor.share.note_copied(&self.claim, count);
    }

    pub(super) fn add_piece(&self, piece: &Content) {
        match piece {
            Content::Bytes(bytes) => {
                self.hold(bytes.len());
                self.lend(bytes);
            }
            // A part of a file is not in memory.
            Content::File(part) if self.monitor.is_http1() => {
                let mut contents = self.monitor.contents.borrow_mut();
                contents.get_or_insert_default().files.push_back(part.clone());
            }
            Content::File(_) => {}
        }
        self.set_offer(self.is_ready.get(), self.pieces.get() + 1);
    }

    /// Releases a piece of `count` bytes; `rest` is its unsent part.
    pub(super) fn release_piece(&self, count: usize, rest: &Content) {
        if let Some(access) = &self.access {
            let mut left = rest.len();
            if left > 0 && matches!(rest, Content::File(_)) {
                let sent = self.monitor.end_file();
                left = left.saturating_sub(usize::try_from(sent).unwrap_or(usize::MAX));
            }
            access.add_bytes(count - left);
        }
        if let Content::Bytes(rest) = rest {
            self.release(count);
            self.end_lending(count, rest);
        }
        self.set_offer(self.is_ready.get(), self.pieces.get().saturating_sub(1));
    }

    fn end_lending(&self, count: usize, rest: &Bytes) {
        if count >= MIN_LENT {
            let end = rest.as_ptr_range().end;
            let mut contents = self.monitor.contents.borrow_mut();
            let piece = contents.as_deref_mut().and_then(|Contents { lent, .. }| {
                let at = lent.iter().position(|whole| whole.as_ptr_range().end == end)?;
                lent.edit().remove(at)
            });
            drop(contents);
            drop(piece);
        }
    }

    /// Aborts the connection of a truncated response, which would otherwise look complete.
    pub(super) fn abort(&self) {
        self.monitor.log_debug("a connection was aborted", &"its response was cut off");
        self.monitor.transport().abort_connection();
    }

    /// Whether the connection ends after this response, because of a drain or because it missed its
    /// move.
    pub(super) fn is_last(&self) -> bool {
        self.monitor.departure() == Departure::Missed || self.monitor.transport().is_draining()
    }

    /// Records that the client took bytes.
    pub(super) fn note_progress(&self) {
        self.set_offer(self.is_ready.get(), self.pieces.get());
    }

    /// Whether the request's body ended without trailers.
    pub(super) fn has_plain_end(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.has_plain_end())
    }

    /// Remembers a piece of the response, so that it can be sent without a copy.
    fn lend(&self, piece: &Bytes) {
        if piece.len() >= MIN_LENT {
            let mut contents = self.monitor.contents.borrow_mut();
            let Contents { lent, .. } = &mut **contents.get_or_insert_default();
            let oldest = if lent.is_full() { lent.edit().pop_front() } else { None };
            lent.edit().push_back(piece.clone());
            drop(contents);
            drop(oldest);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // A handler may outlive its connection.
        self.set_client_left();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.set_offer(false, 0);
        self.end_pieces();
        let monitor = &self.monitor;
        if let Some(access) = &self.access {
            access.end(monitor.transport());
        }
        if let Some(why) = self.body.as_ref().and_then(|body| body.error()) {
            monitor.log_debug("a request was cut off", why);
        }
        monitor.in_flight.set(monitor.in_flight.get() - 1);
        if monitor.in_flight.get() == 0 {
            monitor.since.set(monitor.transport().reactor().now());
            let is_read = self.body.as_ref().is_none_or(|body| body.has_ended());
            monitor.phase.set(if is_read { MonitorPhase::Idle } else { MonitorPhase::Body });
        }
    }
}
