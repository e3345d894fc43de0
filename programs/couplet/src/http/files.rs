//! `couplet serve`: the files of a folder over HTTP/1.1 and HTTP/2.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use couplet::http::HttpExt;
use couplet::http::{Body, FileBody, HttpOptions, Peer, Request, Response, StatusCode};
use couplet::{Reactor, hooks};
use tower::service_fn;
use tracing::field::display;

use super::beneath::Links;
use super::cache::Limits;
use super::path::DotNames;
use super::site::{Sending, Site, SiteRequest, plain};
use crate::exit::Exit;
use crate::output;
use crate::server::{Listen, Server, Threads, listening};
use crate::values::flag;

/// Files that no request has asked for during such an interval are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

const EXAMPLE: &str = listening!(
    "  couplet serve --listen 8000                 the folder you are in
  couplet serve site --listen tls:8443:cert=server.pem:key=server.key
  couplet get http://localhost:8000/

HTTP/1.1, and HTTP/2 where the client asks for it. Ranges and conditional requests are answered; a
folder with an index.html is that page, any other one a list of its files. Only files and folders
are served, not devices or pipes; hidden ones and links out of DIR only if asked for. A file that is
overwritten while it is sent ends its connection, since the client would get a mixture of two
versions; one that only grows is sent to the announced length. -v logs each request."
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
    /// Send long files by sendfile, without a copy. For folders whose files are replaced by others and
    /// never changed in place: a client may get a mixture of two versions
    #[arg(
        long = "sendfile",
        action = ArgAction::SetTrue,
        value_parser = flag(Sending::Copied, Sending::Direct)
    )]
    sending: Sending,
    #[command(flatten)]
    cached: Cached,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
}

/// The limits of the cache.
#[derive(Args, Debug)]
struct Cached {
    /// Keep at most this many files open or in memory, with two descriptors each; 0 for none
    #[arg(long = "cache-files", value_name = "COUNT", default_value_t = 256)]
    files: usize,
    /// Keep at most this many bytes of files in memory; of a file above a quarter of them, none
    #[arg(
        long = "cache-bytes",
        value_name = "BYTES",
        default_value_t = 64 * 1024 * 1024,
        value_parser = crate::values::bytes
    )]
    bytes: u64,
    /// Look at the file system again after this many seconds
    #[arg(
        long = "cache-time",
        value_name = "SECONDS",
        default_value = "1",
        value_parser = crate::values::seconds
    )]
    trust: Duration,
}

pub(crate) fn run(options: HttpServe) -> Result<(), Exit> {
    server(options, None)?.run()
}

/// The server. With a name, as a service, it moves its connections to a new process.
pub(crate) fn server(options: HttpServe, name: Option<&str>) -> Result<Server, Exit> {
    let Cached { files, bytes, trust } = options.cached;
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let sealed = match options.sending {
        Sending::Copied => Limits::sealed_of(bytes),
        Sending::Direct => 0,
    };
    let limits = Limits { files, bytes, sealed, trust };
    let site =
        Site::new(&options.folder, options.links, options.dot_names, options.sending, limits);
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
            let http = HttpOptions::default().peer(true);
            let http = name.iter().fold(http, |http, name| http.hand_over_as(name));
            reactor.serve_http_with(endpoint, service, http)
        }
    }))
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
