//! When answers leave (`Tuning::answers`): compares a loop that measures with a loop whose
//! answers leave immediately and one whose answers leave together. A handler takes no time, a few
//! microseconds (HTTP), or 50 µs. Prints the server's processor time per answer in its best round,
//! and the ratio within a round: median, least and most.
//!
//! `cargo bench -p couplet-http --features tls --bench answers`

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "the handler that takes its time looks at the clock"
)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet::http::HttpExt;
use couplet::{Answers, Loop, LoopOptions, Protocol, Transport};
use couplet_testkit::bench::served::{Result, Row, Server};
use couplet_testkit::bench::{program, served};
use http_body_util::Full;
use hyper::{Request, Response};

const WORK: u8 = b'w';
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: couplet.test\r\n\r\n";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let ["--serve", kind, answers] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return serve(kind, answers);
    }
    let wanted = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let (servers_cpu, load_cpu) = program::processors()?;
    let this = std::env::current_exe()?;
    for other in ["at once", "together"] {
        servers_cpu.map(program::pin).transpose()?;
        let start =
            |name, kind| Server::start(name, Command::new(&this).args(["--serve", kind, name]));
        let plain = [start("measured", "plain")?, start(other, "plain")?];
        let http = [start("measured", "http")?, start(other, "http")?];
        load_cpu.map(program::pin).transpose()?;
        let rows: [Row<'_>; 2] = [
            ("echo, 50 connections", &|server| answers(server, &[b'e'; 64], 400)),
            ("a handler of 50 µs, 50 connections", &|server| answers(server, &[WORK; 64], 40)),
        ];
        served::compare(&plain, &rows, &wanted)?;
        let row: Row<'_> = ("HTTP hello, 50 connections", &|server| answers(server, REQUEST, 200));
        served::compare(&http, &[row], &wanted)?;
    }
    Ok(())
}

/// Sends requests on 50 concurrent connections. Returns nanoseconds per answer.
fn answers(server: &Server, request: &[u8], times: usize) -> Result<f64> {
    let connect = || {
        let client = TcpStream::connect(server.address)?;
        client.set_nodelay(true)?;
        Ok(client)
    };
    let send = |client: &mut TcpStream| Ok(client.write_all(request)?);
    let receive = |client: &mut TcpStream| {
        // An answer arrives in one piece.
        if client.read(&mut [0; 1024])? == 0 { Err("the server closed".into()) } else { Ok(()) }
    };
    server.round_trips(50, times, connect, send, receive)
}

struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if data.first() == Some(&WORK) {
            let until = Instant::now() + Duration::from_micros(50);
            while Instant::now() < until {}
        }
        transport.write(data);
    }
}

async fn hello<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(b"hello, world"))))
}

fn serve(kind: &str, answers: &str) -> Result<()> {
    let answers = match answers {
        "at once" => Answers::AtOnce,
        "together" => Answers::Together,
        _ => Answers::Measured,
    };
    Loop::with_options(LoopOptions::default().tune(|it| it.answers(answers)))?.run(|reactor| {
        let endpoint = "tcp:0:interface=127.0.0.1";
        let port = match kind {
            "http" => reactor.serve_http(endpoint, tower::service_fn(hello))?,
            _ => reactor.listen(endpoint, || Echo)?,
        };
        println!("{}", port.host());
        Ok(())
    })?;
    Ok(())
}
