//! A server over sockets that describes each request in its answer, for client programs: as
//! `couplet-http/tests/http/asked.rs`.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use couplet_http2::{Code, Copied, Event, Fields, Head, Options};

use crate::kit::Connection;

/// A request whose body has not ended.
struct Asked {
    head: Head,
    received: usize,
    trailers: Fields,
}

/// Serves each connection in its own thread, until the process ends; returns the port.
pub(crate) fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            // A client that resets its connection ends only this thread.
            thread::spawn(move || socket.and_then(|socket| talk(&socket)));
        }
    });
    port
}

fn talk(mut socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Connection::server(Options::default().connect_protocol(true));
    let mut requests = BTreeMap::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        loop {
            let output = connection.take_output();
            if output.is_empty() {
                break;
            }
            socket.write_all(&output)?;
        }
        if connection.is_drained() {
            socket.shutdown(Shutdown::Write)?;
            return io::copy(&mut socket, &mut io::sink()).map(|_| ());
        }
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        // The next output ends with the GOAWAY of an error.
        let _ = connection.receive(&buffer[..count]);
        while let Some(event) = connection.next_event() {
            handle(&mut connection, &mut requests, event);
        }
    }
}

fn handle(connection: &mut Connection, requests: &mut BTreeMap<u32, Asked>, event: Event) {
    match event {
        Event::Request { stream, head, ends } => {
            let asked = Asked { head, received: 0, trailers: Fields::default() };
            begin(connection, stream, &asked, ends);
            if ends {
                answer(connection, stream, &asked);
            } else {
                requests.insert(stream, asked);
            }
        }
        Event::Data { stream, bytes } => {
            let Some(asked) = requests.get_mut(&stream) else {
                return connection.release(stream, bytes.len());
            };
            if asked.head.path() == Some(b"/never") {
                return;
            }
            connection.release(stream, bytes.len());
            asked.received += bytes.len();
            if asked.head.path() == Some(b"/echo") {
                // The stream may have been reset by a later frame.
                let _ = connection.send(stream, bytes, false);
            }
        }
        Event::Trailers { stream, fields } => {
            if let Some(asked) = requests.get_mut(&stream) {
                asked.trailers = fields;
            }
        }
        Event::End { stream } => {
            if let Some(asked) = requests.remove(&stream) {
                answer(connection, stream, &asked);
            }
        }
        Event::Reset { stream, .. } => {
            requests.remove(&stream);
        }
        _ => {}
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Answers without the body, where that is possible.
fn begin(connection: &mut Connection, stream: u32, asked: &Asked, ends: bool) {
    match asked.head.path().unwrap_or_default() {
        b"/early" => {
            say(connection, stream, b"early");
            if !ends {
                connection.reset(stream, Code::NO_ERROR);
            }
        }
        b"/echo" => {
            let _ = connection.respond(stream, 200, [("server", "couplet")], false);
        }
        _ if asked.head.fields().any(|field| field == (b"expect", b"100-continue")) => {
            let _ = connection.respond(stream, 100, [("", ""); 0], false);
        }
        _ => {}
    }
}

/// Answers a complete request. Errors mean that its stream was reset.
fn answer(connection: &mut Connection, stream: u32, asked: &Asked) {
    let path = text(asked.head.path().unwrap_or_default());
    let method = text(asked.head.method());
    if method == "CONNECT" {
        let _ = connection.respond(stream, 405, [("", ""); 0], true);
        return;
    }
    match &path[..] {
        "/never" | "/early" => return,
        "/echo" => {
            let _ = connection.trailers(stream, &asked.trailers);
            return;
        }
        "/empty" => {
            let _ = connection.respond(stream, 204, [("server", "couplet")], true);
            return;
        }
        _ => {}
    }
    if let Some(length) = path.strip_prefix("/large/") {
        return say(connection, stream, &vec![b'x'; length.parse().unwrap_or(0)]);
    }
    let named = |name| asked.head.fields().find(|field| field.0 == name).map(|field| field.1);
    let echoed = named(b"x-echo").unwrap_or_default();
    let mut said = format!("{method} {path} {}", asked.received);
    let fields = asked.head.fields().filter(|(name, _)| *name == echoed);
    for (name, value) in fields.chain(&asked.trailers) {
        said += &format!(" {}={}", text(name), text(value));
    }
    if method == "HEAD" {
        let length = said.len().to_string();
        let _ = connection.respond(stream, 200, [("content-length", length)], true);
        return;
    }
    say(connection, stream, said.as_bytes());
}

fn say(connection: &mut Connection, stream: u32, body: &[u8]) {
    let length = body.len().to_string();
    let fields = [("server", "couplet"), ("content-length", &length)];
    if connection.respond(stream, 200, fields, false).is_ok() {
        let _ = connection.send(stream, Copied(body), true);
    }
}
