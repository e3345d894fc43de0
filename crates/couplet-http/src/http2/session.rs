//! [`Session`]: runs the requests of an HTTP/2 connection in its task.
//!
//! Contract: 58a, 174b–174e, 175a–175d.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::response::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use tower_service::Service;

use super::bell::{Bell, Ring, StreamWaker};
use super::frame::{Chunk, ConnectionError, Reason, Then};
use super::inbox::{Expectation, Inbox, Receiver};
use super::machine::{Event, Limits, Machine, ResponseHead};
use super::streams::Key;
use super::tunnel::{Offer, Outlet, TunnelOutput};
use crate::body::{Body, Content, Piece, ResponseBody};
use crate::handler::{Clock, Handler, ResponseFuture};
use crate::io::Io;
use crate::monitor::Monitor;
use crate::warm::{RequestGuard, WarmConnections};
use couplet_core::hooks::{GuestStream, catch_panic};
use couplet_core::{Failure, Result, SocketOption, Stream};

/// Maximum number of bytes read at a time.
const READ: usize = 64 * 1024;

/// Maximum number of bytes of bodies written before the transport is asked for room again.
const BATCH: usize = 64 * 1024;

/// An HTTP/2 connection and its requests.
pub(crate) struct Session<S, B>
where
    S: Service<Request<Body>>,
{
    stream: Stream,
    monitor: Rc<Monitor>,
    warm: Rc<WarmConnections>,
    handler: Handler<S>,
    clock: Rc<Clock>,
    machine: Machine,
    bell: Arc<Bell>,
    /// The requests, by the keys of their streams.
    requests: Vec<Option<RequestTask<S, B>>>,
    wakers: Vec<(Arc<StreamWaker>, Waker)>,
    /// Streams whose response may have a piece to send.
    sending: VecDeque<Key>,
    rings: Vec<Ring>,
    has_read_end: bool,
    /// Whether bytes were received since the last output, which acknowledges them.
    has_unanswered: bool,
}

/// A request and its response.
struct RequestTask<S, B>
where
    S: Service<Request<Body>>,
{
    stage: Pin<Box<TaskStage<S, B>>>,
    /// The request's body, unless it is empty.
    inbox: Option<Arc<Inbox>>,
    /// The tunnel that a CONNECT asks for.
    offer: Option<Offer>,
    output: OutputState,
    _guard: RequestGuard,
}

impl<S, B> RequestTask<S, B>
where
    S: Service<Request<Body>>,
{
    /// Whether the response waits for the service, rather than for the client's windows.
    fn awaits_service(&self) -> bool {
        match &*self.stage {
            TaskStage::Responding { .. } => true,
            TaskStage::Sending { .. } => self.output == OutputState::Waiting,
            TaskStage::Tunnel { .. } | TaskStage::Done => false,
        }
    }

    /// Whether the response waits for a window, while the transport has room.
    fn awaits_window(&self) -> bool {
        self.output != OutputState::Waiting
    }
}

/// Progress of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputState {
    /// The body waits for the service.
    Waiting,
    /// The body is in `Session::sending`.
    Queued,
    /// The body waits for the window of its stream.
    NoWindow,
}

pin_project_lite::pin_project! {
    #[project = Staged]
    enum TaskStage<S, B>
    where
        S: Service<Request<Body>>,
    {
        Responding { #[pin] answer: ResponseFuture<S> },
        Sending { #[pin] body: ResponseBody<B>, piece: Option<Piece> },
        Tunnel { outlet: Arc<Outlet> },
        // The response is complete; the request's body may still be read.
        Done,
    }
}

impl<S, B> Session<S, B>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    /// Begins with the bytes that were read to detect the version.
    pub(crate) fn new(
        io: Io,
        handler: Handler<S>,
        clock: &Rc<Clock>,
        warm: &Rc<WarmConnections>,
        monitor: &Rc<Monitor>,
    ) -> Option<Session<S, B>> {
        let (stream, unread) = io.into_parts()?;
        let options = monitor.options();
        let mut machine = Machine::new(Limits {
            max_streams: options.max_streams,
            stream_window: options.stream_window,
            connection_window: options.connection_window,
            max_head: options.max_head,
        });
        machine.input(&unread);
        Some(Session {
            stream,
            monitor: monitor.clone(),
            warm: warm.clone(),
            handler,
            clock: clock.clone(),
            machine,
            bell: Arc::default(),
            requests: Vec::new(),
            wakers: Vec::new(),
            sending: VecDeque::new(),
            rings: Vec::new(),
            has_read_end: false,
            has_unanswered: false,
        })
    }

    /// Announces the end of the connection.
    pub(crate) fn finish(&mut self) {
        self.machine.finish();
    }

    /// Runs the connection; ready at its end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            let has_room = match self.stream.poll_room(cx) {
                Poll::Ready(Ok(())) => true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => false,
            };
            self.monitor.set_blocked(!has_room);
            let mut has_progressed = self.run_woken();
            if has_room {
                has_progressed |= self.poll_input(cx)?;
                has_progressed |= self.send_bodies();
            }
            self.flush();
            if self.machine.is_over() {
                return Poll::Ready(Ok(()));
            }
            if has_progressed {
                self.warm.watch(&self.monitor);
                continue;
            }
            if self.monitor.is_overdue() && self.cancel_requests() {
                continue;
            }
            if has_room && self.has_read_end && !self.awaits_service() {
                return Poll::Ready(Ok(()));
            }
            if has_room {
                self.monitor.note_stall();
            }
            self.acknowledge();
            if self.bell.sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
    }

    /// Processes received bytes. Returns whether there were any.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        if self.has_read_end {
            return Ok(false);
        }
        let Session { stream, machine, monitor, .. } = self;
        let mut count = 0;
        let polled = stream.poll_read_with(cx, READ, |data| {
            count = data.len();
            machine.input(data);
        });
        if polled?.is_pending() {
            return self.process_input().map(|()| false);
        }
        if count == 0 {
            self.has_read_end = true;
            self.monitor.client_ended();
            self.cut_requests();
        } else {
            monitor.received();
            self.has_unanswered = true;
        }
        self.process_input().map(|()| true)
    }

    fn process_input(&mut self) -> Result<()> {
        let processed = self.process_events();
        if let Err(error) = &processed {
            // The service sees the events that were complete before the error.
            self.run_woken();
            self.machine.fail(error);
            self.flush();
        }
        Ok(processed?)
    }

    fn process_events(&mut self) -> Result<(), ConnectionError> {
        while let Some(event) = self.machine.next_event()? {
            match event {
                Event::Request { key, request, length, then } => {
                    self.begin(key, request, length, then);
                }
                Event::TooLarge { key } => {
                    let answer = self.handler.refuse_large_head();
                    self.machine.abandon_request(key);
                    self.run_request(key, answer, None, None);
                }
                Event::Data { key, range, then } => {
                    let Some(Some(request)) = self.requests.get_mut(key) else { continue };
                    let Some(inbox) = &request.inbox else { continue };
                    inbox.push(self.machine.data(range));
                    if then == Then::End {
                        inbox.end(None);
                    }
                    self.remove_if_closed(key);
                }
                Event::Trailers { key, trailers } => {
                    let Some(Some(request)) = self.requests.get_mut(key) else { continue };
                    if let Some(inbox) = &request.inbox {
                        inbox.end(Some(trailers));
                    }
                    self.remove_if_closed(key);
                }
                Event::Reset { key, reason } => self.reset_by_client(key, reason),
                Event::Window { key } => self.queue_if(key, OutputState::NoWindow),
                Event::Windows => {
                    (0..self.requests.len())
                        .for_each(|key| self.queue_if(key, OutputState::NoWindow));
                }
            }
        }
        Ok(())
    }

    /// Passes a request to the service.
    fn begin(&mut self, key: Key, mut request: Request<()>, length: Option<u64>, then: Then) {
        let inbox = (then == Then::More).then(|| {
            Inbox::new(&self.bell, key, length, Expectation::of_headers(request.headers()))
        });
        let mut receiver = inbox.as_ref().map(Receiver::new);
        let mut offer = None;
        if request.method() == Method::CONNECT
            && let Some(receiver) = receiver.take()
        {
            let (offered, on_upgrade) = Offer::new(&self.bell, key, receiver);
            if let Some(on_upgrade) = on_upgrade {
                request.extensions_mut().insert(on_upgrade);
            }
            offer = Some(offered);
        }
        let answer = self.handler.respond(request, receiver);
        self.run_request(key, answer, inbox, offer);
    }

    fn run_request(
        &mut self,
        key: Key,
        answer: ResponseFuture<S>,
        inbox: Option<Arc<Inbox>>,
        offer: Option<Offer>,
    ) {
        while self.requests.len() <= key {
            self.requests.push(None);
        }
        while self.wakers.len() <= key {
            let waker = StreamWaker::new(&self.bell, self.wakers.len());
            self.wakers.push((waker.clone(), waker.into()));
        }
        let stage = Box::pin(TaskStage::Responding { answer });
        self.requests[key] = Some(RequestTask {
            stage,
            inbox,
            offer,
            output: OutputState::Waiting,
            _guard: RequestGuard::new(&self.warm),
        });
        self.run(key);
    }

    /// Runs the streams that were woken. Returns whether there were any.
    fn run_woken(&mut self) -> bool {
        let mut rings = std::mem::take(&mut self.rings);
        let consumed = self.bell.take_rings(&mut rings);
        self.machine.consume_connection(consumed);
        for ring in &rings {
            match *ring {
                Ring::Work(key) => {
                    if let Some((waker, _)) = self.wakers.get(key) {
                        waker.rearm();
                    }
                    self.run(key);
                }
                Ring::Report(key) => self.apply_report(key),
            }
        }
        let has_rings = !rings.is_empty();
        self.rings = rings;
        has_rings
    }

    /// Polls the service of a request, or queues its response's body.
    fn run(&mut self, key: Key) {
        let Some(Some(request)) = self.requests.get_mut(key) else { return };
        let Staged::Responding { answer } = request.stage.as_mut().project() else {
            return self.queue_if(key, OutputState::Waiting);
        };
        let mut cx = Context::from_waker(&self.wakers[key].1);
        match catch_panic(|| answer.poll(&mut cx)) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(Ok(response))) => self.begin_response(key, response),
            Err(panic) => {
                log_error!(%panic, "an HTTP service panicked");
                self.reset(key, Reason::INTERNAL_ERROR);
            }
        }
    }

    fn begin_response(&mut self, key: Key, response: Response<ResponseBody<B>>) {
        let Some(Some(request)) = self.requests.get_mut(key) else { return };
        let (mut head, body) = response.into_parts();
        let offer = request.offer.take();
        if head.status.is_informational() {
            // RFC 9113, 8.1: a response needs a final head.
            log_error!(status = %head.status, "an HTTP service answered with a status below 200");
            drop_user(body);
            let (mut head, ()) = Response::new(()).into_parts();
            head.status = StatusCode::INTERNAL_SERVER_ERROR;
            self.send_head(key, &head, Some(0), Then::End);
            return self.end_response(key);
        }
        if let Some(offer) = offer.filter(|_| head.status.is_success()) {
            head.headers.remove(header::CONTENT_LENGTH);
            self.send_head(key, &head, None, Then::More);
            let outlet = offer.accept();
            self.set_stage(key, TaskStage::Tunnel { outlet });
            return self.queue_if(key, OutputState::Waiting);
        }
        let then = if body.is_end_stream() { Then::End } else { Then::More };
        let length = body.size_hint().exact().filter(|_| then == Then::More);
        self.send_head(key, &head, length, then);
        if then == Then::End {
            drop_user(body);
            return self.end_response(key);
        }
        self.set_stage(key, TaskStage::Sending { body, piece: None });
        self.queue_if(key, OutputState::Waiting);
    }

    fn send_head(&mut self, key: Key, head: &Parts, length: Option<u64>, then: Then) {
        let date = Some(self.clock.date());
        let head = ResponseHead { status: head.status, headers: &head.headers, date, length };
        self.machine.send_head(key, &head, then);
    }

    fn end_response(&mut self, key: Key) {
        self.set_stage(key, TaskStage::Done);
        self.remove_if_closed(key);
    }

    fn set_stage(&mut self, key: Key, stage: TaskStage<S, B>) {
        if let Some(Some(request)) = self.requests.get_mut(key)
            && let Err(panic) = catch_panic(|| request.stage.as_mut().set(stage))
        {
            log_error!(%panic, "an HTTP service panicked");
        }
    }

    /// Drops the state of a request whose stream is closed.
    fn remove_if_closed(&mut self, key: Key) {
        if !self.machine.is_open(key) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(request) = self.requests.get_mut(key).and_then(Option::take) else { return };
        if request.output == OutputState::Queued {
            self.sending.retain(|&queued| queued != key);
        }
        if let TaskStage::Tunnel { outlet } = &*request.stage {
            outlet.end();
        }
        drop_user(request);
    }

    /// Resets a stream.
    fn reset(&mut self, key: Key, reason: Reason) {
        self.machine.reset(key, reason);
        self.fail_request(key, reason);
        self.remove(key);
    }

    /// Lets the service see that its stream was reset, and cancels it.
    fn reset_by_client(&mut self, key: Key, reason: Reason) {
        self.fail_request(key, reason);
        if let Some(Some(request)) = self.requests.get_mut(key)
            && let Staged::Responding { answer } = request.stage.as_mut().project()
        {
            let mut cx = Context::from_waker(&self.wakers[key].1);
            let polled = catch_panic(|| drop(answer.poll(&mut cx)));
            if let Err(panic) = polled {
                log_error!(%panic, "an HTTP service panicked");
            }
        }
        self.remove(key);
    }

    fn fail_request(&mut self, key: Key, reason: Reason) {
        if let Some(Some(request)) = self.requests.get_mut(key)
            && let Some(inbox) = &request.inbox
        {
            inbox.reset(reason);
        }
    }

    /// Fails incomplete bodies at the end of the client's byte stream.
    fn cut_requests(&mut self) {
        for inbox in self.requests.iter().flatten().filter_map(|it| it.inbox.as_ref()) {
            inbox.cut();
        }
    }

    /// Cancels the requests that wait for the service, because the client has left. Returns whether
    /// there were any.
    fn cancel_requests(&mut self) -> bool {
        let mut has_cancelled = false;
        for key in 0..self.requests.len() {
            if self.requests[key].as_ref().is_some_and(RequestTask::awaits_service) {
                self.reset(key, Reason::CANCEL);
                has_cancelled = true;
            }
        }
        has_cancelled
    }

    fn apply_report(&mut self, key: Key) {
        let Some(Some(request)) = self.requests.get(key) else { return };
        let Some(inbox) = &request.inbox else { return };
        let report = inbox.take_report();
        // RFC 9110, 15.2: after the head of the final response it would be malformed.
        if report.expectation == Expectation::Both
            && matches!(*request.stage, TaskStage::Responding { .. })
        {
            self.machine.send_continue(key);
        }
        self.machine.consume_stream(key, report.consumed);
        if report.is_abandoned {
            self.machine.abandon_request(key);
            self.remove_if_closed(key);
        }
    }

    /// Queues a response that is in this state to send its next piece.
    fn queue_if(&mut self, key: Key, state: OutputState) {
        if let Some(Some(request)) = self.requests.get_mut(key)
            && request.output == state
            && matches!(*request.stage, TaskStage::Sending { .. } | TaskStage::Tunnel { .. })
        {
            request.output = OutputState::Queued;
            self.sending.push_back(key);
        }
    }

    /// Sends pieces of responses in turn. Returns whether there were any.
    fn send_bodies(&mut self) -> bool {
        let mut left = BATCH;
        let mut has_sent = false;
        while left > 0
            && self.machine.has_window()
            && let Some(key) = self.sending.pop_front()
        {
            let sent = self.send_piece(key);
            has_sent |= sent > 0;
            left = left.saturating_sub(sent);
        }
        has_sent
    }

    /// Sends the next piece of a response. Returns a count of bytes, at least 1 for a step.
    fn send_piece(&mut self, key: Key) -> usize {
        let room = self.machine.data_room(key);
        let Some(Some(request)) = self.requests.get_mut(key) else { return 0 };
        let is_tunnel = matches!(*request.stage, TaskStage::Tunnel { .. });
        request.output = if room == 0 { OutputState::NoWindow } else { OutputState::Waiting };
        if room == 0 && !is_tunnel {
            return 0;
        }
        match request.stage.as_mut().project() {
            Staged::Sending { mut body, piece } => {
                if piece.is_none() {
                    let mut cx = Context::from_waker(&self.wakers[key].1);
                    match catch_panic(|| body.as_mut().poll_frame(&mut cx)) {
                        Ok(Poll::Pending) => return 0,
                        Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_data() {
                            Ok(data) => *piece = Some(data),
                            Err(frame) => {
                                let trailers = frame.into_trailers().unwrap_or_default();
                                return self.send_trailers(key, &trailers);
                            }
                        },
                        Ok(Poll::Ready(None)) => return self.send_end(key),
                        Ok(Poll::Ready(Some(Err(error)))) => {
                            self.monitor.log_debug("a response was cut off", &error);
                            self.reset(key, Reason::INTERNAL_ERROR);
                            return 1;
                        }
                        Err(panic) => {
                            log_error!(%panic, "the body of an HTTP response panicked");
                            self.reset(key, Reason::INTERNAL_ERROR);
                            return 1;
                        }
                    }
                }
                let Some(whole) = piece else { return 0 };
                let data = whole.take(room);
                let is_last = whole.is_empty();
                if is_last {
                    *piece = None;
                }
                let ends = is_last && body.is_end_stream();
                self.send_data(key, data, if ends { Then::End } else { Then::More })
            }
            Staged::Tunnel { outlet } => match outlet.take(room) {
                TunnelOutput::Wait => 0,
                TunnelOutput::Data(data) => self.send_data(key, Content::Bytes(data), Then::More),
                TunnelOutput::End => self.send_end(key),
                TunnelOutput::Cancel => {
                    self.reset(key, Reason::CANCEL);
                    1
                }
            },
            Staged::Responding { .. } | Staged::Done => 0,
        }
    }

    fn send_data(&mut self, key: Key, data: Content, then: Then) -> usize {
        let count = data.len();
        self.machine.send_data(key, data, then);
        if then == Then::End {
            self.end_response(key);
        } else {
            self.queue_next(key);
        }
        count.max(1)
    }

    /// Queues a response that has sent a frame. The rest of a piece of memory goes first, so that few
    /// pieces are held. The rest of a file holds no memory, and may be long: it waits for its turn.
    fn queue_next(&mut self, key: Key) {
        let Some(Some(request)) = self.requests.get_mut(key) else { return };
        request.output = OutputState::Queued;
        match &*request.stage {
            TaskStage::Sending { piece: Some(piece), .. } if piece.holds_memory() => {
                self.sending.push_front(key);
            }
            _ => self.sending.push_back(key),
        }
    }

    fn send_end(&mut self, key: Key) -> usize {
        self.machine.send_data(key, Content::Bytes(Bytes::new()), Then::End);
        self.end_response(key);
        1
    }

    fn send_trailers(&mut self, key: Key, trailers: &HeaderMap) -> usize {
        self.machine.send_trailers(key, trailers);
        self.end_response(key);
        1
    }

    /// Passes frames to the transport, which sends them with the turn.
    fn flush(&mut self) {
        let Session { stream, machine, has_unanswered, .. } = self;
        let transport = stream.transport();
        machine.out().drain(|chunk| {
            *has_unanswered = false;
            match chunk {
                Chunk::Bytes(frames) => transport.write(frames),
                Chunk::Payload(Content::Bytes(data)) => transport.write_bytes(data),
                Chunk::Payload(Content::File(part)) => {
                    transport.send_file_range(part.file(), part.range());
                }
            }
        });
    }

    /// Acknowledges received bytes immediately if no output does and a response waits for a window:
    /// Nagle's algorithm may hold the client's next WINDOW_UPDATE until then.
    fn acknowledge(&mut self) {
        if std::mem::take(&mut self.has_unanswered)
            && self.requests.iter().flatten().any(RequestTask::awaits_window)
        {
            self.stream.transport().set_option(SocketOption::Acknowledge);
        }
    }

    /// Whether a response waits for the service.
    fn awaits_service(&self) -> bool {
        self.requests.iter().flatten().any(RequestTask::awaits_service)
    }

    /// Frees the memory that an idle connection does not need.
    pub(crate) fn free_memory(&mut self) {
        // The next progress begins another watch.
        self.warm.unwatch(&self.monitor);
        if !self.machine.has_streams() {
            self.machine.free_memory();
            self.bell.free_memory();
            if self.requests.capacity() > 4 {
                self.requests = Vec::new();
                self.wakers = Vec::new();
                self.sending = VecDeque::new();
                self.rings = Vec::new();
            }
        }
    }
}

/// Drops an object of the service, whose drop may panic.
fn drop_user<T>(object: T) {
    if let Err(panic) = catch_panic(|| drop(object)) {
        log_error!(%panic, "an HTTP service panicked");
    }
}

impl<S, B> Drop for Session<S, B>
where
    S: Service<Request<Body>>,
{
    fn drop(&mut self) {
        self.warm.unwatch(&self.monitor);
        for request in self.requests.drain(..).flatten() {
            if let Some(inbox) = &request.inbox {
                inbox.cut();
            }
            if let TaskStage::Tunnel { outlet } = &*request.stage {
                outlet.end();
            }
            drop_user(request);
        }
    }
}
