//! A service over sockets that describes each request in its answer, for client programs.

use couplet::defer::DeferredEvent;
use couplet::http::HttpExt;
use couplet::http::{Body, Method, Request, Response, StatusCode};
use couplet::{Bytes, Result};
use http_body_util::{BodyExt, Either, Full};
use tower::service_fn;

use crate::kit::run_live;

pub(crate) const CLEAR: &str = "tcp:0:interface=127.0.0.1";

type Answer = Response<Either<Full<Bytes>, Body>>;

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Either::Left(Full::new(text.into())))
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = text("");
    *answer.status_mut() = status;
    answer
}

/// Answers with the method, the path, the length of the body, the trailers, and the fields that
/// `x-echo` names. `/never` has no answer, `/held` waits for `/release`, `/early` reads no body.
async fn answer(held: DeferredEvent, request: Request<Body>) -> Result<Answer> {
    if request.method() == Method::CONNECT {
        return Ok(empty(StatusCode::METHOD_NOT_ALLOWED));
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    match path {
        "/never" => std::future::pending().await,
        "/held" => held.wait().await?,
        "/release" => held.set(),
        "/early" => return Ok(text("early")),
        "/echo" => return Ok(Response::new(Either::Right(body))),
        "/empty" => return Ok(empty(StatusCode::NO_CONTENT)),
        _ => {}
    }
    if let Some(length) = path.strip_prefix("/large/") {
        return Ok(text(vec![b'x'; length.parse()?]));
    }
    let whole = body.collect().await?;
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let echoed = head.headers.get("x-echo").map(|name| name.to_str().map(str::to_owned));
    let echoed = echoed.transpose()?.unwrap_or_default();
    let fields = head.headers.iter().filter(|(name, _)| name.as_str() == echoed);
    let mut said = format!("{} {path} {}", head.method, whole.to_bytes().len());
    for (name, value) in fields.chain(&trailers) {
        said += &format!(" {name}={}", value.to_str()?);
    }
    Ok(text(said))
}

/// Serves over sockets while a client, which gets the port's number, runs in another thread.
pub(crate) fn over_sockets<T: Send + 'static>(
    endpoint: &str,
    client: impl FnOnce(u16) -> Result<T> + Send + 'static,
) -> T {
    let held = DeferredEvent::new();
    let service = service_fn(move |request| {
        let held = held.clone();
        async move { answer(held, request).await }
    });
    let endpoint = endpoint.to_owned();
    run_live(async move |reactor| {
        let port = reactor.serve_http(endpoint, service)?;
        let number = port.host().port().expect("a TCP port");
        reactor.defer_to_thread(move || client(number)).await
    })
}
