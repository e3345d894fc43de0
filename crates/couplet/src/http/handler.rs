//! The way of a request to the service, and of its answer.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tower_service::Service;

use super::body::{Body, Outgoing};
use super::watch::Watch;
use crate::Reactor;
use crate::panics::caught;

/// An error of a service or of a body.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

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

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let problem = problem_of(&request);
        let ends = has_hidden_length(&request);
        let (request, progress) = {
            #[cfg_attr(not(feature = "websocket"), allow(unused_mut))]
            let (mut head, incoming) = request.into_parts();
            #[cfg(feature = "websocket")]
            super::websocket::Origin::note(&mut head.extensions, &self.watch);
            let (body, progress) = Body::new(incoming);
            (Request::from_parts(head, body), progress)
        };
        let exchange = self.watch.begin(progress);
        let (service, clock) = (self.service.clone(), self.clock.clone());
        Box::pin(async move {
            let answer = match problem {
                None => answer(service, request).await,
                Some(status) => Err(status),
            };
            let (mut head, body) = match answer {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    (head, Some(body))
                }
                Err(status) => {
                    let mut head = Response::new(()).into_parts().0;
                    head.status = status;
                    (head, None)
                }
            };
            if !head.headers.contains_key(header::DATE) {
                head.headers.insert(header::DATE, clock.date());
            }
            if ends || problem.is_some() {
                head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
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
    let mut answering = pin!(answering);
    let answered = poll_fn(|cx| match caught(|| answering.as_mut().poll(cx)) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Err(panic).into(),
    });
    match answered.await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => tracing::error!(error = %error.into(), "an HTTP service failed"),
        Err(panic) => tracing::error!(%panic, "an HTTP service panicked"),
    }
    Err(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What is wrong with a request that hyper lets pass: RFC 9112, 3.2, one Host in HTTP/1.1.
fn problem_of<B>(request: &Request<B>) -> Option<StatusCode> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let is_wrong = match request.version() {
        Version::HTTP_11 => hosts != 1,
        _ => hosts > 1,
    };
    is_wrong.then_some(StatusCode::BAD_REQUEST)
}

/// hyper takes a Content-Length away that comes with a Transfer-Encoding. Then the connection must end
/// with the answer (RFC 9112, 6.1), so it does after every such request.
fn has_hidden_length<B>(request: &Request<B>) -> bool {
    request.version() < Version::HTTP_2 && request.headers().contains_key(header::TRANSFER_ENCODING)
}
