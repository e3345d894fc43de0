//! The way of a request to the service, and of its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower_service::Service;

use super::body::{Body, Outgoing};
use super::refusal::{self, Refusal};
use super::watch::Watch;
use crate::panics::caught_in;
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
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
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
        // With a Content-Length besides, hyper takes that away, and ends the connection after the
        // answer: RFC 9112, 6.1.
        let is_chunked = is_http1 && request.headers().contains_key(header::TRANSFER_ENCODING);
        let is_old = request.version() < Version::HTTP_11;
        let is_head = request.method() == Method::HEAD;
        let (head, incoming) = request.into_parts();
        let (body, progress) = Body::new(incoming);
        let request = Request::from_parts(head, body);
        let exchange = self.watch.begin(progress);
        let (service, clock) = (self.service.clone(), self.clock.clone());
        Box::pin(async move {
            let answer = match refusal {
                None => answer(service, request).await.and_then(|answer| framed(answer, is_head)),
                Some(refusal) => Err(refusal.status),
            };
            let (mut head, body) = match answer {
                Ok(answer) if is_http1 => {
                    let (head, body) = answer.into_parts();
                    (head, Some(body))
                }
                Ok(answer) => with_content(answer, is_head),
                Err(status) => {
                    let mut head = Response::new(()).into_parts().0;
                    head.status = status;
                    (head, None)
                }
            };
            if !head.headers.contains_key(header::DATE) {
                head.headers.insert(header::DATE, clock.date());
            }
            let ends = (refusal.is_some() && is_http1)
                || (is_chunked && !exchange.has_plain_end())
                || (is_old && body.as_ref().is_some_and(|body| body.size_hint().exact().is_none()));
            if ends {
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                if is_old {
                    // Else hyper says `keep-alive` besides, if the client did.
                    head.version = Version::HTTP_10;
                }
            }
            Ok(Response::from_parts(head, Outgoing::new(body, exchange)))
        })
    }
}

/// Asks the service. Its error, or its panic, is answered with 500.
async fn answer<S, B>(mut service: S, request: Request<Body>) -> Result<Response<B>, StatusCode>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let answering = async {
        poll_fn(|cx| service.poll_ready(cx)).await?;
        service.call(request).await
    };
    match caught_in(answering).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => tracing::error!(error = %error.into(), "an HTTP service failed"),
        Err(panic) => tracing::error!(%panic, "an HTTP service panicked"),
    }
    Err(StatusCode::INTERNAL_SERVER_ERROR)
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
