//! `couplet serve`: the files of a folder over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;

use couplet::http::HttpExt;
use couplet::http::{Allowance, Body, HttpOptions, Peer, Request, Response, StatusCode};
use couplet::{LoopOptions, Reactor};
use tower::service_fn;
use tracing::field::display;

use super::content::{ContentBody, PIECE};
use super::site::{Site, SiteRequest, plain};
use crate::cli;
use crate::exit::Exit;
use crate::{output, server};

pub(crate) fn run(options: cli::HttpServe) -> Result<(), Exit> {
    let site = Site::new(&options);
    let site = Arc::new(site.map_err(|error| {
        let (folder, why) = (options.folder.display(), output::plain(&error));
        Exit::failed(format!("cannot serve {folder}: {why}"))
    })?);
    server::run_with(LoopOptions::default(), options.listen, options.threads, |_| {
        |reactor: &Reactor, endpoint| {
            let (answering, site) = (reactor.clone(), site.clone());
            let service = service_fn(move |request| {
                // Boxed: hyper keeps the memory of the future until the answer is sent.
                let answer = Box::pin(answer(answering.clone(), site.clone(), request));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let http = HttpOptions::default().peer(true).allowance(true);
            reactor.serve_http_with(endpoint, service, http)
        }
    })
}

/// Answers a request and logs it.
async fn answer(
    reactor: Reactor,
    site: Arc<Site>,
    request: Request<Body>,
) -> Response<ContentBody> {
    let peer = request.extensions().get::<Peer>().cloned();
    let (method, target) = (request.method().clone(), request.uri().clone());
    let allowance = request.extensions().get::<Allowance>().expect("the option is set").clone();
    let (now, random) = (reactor.unix_time(), reactor.random());
    let ahead = allowance.reserve(PIECE);
    let site_request = SiteRequest { request: request.map(drop), now, random, ahead };
    let answer = reactor.defer_to_thread(move || Ok(site.answer(&site_request))).await;
    let answer = answer.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot answer a request");
        plain(StatusCode::INTERNAL_SERVER_ERROR)
    });
    // Returns the reservation for a file that is too long to be read ahead.
    allowance.reserve(answer.body().in_memory());
    let status = answer.status().as_u16();
    let peer = peer.as_ref().map(|Peer(peer)| display(peer));
    tracing::info!(peer, %method, %target, status, "request");
    answer.map(|content| ContentBody::new(content, allowance, &reactor))
}
