//! An inspected program in another thread, and a client of its inspector.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use couplet::defer::DeferredLock;
use couplet::inspect::{Inspect, Inspector};
use couplet::{Loop, LoopOptions, Reactor, Remote};
use couplet_testkit::program::now;
use serde_json::Value;

use crate::PATIENCE;

/// Spawns two tasks: each acquires one of two locks, then waits for the other's.
pub fn deadlock(reactor: &Reactor) {
    let locks = [DeferredLock::new(), DeferredLock::new()];
    for (first, second) in [(0, 1), (1, 0)] {
        let (first, second, own) = (locks[first].clone(), locks[second].clone(), reactor.clone());
        let task = async move {
            let one = first.acquire().await?;
            own.sleep(Duration::from_millis(1)).await?;
            let other = second.acquire().await?;
            drop((one, other));
            Ok(())
        };
        reactor.spawn(task).detach();
    }
}

/// A program with one inspected loop.
pub struct Program {
    pub inspector: Inspector,
    pub remote: Remote,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts a loop and runs `set_up` there; also returns its result.
    pub fn start<T: Send + 'static>(
        set_up: impl FnOnce(&Reactor) -> T + Send + 'static,
    ) -> (Program, T) {
        Program::start_with(Inspector::at("0"), LoopOptions::default(), set_up)
    }

    pub fn start_with<T: Send + 'static>(
        inspector: Inspector,
        options: LoopOptions,
        set_up: impl FnOnce(&Reactor) -> T + Send + 'static,
    ) -> (Program, T) {
        let (tell, told) = mpsc::channel();
        let inspected = inspector.clone();
        let thread = std::thread::spawn(move || {
            let mut l = Loop::with_options(options.inspect(&inspected)).expect("a loop");
            l.run(|reactor| {
                tell.send((reactor.remote(), set_up(reactor))).expect("the test waits");
                Ok(())
            })
            .expect("a stop");
        });
        let (remote, result) = told.recv().expect("it starts");
        (Program { inspector, remote, thread: Some(thread) }, result)
    }

    /// Runs `f` in the loop's thread.
    pub fn call(&self, f: impl FnOnce(&Reactor) + Send + 'static) {
        self.remote.call(f).expect("the loop runs");
    }

    pub fn url(&self) -> String {
        self.inspector.url().expect("a loop is inspected")
    }

    /// Fetches a view as JSON.
    pub fn get(&self, path: &str) -> Value {
        view(&self.url(), path)
    }

    /// Fetches a view until it is as wanted, and returns the result of the check.
    pub fn until<T>(&self, path: &str, check: impl Fn(&Value) -> Option<T>) -> T {
        let late = now() + PATIENCE;
        loop {
            let view = self.get(path);
            if let Some(result) = check(&view) {
                return result;
            }
            assert!(now() < late, "{path} stays {view:#}");
            pause();
        }
    }

    /// The only row whose `why` begins like this, once there is one.
    pub fn row_with(&self, view: &str, why: &str) -> Value {
        self.until(&format!("/{view}.json"), |rows| {
            let rows = rows.as_array().expect("rows").iter();
            rows.clone().find(|row| text(row, "why").starts_with(why)).cloned()
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails if the loop has ended.
        let _ = self.remote.call(Reactor::stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the program panicked");
        }
    }
}

/// Waits between two looks at a program in another thread.
#[expect(clippy::disallowed_methods, reason = "the program runs in another thread")]
pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(25));
}

pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("{field} of {row}"))
}

/// The address and the query of a URL.
fn parts(url: &str) -> (SocketAddr, &str) {
    let rest = url.strip_prefix("http://").expect("HTTP");
    let (address, query) = rest.split_once('/').expect("a path");
    (address.parse().expect("an address"), query)
}

/// Fetches a view as JSON.
pub fn view(url: &str, path: &str) -> Value {
    let answer = get(url, path, "");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
}

/// Connects to the server of a URL.
pub fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(parts(url).0).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// Fetches a path with the token of the URL; `fields` are further header fields.
pub fn get(url: &str, path: &str, fields: &str) -> String {
    String::from_utf8(ask(url, "GET", path, fields, "")).expect("text")
}

/// The binary body of a path.
pub fn get_bytes(url: &str, path: &str) -> Vec<u8> {
    let mut answer = ask(url, "GET", path, "", "");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    answer.split_off(end + 4)
}

/// Posts a text to a path with the token of the URL.
pub fn post(url: &str, path: &str, fields: &str, body: &str) -> String {
    let fields = format!("content-length: {}\r\n{fields}", body.len());
    String::from_utf8(ask(url, "POST", path, &fields, body)).expect("text")
}

fn ask(url: &str, method: &str, path: &str, fields: &str, body: &str) -> Vec<u8> {
    let (address, query) = parts(url);
    let mut stream = connect(url);
    let request = format!(
        "{method} {path}{query} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{fields}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    answer
}

/// A connection to an inspector, for several requests.
pub struct Session {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    query: String,
}

impl Session {
    pub fn open(url: &str) -> Session {
        let (address, query) = parts(url);
        Session { stream: BufReader::new(connect(url)), address, query: query.to_owned() }
    }

    /// Fetches a view as JSON.
    pub fn get(&mut self, path: &str) -> Value {
        let Session { stream, address, query } = self;
        let request = format!("GET {path}{query} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).expect("it reads");
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("a head");
            match line.trim_end().split_once(": ") {
                Some(("content-length", number)) => length = number.parse().expect("a number"),
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}
