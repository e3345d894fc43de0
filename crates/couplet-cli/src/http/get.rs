//! `couplet get`: fetches a URL, and prints what comes.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use couplet::http::{Client, ClientOptions, Request, Response};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::{Failure, LoopOptions, Reactor};

use crate::cli;
use crate::exit::Exit;
use crate::{output, signalled_loop};

/// Where the answer goes.
type Sink = Arc<Mutex<dyn Write + Send>>;

pub(crate) fn run(options: cli::HttpGet) -> Result<(), Exit> {
    // A reader that has stopped does not hold up a Ctrl-C.
    let l = signalled_loop(LoopOptions::default().job_grace(Duration::ZERO), output::tell)?;
    let client = client_options(&options)?;
    let reactor = l.reactor();
    let fetching = reactor.clone().spawn(async move {
        let client = Client::with_options(&reactor, client);
        Ok::<_, Failure>(fetch(&reactor, &client, &options).await)
    });
    let ran = l.run_until(fetching);
    match (ran, l.stopped_by()) {
        (_, Some(signal)) => Err(Exit::interrupted(signal)),
        (Ok(fetched), None) => fetched,
        (Err(failure), None) => Err(failure.into()),
    }
}

fn client_options(options: &cli::HttpGet) -> Result<ClientOptions, Exit> {
    let mut client = ClientOptions::default().proxy(options.proxy.clone());
    // Who asks for a file wants it as it is, an archive packed.
    client = client.decompress(options.compressed);
    if let Some(limit) = options.timeout {
        client = client.timeout(Some(limit));
    }
    if let Some(file) = &options.ca {
        let cannot = |error| Exit::failed(format!("cannot trust {}: {error}", file.display()));
        let roots = Roots::from_pem_file(file).map_err(cannot)?;
        client = client.tls(ClientTlsOptions::default().roots(roots));
    }
    Ok(client)
}

async fn fetch(reactor: &Reactor, client: &Client, options: &cli::HttpGet) -> Result<(), Exit> {
    let method = if options.head { "HEAD" } else { "GET" };
    let request = Request::builder().method(method).uri(options.url.clone());
    let agent = concat!("couplet/", env!("CARGO_PKG_VERSION"));
    let request = request.header("user-agent", agent).header("accept", "*/*").body(Bytes::new());
    let said = |error: &dyn std::fmt::Display| Exit::failed(format!("{}: {error}", options.url));
    let request = request.map_err(|error| said(&error))?;
    let answer = client.send(request).await.map_err(|error| said(&error))?;
    let (sink, name) = sink(options)?;
    let status = answer.status();
    if options.include || options.head {
        write(reactor, &sink, &name, head_of(&answer)).await?;
    }
    let mut body = answer.into_body();
    while let Some(piece) = body.next().await.map_err(|error| said(&error))? {
        write(reactor, &sink, &name, piece).await?;
    }
    if status.is_client_error() || status.is_server_error() {
        return Err(said(&status));
    }
    Ok(())
}

fn sink(options: &cli::HttpGet) -> Result<(Sink, String), Exit> {
    let Some(path) = &options.output else {
        return Ok((Arc::new(Mutex::new(io::stdout())), "stdout".to_owned()));
    };
    let name = path.display().to_string();
    let file = File::create(path).map_err(|error| output::cannot_write(&name, &error))?;
    Ok((Arc::new(Mutex::new(file)), name))
}

/// Writes in another thread, which a slow reader may hold up; meanwhile no more is read.
async fn write(reactor: &Reactor, sink: &Sink, name: &str, piece: Bytes) -> Result<(), Exit> {
    let sink = sink.clone();
    let writing = reactor.defer_to_thread(move || {
        let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sink.write_all(&piece).and_then(|()| sink.flush()))
    });
    writing.await?.map_err(|error| output::cannot_write(name, &error))
}

/// The head of an answer, as HTTP/1.1 writes it.
fn head_of<B>(answer: &Response<B>) -> Bytes {
    let mut head = format!("{:?} {}\r\n", answer.version(), answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    head.into()
}
