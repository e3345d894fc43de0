//! [`serve`]: runs a server inside tokio, as the last line of a program.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tower_service::Service;

use super::Body;
use crate::HttpExt;
use couplet_core::embed::Embedded;
use couplet_core::endpoints::{IntoEndpoint, ServerEndpoint};
use couplet_core::{Failure, Loop, LoopOptions, Result};

/// Serves HTTP on `endpoint` inside a current-thread tokio runtime, until a signal ends it:
/// `axum::serve`, on a loop.
///
/// SIGTERM starts a drain of at most 5 s; Ctrl-C, or a second signal, ends the server immediately.
///
/// ```no_run
/// use axum::{Router, routing::get};
///
/// #[tokio::main(flavor = "current_thread")]
/// async fn main() -> couplet::Result<()> {
///     let router = Router::new().route("/", get(async || "hello, world\n"));
///     couplet::http::serve("tcp:8000", router).await
/// }
/// ```
///
/// # Errors
///
/// If listening on the endpoint fails, or if the loop's descriptors can't be created.
pub async fn serve<S, B>(endpoint: impl IntoEndpoint<dyn ServerEndpoint>, service: S) -> Result<()>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<Failure>,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Failure>,
{
    let options = LoopOptions::default().drain(Duration::from_secs(5));
    let run = Embedded::begin(Loop::with_options(options)?, |reactor| {
        let port = reactor.serve_http(endpoint, service)?;
        tracing::info!(host = %port.host(), "serving HTTP");
        Ok(())
    })?;
    run.await
}
