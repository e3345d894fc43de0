//! Passes requests to the service, and prepares its responses.
//!
//! Contract: 51d, 105f, 173, 174b.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower_service::Service;

use super::access::AccessLine;
use super::allowance::Allowance;
use super::body::{Body, BodyEnd, Progress, ResponseBody};
use super::client_left::ClientLeft;
use super::http2::Receiver;
use super::monitor::{Exchange, Monitor};
use super::refusal::{self, Fields, Refusal};
use couplet_core::hooks;
use couplet_core::hooks::catch_panic;
use couplet_core::{Address, Failure, Reactor};

/// An error of a service or of a body.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The client's address, as a request extension: see
/// [`HttpOptions::peer`](super::HttpOptions::peer). Behind a proxy it is the proxy's address,
/// unless the endpoint is `haproxy:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Address);

/// Serves the requests of one connection.
pub(super) struct Handler<S> {
    service: S,
    monitor: Rc<Monitor>,
    /// For HTTP/1.1 in virtual time, because hyper knows only the system clock.
    clock: Option<Rc<Clock>>,
}

/// Supplies the `date` header of responses, from the loop's world.
pub(super) struct Clock {
    reactor: Reactor,
    /// The header value, and when it expires.
    date: RefCell<Option<(Instant, HeaderValue)>>,
}

impl Clock {
    pub(super) fn new(reactor: &Reactor) -> Rc<Clock> {
        Rc::new(Clock { reactor: reactor.clone(), date: RefCell::default() })
    }

    pub(super) fn date(&self) -> HeaderValue {
        let now = self.reactor.now();
        let mut date = self.date.borrow_mut();
        match &*date {
            Some((until, value)) if now < *until => value.clone(),
            _ => {
                let time = hooks::unix_time(&self.reactor);
                let text = httpdate::fmt_http_date(UNIX_EPOCH + time);
                let value = HeaderValue::try_from(text).expect("a date is ASCII");
                let left =
                    Duration::from_secs(1) - Duration::from_nanos(time.subsec_nanos().into());
                *date = Some((now + left, value.clone()));
                value
            }
        }
    }
}

impl<S> Handler<S> {
    pub(super) fn new(service: S, monitor: &Rc<Monitor>, clock: Option<Rc<Clock>>) -> Handler<S> {
        Handler { service, monitor: monitor.clone(), clock }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Infallible;
    type Future = ResponseFuture<S>;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture<S> {
        let version = request.version();
        let (head, incoming) = request.into_parts();
        let (body, progress) = Body::new(incoming, version);
        self.start(Request::from_parts(head, ()), body, progress)
    }
}

impl<S, B> Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>> + Clone + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<Failure>> + 'static,
{
    /// Answers a request of HTTP/2.
    pub(super) fn respond(
        &self,
        request: Request<()>,
        receiver: Option<Receiver>,
    ) -> ResponseFuture<S> {
        let (body, progress) = Body::from_receiver(receiver);
        self.start(request, body, progress)
    }

    /// Answers a request of HTTP/2 whose head exceeds the limit.
    pub(super) fn refuse_large_head(&self) -> ResponseFuture<S> {
        let refusal = Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            why: "its head is too large",
        };
        self.monitor.log_debug("a request was refused", &refusal.why);
        let facts = RequestFacts {
            refusal: Some(refusal),
            version: Version::HTTP_2,
            is_chunked: false,
            is_head: false,
            exchange: Some(Rc::new(self.monitor.begin(None))),
            clock: self.clock.clone(),
        };
        ResponseFuture { stage: CallStage::Done, facts }
    }

    fn start(
        &self,
        mut request: Request<()>,
        body: Body,
        progress: Option<Arc<Progress>>,
    ) -> ResponseFuture<S> {
        let fields = Fields::from_headers(request.headers());
        let refusal = Refusal::check(&request, &fields, self.monitor.max_headers());
        match refusal {
            Some(Refusal { why, .. }) => self.monitor.log_debug("a request was refused", &why),
            None => {
                refusal::set_host(&mut request);
                refusal::join_cookies(&mut request, &fields);
            }
        }
        if let Some(peer) = self.monitor.peer() {
            request.extensions_mut().insert(Peer(peer));
        }
        if self.monitor.options().client_left {
            request.extensions_mut().insert(ClientLeft::new(&self.monitor));
        }
        #[cfg(feature = "websocket")]
        super::websocket::UpgradeContext::attach(request.extensions_mut(), &self.monitor);
        let is_chunked = request.version() < Version::HTTP_2 && fields.has_coding;
        let is_head = request.method() == Method::HEAD;
        let version = request.version();
        let mut exchange = self.monitor.begin(progress);
        exchange.access = AccessLine::begin(&request, self.monitor.transport());
        let exchange = Rc::new(exchange);
        let mut request = request.map(|()| body);
        if self.monitor.has_allowances() {
            request.extensions_mut().insert(Allowance::new(&self.monitor, &exchange));
        }
        let clock = self.clock.clone();
        let facts =
            RequestFacts { refusal, version, is_chunked, is_head, exchange: Some(exchange), clock };
        let stage = CallStage::Waiting { service: self.service.clone(), request: Some(request) };
        ResponseFuture { stage, facts }
    }
}

/// Facts about a request that its response depends on.
struct RequestFacts {
    refusal: Option<Refusal>,
    version: Version,
    /// If there is a Content-Length as well, hyper removes it and closes the connection after the
    /// response: RFC 9112, 6.1.
    is_chunked: bool,
    is_head: bool,
    /// `None` once the request is answered.
    exchange: Option<Rc<Exchange>>,
    clock: Option<Rc<Clock>>,
}

pin_project_lite::pin_project! {
    /// A response being produced.
    pub(super) struct ResponseFuture<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        stage: CallStage<S, S::Future>,
        facts: RequestFacts,
    }
}

pin_project_lite::pin_project! {
    #[project = Projected]
    enum CallStage<S, F> {
        // Waiting for the service to be ready.
        Waiting { service: S, request: Option<Request<Body>> },
        Called { #[pin] answer: F },
        Done,
    }
}

impl<S, B> Future for ResponseFuture<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>>,
    B: http_body::Body<Data = Bytes> + 'static,
{
    type Output = Result<Response<ResponseBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = match this.facts.refusal {
            Some(refusal) => Err(refusal.status),
            None => ready!(this.stage.poll_answer(cx)),
        };
        Poll::Ready(Ok(this.facts.finish_response(answer)))
    }
}

impl<S, B> CallStage<S, S::Future>
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<Failure>>,
{
    /// Calls the service, and answers its error or panic with 500.
    fn poll_answer(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<B>, StatusCode>> {
        let polled = catch_panic(|| {
            if let Projected::Waiting { service, request } = self.as_mut().project() {
                ready!(service.poll_ready(cx))?;
                let answer = service.call(request.take().expect("the service is called once"));
                self.set(CallStage::Called { answer });
            }
            let Projected::Called { answer } = self.as_mut().project() else {
                unreachable!("a completed response is not polled again");
            };
            let answered = ready!(answer.poll(cx));
            self.set(CallStage::Done);
            Poll::Ready(answered)
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(answer))) => return Poll::Ready(Ok(answer)),
            Ok(Poll::Ready(Err(error))) => {
                log_error!(error = %error.into(), "an HTTP service failed");
            }
            Err(panic) => log_error!(%panic, "an HTTP service panicked"),
        }
        Poll::Ready(Err(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

impl RequestFacts {
    /// Prepares the service's response, or an error response.
    fn finish_response<B: http_body::Body<Data = Bytes> + 'static>(
        &mut self,
        answer: Result<Response<B>, StatusCode>,
    ) -> Response<ResponseBody<B>> {
        let exchange = self.exchange.take().expect("answered once");
        exchange.begin_response();
        let mut answer = answer.map_or_else(empty_response, |answer| answer.map(Some));
        if let Err(status) = self.check_length(&mut answer) {
            answer = empty_response(status);
        }
        if self.version >= Version::HTTP_2 {
            self.strip_body(&mut answer);
        }
        let length = self.body_length(&answer);
        if let Some(clock) = &self.clock {
            answer.headers_mut().entry(header::DATE).or_insert_with(|| clock.date());
        }
        let is_http10 = self.version < Version::HTTP_11;
        let end = match length {
            Some(length) => BodyEnd::Length(length),
            None if is_http10 && !self.is_head => BodyEnd::Connection,
            None => BodyEnd::Framing,
        };
        // A switch to another protocol keeps the connection.
        let is_last = exchange.is_last() && answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        let ends = ((self.refusal.is_some() || is_last) && self.version < Version::HTTP_2)
            || (self.is_chunked && !exchange.has_plain_end())
            || (is_http10
                && answer.body().as_ref().is_some_and(|body| body.size_hint().exact().is_none()));
        if ends {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            if is_http10 {
                // Otherwise hyper also sends `keep-alive`, if the client did.
                *answer.version_mut() = Version::HTTP_10;
            }
        }
        if let Some(access) = &exchange.access {
            access.set_status(answer.status());
        }
        answer.map(|body| ResponseBody::new(body, end, exchange))
    }

    /// Drops the body of an HTTP/2 response that must not have one. RFC 9110,
    /// 6.4.1.
    fn strip_body<B: http_body::Body>(&self, answer: &mut Response<Option<B>>) {
        let is_bare = is_bare(answer);
        if !self.is_head && !is_bare {
            return;
        }
        let Some(body) = answer.body_mut().take() else { return };
        let length = body.size_hint().exact().filter(|length| *length > 0);
        if let (false, Some(length)) = (is_bare, length) {
            answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
    }

    /// Returns the length of the body to be sent, as declared by the service or known from the body.
    fn body_length<B: http_body::Body>(&self, answer: &Response<Option<B>>) -> Option<u64> {
        let Some(body) = answer.body() else { return Some(0) };
        if self.is_head || is_bare(answer) {
            return None;
        }
        let declared = answer.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
        declared.or_else(|| body.size_hint().exact())
    }

    /// Checks the headers of a response against its body, because its sender trusts those that a service
    /// sets: RFC 9112, 6.2, and RFC 9110, 8.6.
    fn check_length<B>(&self, answer: &mut Response<Option<B>>) -> Result<(), StatusCode>
    where
        B: http_body::Body<Data = Bytes>,
    {
        let Some(length) = answer.headers().get(header::CONTENT_LENGTH) else { return Ok(()) };
        let exact = answer.body().as_ref().and_then(|body| body.size_hint().exact());
        let is_number = length.as_bytes().iter().all(u8::is_ascii_digit);
        let number = length.to_str().ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        if is_bare(answer) {
            answer.headers_mut().remove(header::CONTENT_LENGTH);
        } else if answer.headers().contains_key(header::TRANSFER_ENCODING) {
            log_error!("an HTTP service set both Content-Length and Transfer-Encoding");
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        } else if exact.is_some_and(|exact| number != Some(exact) && !(self.is_head && exact == 0))
        {
            log_error!(?length, ?exact, "an HTTP service set a wrong Content-Length");
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        }
        Ok(())
    }
}

/// Whether a response with this status never has a body.
fn is_bare<B>(answer: &Response<B>) -> bool {
    matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Creates an empty response with this status.
fn empty_response<B>(status: StatusCode) -> Response<Option<B>> {
    let mut answer = Response::new(None);
    *answer.status_mut() = status;
    answer
}
