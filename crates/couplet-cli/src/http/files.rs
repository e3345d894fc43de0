//! `couplet serve`: the files of a folder over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgAction, Args};
use couplet::Reactor;
use couplet::http::HttpExt;
use couplet::http::{Allowance, Body, HttpOptions, Peer, Request, Response, StatusCode};
use tower::service_fn;
use tracing::field::display;

use super::beneath::Links;
use super::content::{ContentBody, PIECE};
use super::path::DotNames;
use super::site::{Site, SiteRequest, plain};
use crate::exit::Exit;
use crate::output;
use crate::server::{Listen, Server, Threads, listening};
use crate::values::flag;

const EXAMPLE: &str = listening!(
    "  couplet serve --listen 8000                 the folder you are in
  couplet serve site --listen tls:8443:cert=server.pem:key=server.key
  couplet get http://localhost:8000/

HTTP/1.1, and HTTP/2 where the client asks for it. Ranges and conditional requests are answered; a
folder with an index.html is that page, any other one a list of its files. Only files and folders
are served, not devices or pipes; hidden ones and links out of DIR only if asked for. A file that
changes while it is sent ends its connection, since the client would get a mixture of two versions.
-v logs each request."
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct HttpServe {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Also serve files and folders whose names begin with a dot
    #[arg(
        long = "hidden",
        action = ArgAction::SetTrue,
        value_parser = flag(DotNames::Hidden, DotNames::Served)
    )]
    dot_names: DotNames,
    /// Follow all symbolic links; without this option only relative ones that stay inside DIR
    #[arg(
        long = "follow",
        action = ArgAction::SetTrue,
        value_parser = flag(Links::Inside, Links::Anywhere)
    )]
    links: Links,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
}

pub(crate) fn run(options: HttpServe) -> Result<(), Exit> {
    server(options, None)?.run()
}

/// The server. Its connections move to a new process if it is a service, with a name.
pub(crate) fn server(options: HttpServe, name: Option<&str>) -> Result<Server, Exit> {
    let site = Site::new(&options.folder, options.links, options.dot_names);
    let name = name.map(str::to_owned);
    let site = Arc::new(site.map_err(|error| {
        let (folder, why) = (options.folder.display(), output::plain(&error));
        Exit::failed(format!("cannot serve {folder}: {why}"))
    })?);
    Ok(Server::new(options.listen, options.threads, move |_| {
        let (site, name) = (site.clone(), name.clone());
        move |reactor: &Reactor, endpoint| {
            let (answering, site) = (reactor.clone(), site.clone());
            let service = service_fn(move |request| {
                // Boxed: hyper keeps the memory of the future until the answer is sent.
                let answer = Box::pin(answer(answering.clone(), site.clone(), request));
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let http = HttpOptions::default().peer(true).allowance(true);
            let http = name.iter().fold(http, |http, name| http.hand_over_as(name));
            reactor.serve_http_with(endpoint, service, http)
        }
    }))
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
