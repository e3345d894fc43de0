//! Health over HTTP: `/healthz` and `/readyz`, for load balancers and orchestrators.

use std::rc::Rc;

use couplet::http::{Body, HttpExt, local};
use couplet::services::{Health, Service, Supervisor};
use couplet::{Failure, Reactor};
use http::{Request, Response, StatusCode};

use crate::values::Listen;

/// Serves the health of the supervisor.
pub(crate) fn serve(
    reactor: &Reactor,
    endpoint: &Listen,
    supervisor: &Supervisor,
) -> Result<(), Failure> {
    let supervisor = Rc::new(supervisor.clone());
    let answers = local(reactor, async move |request: Request<Body>| answer(&request, &supervisor));
    let port = reactor
        .serve_http(endpoint, answers)
        .map_err(|failure| Failure::msg(format!("cannot serve the health: {failure}")))?;
    tracing::info!(host = %port.host(), "serving the health");
    Ok(())
}

fn answer(request: &Request<Body>, supervisor: &Supervisor) -> Response<String> {
    let health = supervisor.health();
    let is_good = match request.uri().path() {
        // A program that starts or stops is alive.
        "/healthz" => !matches!(health, Health::Failed(_)),
        "/readyz" => health.is_ready(),
        _ => return response(StatusCode::NOT_FOUND, "there are /healthz and /readyz\n".to_owned()),
    };
    let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines = supervisor.children().iter().map(|child| format!("{child}\n")).collect::<String>();
    response(status, format!("{health}\n{lines}"))
}

fn response(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(http::header::CONTENT_TYPE, plain);
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}
