//! A program whose services hang or need tokio, as a process: its watchdog, restarts and checks.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::thread::ThreadId;
use std::time::Duration;
use std::{env, process, thread};

use clap::Parser;
use couplet::endpoints::server_from_string;
use couplet::services::{Child, FunctionService, StreamServerService, TimerService};
use couplet::{Deferred, LoopOptions, Protocol, Reactor, Transport};
use couplet_runner::{Arguments, Runner, placed};
use couplet_testkit::needed::Folder;
use couplet_testkit::processes::{Killed, lines_and_host};
use rustix::process::{Pid, Signal, kill_process};

/// The command line of the program, in the process that is the program.
const LINE: &str = "COUPLET_TEST_FRAIL";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    runner: Arguments,
    /// Listen
    #[arg(long)]
    clients: bool,
    /// Serve in all loops, and name each client's loop
    #[arg(long)]
    crowd: bool,
    /// Use tokio where the services are built
    #[arg(long)]
    tokio: bool,
}

/// Hangs at the first byte.
struct Idle;

impl Protocol for Idle {
    #[expect(clippy::disallowed_methods, reason = "the loop hangs")]
    fn data_received(&mut self, _: &Transport, _: &[u8]) {
        loop {
            thread::park();
        }
    }
}

/// Answers each byte with the name of its loop; hangs at an exclamation mark until a file is there.
struct Crowd;

/// The thread of the main loop.
static MAIN: OnceLock<ThreadId> = OnceLock::new();

impl Protocol for Crowd {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        while data == b"!" && !Path::new("released").exists() {
            #[expect(clippy::disallowed_methods, reason = "the loop hangs")]
            thread::park_timeout(Duration::from_millis(10));
        }
        let is_main = MAIN.get() == Some(&thread::current().id());
        transport.write(if is_main { b"m" } else { b"o" });
    }
}

/// Panics outside a runtime of tokio.
fn use_tokio() {
    drop(tokio::runtime::Handle::current());
}

#[derive(serde::Deserialize)]
struct Config {}

/// Not a test: the program that the tests start.
#[test]
fn the_program() {
    let Ok(line) = env::var(LINE) else { return };
    let cli = Cli::parse_from(line.split(' '));
    MAIN.get_or_init(|| thread::current().id());
    let mut runner = Runner::new("frail");
    if cli.clients {
        runner = runner.service(|_: Config, _| {
            let endpoint = "tcp:0:interface=127.0.0.1";
            Ok(Child::new(StreamServerService::new("idle", endpoint, || Idle)?))
        });
    }
    if cli.tokio {
        runner = runner.loop_options(LoopOptions::default().tokio());
        runner = runner.service(|_: Config, _| {
            use_tokio();
            Ok(Child::new(FunctionService::new("glass", |_: &Reactor| Deferred::succeed(()))))
        });
        runner = runner.service_in_loops(|_: Config, _| {
            use_tokio();
            Ok(|_: &Reactor| {
                use_tokio();
                let timer = TimerService::new("timer", Duration::from_secs(1000), || ());
                Ok(Child::new(timer))
            })
        });
    }
    if cli.crowd {
        runner = runner.service_in_loops(|_: Config, _| {
            let endpoint = placed("crowd", server_from_string("tcp:0:interface=127.0.0.1")?);
            Ok(move |_: &Reactor| {
                Ok(Child::new(StreamServerService::new("crowd", &endpoint, || Crowd)?))
            })
        });
    }
    let code = runner.run(cli.runner);
    let known = [ExitCode::SUCCESS, ExitCode::from(1)];
    // A test that fails has code 101.
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
    Killed::start(command.stdout(Stdio::null()).stderr(Stdio::piped()))
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
fn a_loop_that_hangs_no_longer_feeds_the_watchdog() {
    for threads in [1, 2] {
        let folder = Folder::new();
        let path = folder.path("notify");
        let manager = UnixDatagram::bind(&path).expect("a free name");
        let words = format!("--clients -v --threads {threads}");
        let mut program = frail_with(&words, |command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000")
        });
        let (_lines, host) = lines_and_host(&mut program);
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

#[test]
fn a_program_that_builds_its_services_with_tokio_passes_a_check_and_starts() {
    let folder = Folder::new();
    let config = folder.write("tokio.toml", "");
    for threads in [1, 2] {
        let words = format!("--tokio --threads {threads} --config {config}");
        let mut check = frail(&format!("{words} --check"));
        let mut log = String::new();
        check.stderr.take().expect("a pipe").read_to_string(&mut log).expect("text");
        assert_eq!(check.wait().expect("it ends").code(), Some(0), "{log}");
        let mut program = frail(&format!("{words} -v --metrics tcp:0:interface=127.0.0.1"));
        let (mut lines, host) = lines_and_host(&mut program);
        assert!(lines.any(|line| line.contains("started")));
        assert!(metrics(&host).contains("couplet_ready 1\n"));
        kill_process(Pid::from_child(&program), Signal::TERM).expect("it runs");
        assert_eq!(program.wait().expect("it ends").code(), Some(0));
    }
}

/// Clients that stay, of the main loop and of the other one: at least `least` of each.
fn clients_of_both(port: &str, least: usize) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let (mut main, mut others) = (Vec::new(), Vec::new());
    while main.len() < least || others.len() < least {
        let mut client = TcpStream::connect(port).expect("it accepts");
        let name = ask_crowd(&mut client);
        if name == b'm' { &mut main } else { &mut others }.push(client);
    }
    (main, others)
}

fn ask_crowd(client: &mut TcpStream) -> u8 {
    let mut name = [0];
    client.write_all(b"?").and_then(|()| client.read_exact(&mut name)).expect("it answers");
    name[0]
}

#[test]
fn a_loop_that_hangs_in_restarts_leaves_everything_for_the_one_that_succeeds() {
    let folder = Folder::new();
    folder.write("crowd.toml", "[supervisor]\nrestart-within = 2\nrestart-drain = 0\n");
    let words = "--crowd -v --threads 2 --pid-file pid --config crowd.toml";
    let mut program = frail_with(words, |command| command.current_dir(&*folder));
    let (mut lines, port) = lines_and_host(&mut program);
    let own = Pid::from_child(&program);
    let mut restart = |until: &str| {
        kill_process(own, Signal::USR2).expect("it runs");
        lines.find(|line| line.contains(until) || line.contains("cannot restart")).expect("a line")
    };
    let pid = || std::fs::read_to_string(folder.path("pid")).expect("a pid file");
    let (mut main, mut others) = clients_of_both(&port, 2);
    let before = pid();
    others[0].write_all(b"!").expect("it reads");
    for _ in 0..2 {
        let line = restart("cannot restart");
        assert!(line.contains("cannot restart: "), "{line}");
        assert_eq!(pid(), before);
        main.iter_mut().for_each(|client| assert_eq!(ask_crowd(client), b'm'));
    }
    folder.write("released", "");
    others[0].read_exact(&mut [0]).expect("it answers");
    others.iter_mut().for_each(|client| assert_eq!(ask_crowd(client), b'o'));
    let _more = clients_of_both(&port, 2);
    // A busy machine may take longer to start the new process.
    let mut lines = std::iter::repeat_with(|| restart("a new process has taken over"));
    let line = lines.find(|line| !line.contains("cannot restart")).expect("a restart");
    let new: i32 = line.split_once("pid=").expect("its number").1.trim().parse().expect("a number");
    assert_eq!(pid(), format!("{new}\n"));
    let _clients = clients_of_both(&port, 2);
    assert_eq!(program.wait().expect("it ends").code(), Some(0));
    kill_process(Pid::from_raw(new).expect("a process"), Signal::TERM).expect("it runs");
}
