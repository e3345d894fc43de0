//! `couplet serve`: the files of a folder over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::path::PathBuf;

use couplet::http::{Body, HttpOptions, Peer, Request, Response};
use couplet::{LoopOptions, Reactor};
use tower::{Service, service_fn};
use tower_http::services::ServeDir;
use tower_http::services::fs::ServeFileSystemResponseBody;
use tracing::field::display;

use super::listing;
use crate::cli;
use crate::exit::Exit;
use crate::{output, server};

pub(crate) fn run(options: cli::HttpServe) -> Result<(), Exit> {
    let folder = options.folder;
    let cannot = |why: String| Exit::failed(format!("cannot serve {}: {why}", folder.display()));
    // Opened once, so that a folder that is no folder, or not for us, is told at once.
    std::fs::read_dir(&folder).map_err(|error| cannot(output::plain(&error)))?;
    let folder = folder.canonicalize().map_err(|error| cannot(output::plain(&error)))?;
    // The files are read by threads.
    let options_of_loop = LoopOptions::default().tokio();
    server::run_with(options_of_loop, options.listen, options.threads, |_| {
        |reactor: &Reactor, endpoint| {
            let http = HttpOptions::default().peer(true);
            reactor.serve_http_with(endpoint, files(folder.clone()), http)
        }
    })
}

/// What answers for a folder, and tells of each request.
fn files(
    folder: PathBuf,
) -> impl Service<
    Request<Body>,
    Response = Response<ServeFileSystemResponseBody>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<ServeFileSystemResponseBody>, Infallible>>,
> + Clone {
    let listing = listing::service(folder.clone());
    let files = ServeDir::new(folder).fallback(listing);
    service_fn(move |request: Request<Body>| {
        let mut files = files.clone();
        async move {
            let peer = request.extensions().get::<Peer>().cloned();
            let (method, target) = (request.method().clone(), request.uri().clone());
            let answer = files.call(request).await?;
            let status = answer.status().as_u16();
            let peer = peer.as_ref().map(|Peer(peer)| display(peer));
            tracing::info!(peer, %method, %target, status, "request");
            Ok(answer)
        }
    })
}
