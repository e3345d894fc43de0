//! Each example is run, and what it prints is read. Poems come one byte at a time.
#![expect(
    clippy::disallowed_types,
    reason = "the far end of the examples stands outside of any loop"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const POEM: &str = "Hope is the thing with feathers\nThat perches in the soul\n";

/// The program that `cargo test` has built of an example.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a test runs from a file");
    let target = test.parent().and_then(|deps| deps.parent()).expect("it lies in target/…/deps");
    let program: PathBuf = target.join("examples").join(name);
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

/// A server that gives a poem to each of so many clients, one byte at a time.
fn poet(clients: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().take(clients) {
            let mut stream = stream.expect("a client");
            stream.set_nodelay(true).expect("an option");
            for byte in POEM.as_bytes() {
                stream.write_all(&[*byte]).expect("the client reads");
            }
        }
    });
    address
}

/// A port where nothing listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn the_client_of_callbacks_prints_each_poem_and_tells_who_had_none() {
    let (poet, nobody) = (poet(2).to_string(), nobody().to_string());
    let output = run(example("poetry_client").args([&poet, &nobody, &poet]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), POEM.repeat(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(told, format!("no poem from tcp:{nobody}: connection refused\n"));
}

#[test]
fn the_clients_of_deferreds_and_of_async_do_the_same() {
    for name in ["poetry_deferred", "poetry_async"] {
        let (poet, nobody) = (format!("tcp:{}", poet(2)), format!("tcp:{}", nobody()));
        let output = run(example(name).args([&poet, &nobody, &poet]));
        assert_eq!(String::from_utf8_lossy(&output.stdout), POEM.repeat(2), "{name}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(&format!("no poem from {nobody}: connection refused\n")), "{told}");
        assert!(told.ends_with("3 servers asked\n"), "{told}");
        assert!(!told.contains("unhandled"), "{told}");
    }
}

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_echo_server_echoes_to_the_end_of_what_it_is_sent() {
    let mut server =
        Running(example("echo").stdout(Stdio::piped()).spawn().expect("the example starts"));
    let mut line = String::new();
    let stdout = server.0.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it tells where it listens");
    let address = line.trim().strip_prefix("listening on tcp:").expect("as an endpoint");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(POEM.as_bytes()).expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("an open stream");
    let mut echo = String::new();
    stream.read_to_string(&mut echo).expect("it closes cleanly");
    assert_eq!(echo, POEM);
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
    let turn = names.iter().position(|name| name.rsplit("::").next() == Some("turn"));
    let (Some(protocol), Some(turn)) = (protocol, turn) else { panic!("{stack}") };
    let between = &names[protocol + 1..turn];
    let ours: Vec<_> = between
        .iter()
        .filter(|name| {
            // A frame of ours is named by our crate, or by its bare name where it was merged.
            let generic = name.contains("FnOnce") || name.contains("catch_unwind");
            let std = name.starts_with("core::") || name.starts_with("std::");
            !(generic || std || name.contains("do_call") || name.contains("__rust_try"))
        })
        .collect();
    assert!((1..=3).contains(&ours.len()), "{ours:?} of {between:?}");
}
