//! The way of a request to the service, and of its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower_service::Service;

use super::body::{Body, Outgoing};
use super::refusal::{self, Refusal};
use super::watch::{Exchange, Watch};
use crate::panics::caught;
use crate::{Address, Reactor};

/// An error of a service or of a body.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// The address of the client, in the extensions of a request: see
/// [`HttpOptions::peer`](super::HttpOptions::peer). Behind a proxy it is the proxy's, unless the endpoint
/// is `haproxy:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Address);

/// Answers the requests of one connection.
pub(super) struct Handler<S> {
    service: S,
    watch: Rc<Watch>,
    clock: Rc<Clock>,
}

/// The time of day for the answers of a server, as a header.
pub(super) struct Clock {
    reactor: Reactor,
    /// And until when it holds.
    date: RefCell<Option<(Instant, HeaderValue)>>,
}

impl Clock {
    pub(super) fn new(reactor: &Reactor) -> Rc<Clock> {
        Rc::new(Clock { reactor: reactor.clone(), date: RefCell::default() })
    }

    fn date(&self) -> HeaderValue {
        let now = self.reactor.now();
        let mut date = self.date.borrow_mut();
        match &*date {
            Some((until, value)) if now < *until => value.clone(),
            _ => {
                let time = self.reactor.unix_time();
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
    pub(super) fn new(service: S, watch: &Rc<Watch>, clock: &Rc<Clock>) -> Handler<S> {
        Handler { service, watch: watch.clone(), clock: clock.clone() }
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Handler<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + 'static,
{
    type Response = Response<Outgoing<B>>;
    type Error = Infallible;
    type Future = Answering<S>;

    fn call(&self, mut request: Request<Incoming>) -> Answering<S> {
        let refusal = Refusal::of(&request, self.watch.max_headers());
        match refusal {
            Some(Refusal { why, .. }) => self.watch.tell("a request was refused", &why),
            None => {
                refusal::set_host(&mut request);
                refusal::join_cookies(&mut request);
            }
        }
        if let Some(peer) = self.watch.peer() {
            request.extensions_mut().insert(Peer(peer));
        }
        #[cfg(feature = "websocket")]
        super::websocket::Origin::note(request.extensions_mut(), &self.watch);
        let is_http1 = request.version() < Version::HTTP_2;
        let is_chunked = is_http1 && request.headers().contains_key(header::TRANSFER_ENCODING);
        let is_old = request.version() < Version::HTTP_11;
        let is_head = request.method() == Method::HEAD;
        let (head, incoming) = request.into_parts();
        let (body, progress) = Body::new(incoming);
        let exchange = Some(self.watch.begin(progress));
        let clock = self.clock.clone();
        Answering {
            service: self.service.clone(),
            request: Some(Request::from_parts(head, body)),
            answer: None,
            facts: Facts { refusal, is_http1, is_chunked, is_old, is_head, exchange, clock },
        }
    }
}

/// What is known of a request when its answer is there.
struct Facts {
    refusal: Option<Refusal>,
    is_http1: bool,
    /// With a Content-Length besides, hyper takes that away, and ends the connection after the answer:
    /// RFC 9112, 6.1.
    is_chunked: bool,
    is_old: bool,
    is_head: bool,
    /// Until it is answered.
    exchange: Option<Exchange>,
    clock: Rc<Clock>,
}

pin_project_lite::pin_project! {
    /// An answer in the making.
    pub(super) struct Answering<S>
    where
        S: Service<Request<Body>>,
    {
        service: S,
        // Until the service is ready for it.
        request: Option<Request<Body>>,
        #[pin]
        answer: Option<S::Future>,
        facts: Facts,
    }
}

impl<S, B> Future for Answering<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<Outgoing<B>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.facts.refusal {
            Some(refusal) => Err(refusal.status),
            None => ready!(self.as_mut().poll_answer(cx)),
        };
        Poll::Ready(Ok(self.project().facts.answered(answer)))
    }
}

impl<S, B> Answering<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    /// Asks the service. Its error, or its panic, is answered with 500.
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<B>, StatusCode>> {
        let mut this = self.project();
        let polled = caught(|| {
            if this.request.is_some() {
                ready!(this.service.poll_ready(cx))?;
                this.answer.set(this.request.take().map(|request| this.service.call(request)));
            }
            let answer = this.answer.as_mut().as_pin_mut().expect("polled until it is ready");
            let answered = ready!(answer.poll(cx));
            this.answer.set(None);
            Poll::Ready(answered)
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(answer))) => return Poll::Ready(Ok(answer)),
            Ok(Poll::Ready(Err(error))) => {
                tracing::error!(error = %error.into(), "an HTTP service failed");
            }
            Err(panic) => tracing::error!(%panic, "an HTTP service panicked"),
        }
        Poll::Ready(Err(StatusCode::INTERNAL_SERVER_ERROR))
    }
}

impl Facts {
    /// What the client gets.
    fn answered<B: http_body::Body<Data = Bytes>>(
        &mut self,
        answer: Result<Response<B>, StatusCode>,
    ) -> Response<Outgoing<B>> {
        let exchange = self.exchange.take().expect("answered once");
        let (mut head, body) = match answer.and_then(|answer| framed(answer, self.is_head)) {
            Ok(answer) if self.is_http1 => {
                let (head, body) = answer.into_parts();
                (head, Some(body))
            }
            Ok(answer) => with_content(answer, self.is_head),
            Err(status) => {
                let mut head = Response::new(()).into_parts().0;
                head.status = status;
                (head, None)
            }
        };
        if !head.headers.contains_key(header::DATE) {
            head.headers.insert(header::DATE, self.clock.date());
        }
        let ends = (self.refusal.is_some() && self.is_http1)
            || (self.is_chunked && !exchange.has_plain_end())
            || (self.is_old
                && body.as_ref().is_some_and(|body| body.size_hint().exact().is_none()));
        if ends {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            if self.is_old {
                // Else hyper says `keep-alive` besides, if the client did.
                head.version = Version::HTTP_10;
            }
        }
        Response::from_parts(head, Outgoing::new(body, exchange))
    }
}

/// An answer of HTTP/2, without a body where it has none: hyper would send it. RFC 9110, 6.4.1.
fn with_content<B: http_body::Body>(
    answer: Response<B>,
    is_head: bool,
) -> (http::response::Parts, Option<B>) {
    let (mut head, body) = answer.into_parts();
    let is_bare = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let length = body.size_hint().exact().filter(|length| *length > 0);
    if let (true, Some(length)) = (is_head && !is_bare, length) {
        head.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
    }
    (head, (!is_head && !is_bare).then_some(body))
}

/// An answer whose headers agree with its body: hyper trusts those that a service sets. RFC 9112, 6.2,
/// and RFC 9110, 8.6.
fn framed<B>(mut answer: Response<B>, is_head: bool) -> Result<Response<B>, StatusCode>
where
    B: http_body::Body<Data = Bytes>,
{
    let Some(length) = answer.headers().get(header::CONTENT_LENGTH) else { return Ok(answer) };
    let exact = answer.body().size_hint().exact();
    let is_number = length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    if matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    } else if answer.headers().contains_key(header::TRANSFER_ENCODING) {
        tracing::error!("an HTTP service gave an answer a Content-Length and a Transfer-Encoding");
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    } else if exact.is_some_and(|exact| number != Some(exact) && !(is_head && exact == 0)) {
        tracing::error!(?length, ?exact, "an HTTP service gave an answer a wrong Content-Length");
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    Ok(answer)
}
