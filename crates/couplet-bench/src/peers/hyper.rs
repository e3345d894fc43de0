//! hyper on tokio's current-thread runtime, with the limits of its defaults.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;

use crate::kind::Role;
use crate::load::HELLO;

/// The service of this server, and of the library's.
pub(super) async fn answer<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(HELLO))))
}

/// Serves until the process ends.
pub(super) fn serve(listener: std::net::TcpListener, role: Role) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let stream = TokioIo::new(stream);
            // A connection's error ends that connection only.
            if role == Role::Hello2 {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                let builder = builder.timer(TokioTimer::new());
                drop(tokio::spawn(builder.serve_connection(stream, service_fn(answer))));
            } else {
                let mut builder = http1::Builder::new();
                let builder = builder.timer(TokioTimer::new()).pipeline_flush(true);
                drop(tokio::spawn(builder.serve_connection(stream, service_fn(answer))));
            }
        }
    })
}
