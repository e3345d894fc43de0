//! Runs each example and checks its output. Poems arrive one byte at a time.

#[macro_use]
extern crate couplet_testkit;

mod clients;
#[cfg(unix)]
mod loops;
mod servers;
mod small;
mod styles;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStdout, Command, Output, Stdio};
use std::sync::LazyLock;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

use couplet_testkit::PATIENCE;
use couplet_testkit::needed::{built, missing};
use couplet_testkit::processes::Killed;

const POEM: &str = "Hope is the thing with feathers\nThat perches in the soul\n";

/// The binary that `cargo test` has built for an example.
fn example(name: &str) -> Command {
    let program = built("../examples").join(name);
    assert!(
        program.exists(),
        "{} is not built: `cargo test` builds the examples, `cargo test --test it` does not",
        program.display()
    );
    Command::new(program)
}

fn run(command: &mut Command) -> Output {
    command.env("RUST_BACKTRACE", "0").output().expect("the example runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts that the program succeeds and prints `expected`.
fn prints(name: &str, arguments: &[&str], expected: &str) {
    let output = run(example(name).args(arguments));
    assert_eq!(stdout(&output), expected, "{name} {arguments:?}: {}", stderr(&output));
    assert!(output.status.success(), "{name} {arguments:?}: {}", stderr(&output));
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let patience = Timespec::try_from(PATIENCE).expect("a short time");
    let ready = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1), "a client connects");
    let (stream, _) = listener.accept().expect("a client connects");
    configure(stream)
}

fn connect(address: &str) -> TcpStream {
    configure(TcpStream::connect(address).expect("it listens"))
}

/// Disables Nagle's algorithm and sets a read timeout.
fn configure(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

/// Sends a text one byte at a time.
fn recite(stream: &mut TcpStream, text: &str) {
    for byte in text.as_bytes() {
        stream.write_all(&[*byte]).expect("the peer reads");
    }
}

/// Reads to the end of the stream.
fn read_all(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it closes cleanly");
    text
}

/// A server that sends `poem` to each of `clients` clients, one byte at a time.
fn poet_of(poem: &'static str, clients: usize) -> SocketAddr {
    let (listener, address) = listener();
    std::thread::spawn(move || {
        for _ in 0..clients {
            recite(&mut accept(&listener), poem);
        }
    });
    address
}

fn poet(clients: usize) -> SocketAddr {
    poet_of(POEM, clients)
}

/// A reserved port on which nothing listens.
fn nobody() -> SocketAddr {
    static TAKEN: LazyLock<Socket> = LazyLock::new(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port");
        socket
    });
    TAKEN.local_addr().ok().and_then(|address| address.as_socket()).expect("it is bound")
}

#[test]
fn the_callback_client_prints_each_poem_and_names_servers_without_one() {
    let (poet, nobody) = (poet(2).to_string(), nobody().to_string());
    let output = run(example("poetry_client").args([&poet, &nobody, &poet]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), POEM.repeat(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors, format!("no poem from tcp:{nobody}: connection refused\n"));
}

#[test]
fn the_deferred_async_and_stream_clients_do_the_same() {
    for name in ["poetry_deferred", "poetry_async", "poetry_stream"] {
        let (poet, nobody) = (format!("tcp:{}", poet(2)), format!("tcp:{}", nobody()));
        let output = run(example(name).args([&poet, &nobody, &poet]));
        assert_eq!(String::from_utf8_lossy(&output.stdout), POEM.repeat(2), "{name}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            errors.contains(&format!("no poem from {nobody}: connection refused\n")),
            "{errors}"
        );
        assert!(errors.ends_with("3 servers asked\n"), "{errors}");
        assert!(!errors.contains("unhandled"), "{errors}");
    }
}

/// A running program, and its stdout.
struct Running {
    child: Killed,
    stdout: BufReader<ChildStdout>,
}

impl Running {
    fn start(name: &str, arguments: &[&str]) -> Running {
        Running::spawn(example(name).args(arguments))
    }

    fn spawn(command: &mut Command) -> Running {
        command.env("RUST_BACKTRACE", "0").stdout(Stdio::piped());
        let mut child = Killed::start(command);
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Running { child, stdout }
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it prints text");
        line.trim_end().to_owned()
    }

    /// The rest of its output.
    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("it prints text");
        rest
    }

    /// The address it listens on, from the end of its next line.
    fn address(&mut self) -> String {
        let line = self.line();
        line.rsplit_once("tcp:").expect("it prints where it listens").1.to_owned()
    }

    fn interrupt(&self) {
        let id = Pid::from_child(&self.child);
        kill_process(id, Signal::INT).expect("it runs");
    }
}

#[test]
fn the_echo_server_echoes_everything_until_eof() {
    let mut server = Running::start("echo", &[]);
    let mut stream = connect(&server.address());
    stream.write_all(POEM.as_bytes()).expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("an open stream");
    assert_eq!(read_all(&mut stream), POEM);
}

#[cfg(unix)]
#[test]
fn a_program_on_standard_input_and_output_answers_until_its_end() {
    let inputs =
        [("rose\nis\n", true, "closed by the peer"), ("rose\nis\nquit\n", false, "closed by us")];
    for (input, ends, why) in inputs {
        let mut child = example("stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut stdin = child.stdin.take();
        stdin.as_mut().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
        let kept = stdin.filter(|_| !ends);
        let output = child.wait_with_output().expect("the example runs");
        drop(kept);
        assert_eq!(stdout(&output), "ROSE\nIS\n");
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
        assert!(output.status.success());
    }
}

fn redis_cli(address: &str, words: &[&str]) -> Option<String> {
    let (host, port) = address.rsplit_once(':').expect("an address");
    let mut client = Command::new("redis-cli");
    client.args(["--no-raw", "-h", host, "-p", port]).args(words);
    let output = client.stderr(Stdio::inherit()).output();
    let output = output.inspect_err(|why| missing(format_args!("redis-cli ({why})")));
    Some(stdout(&output.ok()?))
}

#[test]
fn the_redis_server_answers_redis_cli() {
    let mut server = Running::start("resp", &[]);
    let address = server.address();
    let poem = POEM.repeat(500);
    for (words, answer) in [
        (&["ping"][..], "PONG\n"),
        (&["ping", "are you there?"], "\"are you there?\"\n"),
        (&["get", "poem"], "(nil)\n"),
        (&["set", "poem", &poem], "OK\n"),
        (&["get", "poem"], &format!("{poem:?}\n")),
        (&["sing"], "(error) ERR unknown command: SING\n"),
    ] {
        let Some(printed) = redis_cli(&address, words) else { return };
        assert_eq!(printed, answer, "{}", words[0]);
    }
}

#[test]
fn at_most_three_frames_of_ours_stand_between_the_turn_and_a_protocol() {
    let output = run(&mut example("trace"));
    let stack = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = stack
        .lines()
        .filter_map(|line| line.split_once(": ").map(|(number, name)| (number.trim(), name)))
        .filter(|(number, _)| number.parse::<u32>().is_ok())
        .map(|(_, name)| name)
        .collect();
    let protocol = names.iter().position(|name| name.ends_with("connection_lost"));
    // Full paths where the build has no line numbers.
    let turn = names.iter().position(|name| name.starts_with("turn<") || name.ends_with("::turn"));
    let (Some(protocol), Some(turn)) = (protocol, turn) else { panic!("{stack}") };
    let between = &names[protocol + 1..turn];
    let ours: Vec<_> = between
        .iter()
        .filter(|name| {
            // Our frames carry the crate's name, or a bare name where functions were merged.
            let generic = name.contains("FnOnce") || name.contains("catch_unwind");
            let path = name.trim_start_matches('<');
            let std = path.starts_with("core::") || path.starts_with("std::");
            !(generic || std || name.contains("do_call") || name.contains("__rust_try"))
        })
        .collect();
    assert!((1..=3).contains(&ours.len()), "{ours:?} of {between:?}");
}
