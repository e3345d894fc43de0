//! WebSockets compared with tokio-tungstenite: an echo by `couplet::http::websocket` and one on
//! tokio's current-thread runtime run alternately. Prints the server's processor time per message
//! in its best round, and the ratio within a round: median, least and most.
//!
//! `cargo bench -p couplet-http --features websocket --bench websocket`, or with `-- long` for the rows
//! that contain `long`.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use couplet::http::HttpExt;
use couplet::http::websocket::{self, WebSocket, WebSocketOptions};
use couplet::http::{Body, Request, Response};
use couplet_testkit::bench::served::{Result, Row, Server};
use couplet_testkit::bench::{program, served};
use futures_util::{SinkExt, StreamExt};
use tokio::runtime::Builder;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", "couplet"] => return serve_couplet(),
        ["--serve", "tokio"] => return serve_tokio(),
        _ => {}
    }
    let wanted = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let (servers_cpu, load_cpu) = program::processors()?;
    servers_cpu.map(program::pin).transpose()?;
    let this = std::env::current_exe()?;
    let start = |name, word| Server::start(name, Command::new(&this).args(["--serve", word]));
    let servers = [start("couplet", "couplet")?, start("tokio-tungstenite", "tokio")?];
    load_cpu.map(program::pin).transpose()?;
    let rows: [Row<'_>; 5] = [
        ("64 bytes, 1 connection", &|server| messages(server, 64, 1, 1, 4000)),
        ("64 bytes, 50 connections", &|server| messages(server, 64, 50, 1, 200)),
        ("64 bytes, 50 connections, 16 in flight", &|server| messages(server, 64, 50, 16, 20)),
        ("long, 16 KiB", &|server| messages(server, 16 * 1024, 4, 1, 500)),
        ("long, 1 MB", &|server| messages(server, 1_000_000, 1, 1, 60)),
    ];
    served::compare(&servers, &rows, &wanted)
}

/// Connects and completes the handshake.
fn connect(to: SocketAddr) -> Result<TcpStream> {
    const HELLO: &str = "GET / HTTP/1.1\r\nHost: couplet.test\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(HELLO.as_bytes())?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let is_upgraded = head.starts_with(b"HTTP/1.1 101 ");
    if is_upgraded { Ok(stream) } else { Err("it was not upgraded".into()) }
}

/// A client's frame of zeros, and the length of its echo.
fn frame(length: usize) -> (Vec<u8>, usize) {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut head = vec![0x82];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..=0xffff => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    let echo = head.len() + length;
    head.extend(mask);
    head.extend(mask.iter().cycle().take(length));
    (head, echo)
}

/// Sends messages on concurrent connections, several in flight on each. Returns nanoseconds per
/// message.
fn messages(
    server: &Server,
    length: usize,
    connections: usize,
    in_flight: usize,
    times: usize,
) -> Result<f64> {
    let (frame, echo) = frame(length);
    let (sent, mut got) = (frame.repeat(in_flight), vec![0; echo * in_flight]);
    let each = server.round_trips(
        connections,
        times,
        || connect(server.address),
        |client| Ok(client.write_all(&sent)?),
        |client| Ok(client.read_exact(&mut got)?),
    )?;
    Ok(each / in_flight as f64)
}

fn serve_couplet() -> Result<()> {
    couplet::run(|reactor| {
        let service = tower::service_fn(async |mut request: Request<Body>| {
            let options = WebSocketOptions::default();
            let answer =
                websocket::upgrade(&mut request, options, async |mut socket: WebSocket| {
                    while let Some(message) = socket.recv().await {
                        socket.send(message?).await?;
                    }
                    Ok(())
                });
            Ok::<Response<String>, Infallible>(answer)
        });
        let port = reactor.serve_http("tcp:0:interface=127.0.0.1", service)?;
        println!("{}", port.host());
        Ok(())
    })?;
    Ok(())
}

fn serve_tokio() -> Result<()> {
    served::serve_on_tokio(Builder::new_current_thread().enable_all(), async |stream| {
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        while let Some(message) = socket.next().await.transpose()? {
            if message.is_text() || message.is_binary() {
                socket.send(message).await?;
            }
        }
        Ok::<_, tokio_tungstenite::tungstenite::Error>(())
    })
}
