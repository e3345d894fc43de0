//! The files of a folder over HTTP/1.1 and HTTP/2: a [`Site`].

mod beneath;
mod cache;
mod conditions;
mod listing;
mod path;
mod ranges;
mod site;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use couplet::endpoints::ServerEndpoint;
use couplet::http::{Body, FileBody, HttpExt, HttpOptions, Peer, Request, Response, StatusCode};
use couplet::{Port, Reactor, hooks};
use tower_service::Service;
use tracing::field::display;

pub use beneath::Links;
pub use path::DotNames;
pub use site::{Sending, Site, SiteOptions};
use site::{SiteRequest, plain};

/// Files that no request has asked for during such an interval are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

impl Site {
    /// Opens a port that serves the site. With a name, its connections move to the service of this name
    /// in a new process.
    ///
    /// # Errors
    ///
    /// As of [`Reactor::listen`].
    pub fn listen(
        self: &Arc<Site>,
        reactor: &Reactor,
        endpoint: Arc<dyn ServerEndpoint>,
        name: Option<&str>,
    ) -> couplet::Result<Port> {
        let service = Answers { reactor: reactor.clone(), site: self.clone() };
        let http = HttpOptions::default().peer(true);
        let http = name.iter().fold(http, |http, name| http.hand_over_as(*name));
        reactor.serve_http_with(endpoint, service, http)
    }
}

/// Answers the requests of all connections.
#[derive(Clone)]
struct Answers {
    reactor: Reactor,
    site: Arc<Site>,
}

impl Service<Request<Body>> for Answers {
    type Response = Response<FileBody>;
    type Error = Infallible;
    // Boxed: hyper keeps the memory of the future until the answer is sent.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = answer(self.reactor.clone(), self.site.clone(), request);
        Box::pin(async { Ok(answer.await) })
    }
}

/// Answers a request and logs it.
async fn answer(reactor: Reactor, site: Arc<Site>, request: Request<Body>) -> Response<FileBody> {
    let peer = request.extensions().get::<Peer>().cloned();
    let (method, target) = (request.method().clone(), request.uri().clone());
    let (now, random) = (hooks::unix_time(&reactor), hooks::random(&reactor));
    let site_request = SiteRequest { request: request.map(drop), now, random };
    let answer = match site.cached_answer(&site_request) {
        Some(answer) => answer,
        None => read_answer(&reactor, site, site_request).await,
    };
    let status = answer.status().as_u16();
    let peer = peer.as_ref().map(|Peer(peer)| display(peer));
    tracing::info!(peer, %method, %target, status, "request");
    answer
}

/// Answers a request in a thread.
async fn read_answer(
    reactor: &Reactor,
    site: Arc<Site>,
    site_request: SiteRequest,
) -> Response<FileBody> {
    let answering = site.clone();
    let answer = reactor.defer_to_thread(move || Ok(answering.answer(&site_request))).await;
    sweep_later(reactor, &site);
    answer.unwrap_or_else(|error| {
        tracing::error!(%error, "cannot answer a request");
        plain(StatusCode::INTERNAL_SERVER_ERROR)
    })
}

/// Closes the files that no request has asked for, until none is kept.
fn sweep_later(reactor: &Reactor, site: &Arc<Site>) {
    if site.cache().starts_sweeping() {
        let (sweeping, site) = (reactor.clone(), site.clone());
        reactor.call_later(SWEEP_INTERVAL, move || {
            site.cache().sweep();
            sweep_later(&sweeping, &site);
        });
    }
}
