//! HTTP compared with hyper on tokio: a server of `couplet::http` and a server of hyper on tokio's
//! current-thread runtime run the same service alternately. Prints the server's processor time per
//! request in its best round, and the ratio within a round: median, least and most.
//!
//! `cargo bench -p couplet-http --features tls --bench http`, or with `-- body` for the rows that
//! contain `body`.

#![forbid(unsafe_code)]

use couplet::http::HttpExt;
use couplet_testkit::bench::{program, secure, served};
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use couplet_testkit::bench::secure::certified;
use couplet_testkit::bench::served::{Result, Row, Server};
use http_body_util::Full;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Builder;

const MEGABYTE: usize = 1024 * 1024;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", "couplet", folder] => return serve_couplet(folder),
        ["--serve", "tokio", folder] => return serve_tokio(folder),
        _ => {}
    }
    let wanted = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let (servers_cpu, load_cpu) = program::processors()?;
    servers_cpu.map(program::pin).transpose()?;
    let this = std::env::current_exe()?;
    let folder = certified();
    let path = folder.display().to_string();
    let start = |name, word, folder: &str| {
        Server::start(name, Command::new(&this).args(["--serve", word, folder]))
    };
    let servers = [start("couplet::http", "couplet", "")?, start("hyper on tokio", "tokio", "")?];
    let secure =
        [start("couplet::http", "couplet", &path)?, start("hyper, tokio-rustls", "tokio", &path)?];
    load_cpu.map(program::pin).transpose()?;
    let trusting = secure::client(&folder, Resumption::in_memory_sessions(8))?;
    let rows: [Row<'_>; 5] = [
        ("hello, 1 connection", &|server| requests(server, &connect, "/", 1, 1, 4000)),
        ("hello, 50 connections", &|server| requests(server, &connect, "/", 50, 1, 200)),
        ("hello, 50 connections, 16 in flight", &|server| {
            requests(server, &connect, "/", 50, 16, 20)
        }),
        ("body of a MB", &|server| requests(server, &connect, "/much", 4, 1, 40)),
        ("connection of one request", &short),
    ];
    served::compare(&servers, &rows, &wanted)?;
    let to = |server: &Server| secure::connect(server.address, &trusting);
    let rows: [Row<'_>; 2] = [
        ("hello over TLS, 50 connections", &|server| requests(server, &to, "/", 50, 1, 200)),
        ("body of a MB over TLS", &|server| requests(server, &to, "/much", 4, 1, 40)),
    ];
    served::compare(&secure, &rows, &wanted)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: couplet.test\r\nAccept: */*\r\n\r\n")
}

/// Reads an answer with a Content-Length.
fn read_answer(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 64 * 1024];
    loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            let head = std::str::from_utf8(&buffer[..end])?;
            let length =
                head.split("content-length: ").nth(1).ok_or("an answer without a length")?;
            let length: usize = length.split("\r\n").next().unwrap_or_default().parse()?;
            let mut left = (end + 4 + length).saturating_sub(buffer.len());
            buffer.drain(..buffer.len().min(end + 4 + length));
            while left > 0 {
                let most = left.min(piece.len());
                match stream.read(&mut piece[..most])? {
                    0 => return Err("the body was cut".into()),
                    n => left -= n,
                }
            }
            return Ok(());
        }
        match stream.read(&mut piece)? {
            0 => return Err("the answer was cut".into()),
            n => buffer.extend_from_slice(&piece[..n]),
        }
    }
}

fn connect(server: &Server) -> Result<TcpStream> {
    let stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends requests on concurrent connections, several in flight on each. Returns nanoseconds per
/// request.
fn requests<C: Read + Write>(
    server: &Server,
    connect: &impl Fn(&Server) -> Result<C>,
    path: &str,
    connections: usize,
    in_flight: usize,
    times: usize,
) -> Result<f64> {
    let request = get(path).repeat(in_flight);
    let each = server.round_trips(
        connections,
        times,
        || Ok((connect(server)?, Vec::new())),
        |(client, _)| Ok(client.write_all(request.as_bytes())?),
        |(client, buffer)| (0..in_flight).try_for_each(|_| read_answer(client, buffer)),
    )?;
    Ok(each / in_flight as f64)
}

/// Opens a connection for each request; the client closes it.
fn short(server: &Server) -> Result<f64> {
    const TIMES: usize = 2000;
    let before = server.processor_time()?;
    for _ in 0..TIMES {
        let mut client = connect(server)?;
        client.write_all(get("/").as_bytes())?;
        read_answer(&mut client, &mut Vec::new())?;
    }
    Ok((server.processor_time()? - before) / TIMES as f64)
}

/// The service of both servers.
async fn answer<B>(request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    static MUCH: OnceLock<Bytes> = OnceLock::new();
    Ok(Response::new(Full::new(match request.uri().path() {
        "/much" => MUCH.get_or_init(|| vec![7; MEGABYTE].into()).clone(),
        _ => Bytes::from_static(b"hello, world"),
    })))
}

/// Over TLS, if a folder with the certificate is given.
fn serve_couplet(folder: &str) -> Result<()> {
    let endpoint = match folder {
        "" => "tcp:0:interface=127.0.0.1".to_owned(),
        _ => format!("tls:0:interface=127.0.0.1:cert={folder}/server.pem:key={folder}/server.key"),
    };
    couplet::run(move |reactor| {
        let service = tower::service_fn(answer);
        let port = reactor.serve_http(endpoint, service)?;
        println!("{}", port.host());
        Ok(())
    })?;
    Ok(())
}

/// Serves one connection with hyper and its default limit.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> io::Result<()> {
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer))
        .with_upgrades();
    serving.await.map_err(io::Error::other)
}

fn serve_tokio(folder: &str) -> Result<()> {
    let config = (!folder.is_empty()).then(|| secure::server(Path::new(folder))).transpose()?;
    let acceptor = config.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
    served::serve_on_tokio(Builder::new_current_thread().enable_all(), |stream| {
        let acceptor = acceptor.clone();
        async move {
            match acceptor {
                None => serve(stream).await,
                Some(acceptor) => serve(acceptor.accept(stream).await?).await,
            }
        }
    })
}
