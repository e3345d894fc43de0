//! A program with a service that fails, as a process: its restarts, and its end.
#![cfg(unix)]

#[macro_use]
extern crate couplet_watched;

mod kit;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, process, thread};

use clap::Parser;
use couplet::services::{Child, StreamServerService, TaskService};
use couplet::{Deferred, Failure, LoadLimits, LoopOptions, Protocol, Transport};
use couplet_runner::{Arguments, Runner};
use rustix::process::{Pid, Signal, kill_process};

use kit::{Killed, lines_and_host};

/// The command line of the program, in the process that is the program.
const LINE: &str = "COUPLET_TEST_FRAIL";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    runner: Arguments,
    /// How often the service fails
    #[arg(long, default_value_t = 0)]
    failures: u32,
    /// Limit the connections of the program, and listen
    #[arg(long)]
    clients: Option<usize>,
}

/// Hangs at the first byte.
struct Idle;

impl Protocol for Idle {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        loop {
            thread::park();
        }
    }
}

#[derive(serde::Deserialize)]
struct Config {}

/// Not a test: the program that the tests start.
#[test]
fn the_program() {
    let Ok(line) = env::var(LINE) else { return };
    let cli = Cli::parse_from(line.split(' '));
    let mut runner = Runner::new("frail").service(move |_: Config, _| {
        let left = Cell::new(cli.failures);
        let task = TaskService::new("glass", move |_| match left.get().checked_sub(1) {
            Some(fewer) => {
                left.set(fewer);
                Deferred::fail(Failure::msg("it broke"))
            }
            None => {
                let (forever, resolver) = Deferred::<()>::new();
                std::mem::forget(resolver);
                forever
            }
        });
        Ok(Child::new(task))
    });
    if let Some(clients) = cli.clients {
        let limits = LoadLimits::default().connections(clients);
        runner = runner.loop_options(LoopOptions::default().load_limits(limits));
        runner = runner.service(|_: Config, _| {
            let endpoint = "tcp:0:interface=127.0.0.1";
            Ok(Child::new(StreamServerService::new("idle", endpoint, || Idle)?))
        });
    }
    let code = runner.run(cli.runner);
    let known = [ExitCode::SUCCESS, ExitCode::from(1)];
    // Code 101 is that of a test that fails.
    process::exit(known.iter().position(|it| *it == code).map_or(3, |code| code as i32));
}

/// Starts the program with these words; its log is a pipe.
fn frail(words: &str) -> Killed {
    frail_with(words, |command| command)
}

fn frail_with(words: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> Killed {
    let mut command = Command::new(env::current_exe().expect("a test has a path"));
    command.args(["--exact", "the_program", "--nocapture"]).env(LINE, format!("frail {words}"));
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let command = change(&mut command);
    Killed(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts"))
}

/// The metrics of a program.
fn metrics(host: &str) -> String {
    let mut client = TcpStream::connect(host).expect("it accepts");
    let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request).expect("it reads");
    let mut text = String::new();
    client.read_to_string(&mut text).expect("it answers");
    text
}

#[test]
fn a_program_whose_service_fails_too_often_ends_with_1_and_says_why() {
    let mut program = frail("--failures 2");
    let mut log = String::new();
    program.0.stderr.take().expect("a pipe").read_to_string(&mut log).expect("text");
    assert_eq!(program.0.wait().expect("it ends").code(), Some(1), "{log}");
    assert_eq!(log.matches("restarting a service: it broke service=").count(), 1, "{log}");
    assert!(log.contains("gave up: more than 1 restarts within 5 s"), "{log}");
    let last = log.lines().last().expect("lines");
    assert!(last.starts_with("frail: ") && last.contains("it broke"), "{log}");
}

#[test]
fn a_restart_is_logged_and_counted() {
    let mut program = frail("--failures 1 -v --metrics tcp:0:interface=127.0.0.1");
    let (mut lines, host) = lines_and_host(&mut program.0);
    let restart = lines.find(|line| line.contains("restarting a service")).expect("a restart");
    assert!(restart.contains("it broke service=") && restart.contains(" delay="), "{restart}");
    // It starts after a pause.
    let mut texts = std::iter::repeat_with(|| metrics(&host));
    let text = texts.find(|text| text.contains("couplet_ready 1\n")).expect("it starts");
    let counted = text.lines().find(|line| line.starts_with("couplet_service_restarts_total"));
    assert!(counted.is_some_and(|line| line.ends_with("} 1")), "{text}");
    kill_process(Pid::from_child(&program.0), Signal::TERM).expect("it runs");
    assert_eq!(program.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_reload_leaves_the_limits_of_the_program_unless_the_configuration_has_some() {
    let config = |text: &str| {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/limits.toml");
        std::fs::write(path, text).expect("it can be written");
    };
    config("");
    let mut program =
        frail("--clients 2 -v --metrics tcp:0:interface=127.0.0.1 --config limits.toml");
    let (mut lines, host) = lines_and_host(&mut program.0);
    let mut next = |words: &str| lines.find_map(|line| Some(line.split_once(words)?.1.to_owned()));
    let mut ports = std::iter::repeat_with(|| next("host=tcp:").expect("a port"));
    let port = ports.find(|port| *port != host).expect("the other one");
    let _client = TcpStream::connect(&port).expect("it accepts");
    let is_paused = |paused: bool| {
        let wanted = format!("couplet_port_paused{{port=\"tcp:{port}\"}} {}", u8::from(paused));
        metrics(&host).contains(&wanted)
    };
    // The question has a connection too.
    while !is_paused(true) {}
    for (text, paused) in
        [("# nothing", true), ("[runner]\nmax-connections = 3", false), ("", true)]
    {
        config(text);
        kill_process(Pid::from_child(&program.0), Signal::HUP).expect("it runs");
        next("reloaded: ").expect("a reload");
        assert!(is_paused(paused), "{text}");
    }
    kill_process(Pid::from_child(&program.0), Signal::TERM).expect("it runs");
    assert_eq!(program.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_loop_that_hangs_no_longer_feeds_the_watchdog() {
    for threads in [1, 2] {
        let path = format!("{}/notify-{threads}", env!("CARGO_TARGET_TMPDIR"));
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a free name");
        let words = format!("--clients 9 -v --threads {threads}");
        let mut program = frail_with(&words, |command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000")
        });
        let (_lines, host) = lines_and_host(&mut program.0);
        let mut bytes = [0; 1000];
        let mut message = || {
            manager
                .recv(&mut bytes)
                .map(|length| String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        assert!(message().expect("the first").starts_with("READY=1"));
        for _ in 0..3 {
            assert_eq!(message().expect("it turns").trim_end(), "WATCHDOG=1");
        }
        let mut client = TcpStream::connect(&host).expect("it accepts");
        client.write_all(b"hang").expect("it reads");
        // Ten times the time within which the manager waits for the next message.
        manager.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket");
        while message().is_ok() {}
    }
}
