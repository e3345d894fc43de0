//! hyper on tokio's current-thread runtime, with the limits of its defaults. Files are tower-http's.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower_http::services::ServeDir;

use crate::kind::Role;
use crate::load::HELLO;

/// The service of this server, and of the library's.
pub(super) async fn answer<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(HELLO))))
}

/// Serves until the process ends.
pub(super) fn serve(listener: std::net::TcpListener, role: Role, folder: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let files = TowerToHyperService::new(ServeDir::new(folder.join("site")));
    let mut one = http1::Builder::new();
    one.timer(TokioTimer::new()).pipeline_flush(true);
    let mut two = http2::Builder::new(TokioExecutor::new());
    two.timer(TokioTimer::new());
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(stream);
            // A connection's error ends that connection only.
            match role {
                Role::Hello2 => {
                    drop(tokio::spawn(two.serve_connection(stream, service_fn(answer))))
                }
                Role::Files => drop(tokio::spawn(one.serve_connection(stream, files.clone()))),
                _ => drop(tokio::spawn(one.serve_connection(stream, service_fn(answer)))),
            }
        }
    })
}
