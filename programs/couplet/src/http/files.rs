//! `couplet serve`: the files of a folder over HTTP/1.1 and HTTP/2.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use couplet::Reactor;
use couplet_servers::files::{DotNames, Links, Sending, Site, SiteOptions};

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
    let HttpServe { folder, links, dot_names, sending, cached, listen, threads } = options;
    let Cached { files, bytes, trust } = cached;
    let site = Site::new(&folder, SiteOptions { links, dot_names, sending, files, bytes, trust });
    let site = Arc::new(site.map_err(|error| {
        let (folder, why) = (folder.display(), output::plain(&error));
        Exit::failed(format!("cannot serve {folder}: {why}"))
    })?);
    let name = name.map(str::to_owned);
    Ok(Server::new(listen, threads, move |_| {
        let (site, name) = (site.clone(), name.clone());
        move |reactor: &Reactor, endpoint| site.listen(reactor, endpoint, name.as_deref())
    }))
}
