//! A program without descriptors, in another process, which the limit applies to.

use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::kit::{Program, Session};
use crate::programs::Version::{self, Faulty, Mended};
use crate::programs::leak;
use crate::quotes::Quote;
use crate::shows_all;

/// Set in the process of the program: the address of its backend, and its version.
const VARIABLE: &str = "COUPLET_DIAGNOSIS";

/// Descriptors of the process.
const LIMIT: usize = 64;

/// Marks the line that the program prints.
const READY: &str = "ready: ";

/// The program, in another process.
struct Limited {
    child: Child,
    /// The program's stdout, which stays open.
    output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
    inspector: Session,
}

impl Limited {
    fn start(test: &str, backend: SocketAddr, version: Version) -> Limited {
        let script = format!("ulimit -n {LIMIT}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(std::env::current_exe().expect("a path"));
        command.args(["--exact", test, "--nocapture"]);
        command.env(VARIABLE, format!("{backend} {version:?}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("sh");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = output.find_map(|line| {
            let line = line.expect("it prints text");
            Some(line.split_once(READY)?.1.to_owned())
        });
        let ready = ready.expect("it starts");
        let (address, url) = ready.split_once(' ').expect("two words");
        let inspector = Session::open(url);
        Limited { child, output, address: address.parse().expect("an address"), inspector }
    }

    fn flags(&mut self) -> Value {
        self.inspector.get("/state.json")["flags"].clone()
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.output.by_ref().for_each(drop);
        let ended = self.child.wait().expect("it ends");
        assert!(ended.success() || std::thread::panicking(), "{ended}");
    }
}

/// In the process of the program: runs it until stdin ends.
fn is_program() -> bool {
    let Ok(told) = std::env::var(VARIABLE) else { return false };
    let (backend, version) = told.split_once(' ').expect("two words");
    let backend = backend.parse().expect("an address");
    let version = if version == "Faulty" { Faulty } else { Mended };
    let (program, address) =
        Program::start(move |reactor| leak::start(reactor, backend, version).expect("a free port"));
    println!("{READY}{address} {}", program.url());
    io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
    true
}

/// Sends back everything.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a connection");
            std::thread::spawn(move || io::copy(&mut &client, &mut &client));
        }
    });
    address
}

/// The answers to questions of one byte, asked one after the other, until one is refused.
fn ask(client: &mut TcpStream, most: usize) -> usize {
    let answered = (0..most).take_while(|_| {
        let mut answer = [0];
        client.write_all(b"?").expect("it reads");
        client.read_exact(&mut answer).expect("it answers");
        answer == *b"?"
    });
    answered.count()
}

#[test]
fn connections_that_are_not_closed() {
    const TEST: &str = "exhausted::connections_that_are_not_closed";
    if is_program() {
        return;
    }
    let backend = backend();
    let mut faulty = Limited::start(TEST, backend, Faulty);
    let mut client = TcpStream::connect(faulty.address).expect("it listens");
    assert!(ask(&mut client, LIMIT) < LIMIT, "it has descriptors left");
    // The kernel accepts it, and the program closes it.
    let mut other = TcpStream::connect(faulty.address).expect("it listens");
    assert_eq!(other.read(&mut [0]).ok().unwrap_or(0), 0, "it is turned away");
    shows_all(|| faulty.inspector.get("/state.json"), "leak");

    let mut mended = Limited::start(TEST, backend, Mended);
    let mut client = TcpStream::connect(mended.address).expect("it listens");
    assert_eq!(ask(&mut client, 2 * LIMIT), 2 * LIMIT);
    let mut other = TcpStream::connect(mended.address).expect("it listens");
    assert_eq!(ask(&mut other, 1), 1);
    assert_eq!(Quote::of("leak").unhealthy(&mended.flags()), Vec::<String>::new());
}
