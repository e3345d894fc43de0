//! Runs the program as a process.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Client, PATIENCE, now, pause, wait_until};
use crate::processes::{Killed, lines, memory};
use crate::watched::program_under_test;

/// The shipped program, if the environment names it; it is faster than the tests' own build.
fn shipped() -> Option<OsString> {
    let path = std::env::var_os("COUPLET_SHIPPED");
    path.filter(|path| Path::new(path).file_name() == Path::new(program_under_test()).file_name())
}

/// The size of a test: the first number for the program of the tests' own build, the second for the
/// shipped program.
pub fn few_or_many(few: usize, many: usize) -> usize {
    if shipped().is_some() { many } else { few }
}

/// The program with these arguments and a fixed environment.
pub fn program(args: &[&str]) -> Command {
    let mut command = Command::new(shipped().unwrap_or_else(|| program_under_test().into()));
    command.args(args);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(name);
    }
    // No backtrace may be printed, even if they are enabled.
    command.env("RUST_BACKTRACE", "1").env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    command
}

/// Starts the program, calls `look` with the URL of the page that it serves, and ends it by SIGINT;
/// returns its exit code.
pub fn open_page(args: &[&str], look: impl FnOnce(&str)) -> Option<i32> {
    let mut opened = program(args).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut url = String::new();
    BufReader::new(opened.stdout.take().expect("it is piped")).read_line(&mut url).expect("a URL");
    look(url.trim_end());
    kill_process(Pid::from_child(&opened), Signal::INT).expect("it runs");
    opened.wait().expect("it is ours").code()
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Ended {
    Running::start(&mut program(args)).ended()
}

/// Runs a peer with this stdin; returns its output.
pub fn peer(program: &str, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_with_stdout(command);
    let (mut to, bytes) = (running.stdin().unwrap(), stdin.to_vec());
    // A peer may end before it has read all of stdin.
    let sending = std::thread::spawn(move || drop(to.write_all(&bytes)));
    let ended = running.ended();
    sending.join().unwrap();
    assert_eq!(ended.code, Some(0), "{program} {args:?}: {}", ended.stderr);
    ended.stdout
}

/// Starts HAProxy with a configuration that binds `fd@0`, which is the returned address.
pub fn haproxy(configuration: &str, environment: &[(&str, &str)]) -> (Running, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-f", configuration]).envs(environment.iter().copied());
    haproxy.stdin(OwnedFd::from(listener)).stdout(Stdio::null());
    (Running::start_with_stdout(&mut haproxy), at)
}

/// The outcome of a process.
#[derive(Debug)]
pub struct Ended {
    /// The program and its arguments.
    pub command: String,
    /// `None` if a signal killed it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// Since its start, or since the last signal.
    pub took: Duration,
}

impl Ended {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Asserts that the process ended with this code, and that its stderr contains these words.
    #[track_caller]
    pub fn says(&self, code: i32, words: &str) {
        let is_right = self.code == Some(code) && self.stderr.contains(words);
        let Ended { command, stderr, .. } = self;
        assert!(is_right, "{command}: not {code} and {words:?} but {:?} {stderr}", self.code);
    }

    /// Asserts that the process ended with code 0, this stdout and an empty stderr.
    #[track_caller]
    pub fn prints(&self, text: &str) {
        self.quietly(0);
        assert_eq!(self.text(), text, "{}", self.command);
    }

    /// Asserts that the process ended with this code and an empty stderr.
    #[track_caller]
    pub fn quietly(&self, code: i32) {
        assert_eq!((self.code, &*self.stderr), (Some(code), ""), "{}", self.command);
    }
}

/// A running process; killed when dropped.
pub struct Running {
    child: Killed,
    command: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<()>>,
    told: Arc<Mutex<String>>,
    since: Instant,
}

impl Running {
    /// Starts the command, and collects its output unless the command redirects it.
    pub fn start(command: &mut Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Running::start_with_stdout(command)
    }

    /// Like [`start`](Self::start), with the command's own stdout.
    pub fn start_with_stdout(command: &mut Command) -> Running {
        Running::spawn(command.stderr(Stdio::piped()))
    }

    /// Like [`start`](Self::start), with the command's own streams.
    pub fn spawn(command: &mut Command) -> Running {
        let since = now();
        Running::over(Killed::start(command), command, since)
    }

    fn over(mut child: Killed, command: &Command, since: Instant) -> Running {
        let told = Arc::<Mutex<String>>::default();
        let stdout = child.stdout.take().map(|mut stdout| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                stdout.read_to_end(&mut bytes).unwrap();
                bytes
            })
        });
        let stderr = child.stderr.take().map(|stderr| {
            let told = told.clone();
            std::thread::spawn(move || collect_lines(stderr, &told))
        });
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let command = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
        Running { child, command, stdout, stderr, told, since }
    }

    /// The stderr so far.
    pub fn told(&self) -> String {
        self.told.lock().unwrap().clone()
    }

    /// The stdin, if it is a pipe.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The private memory of the process in KiB: written pages, without the program's own file.
    pub fn memory(&self) -> u64 {
        memory(self.pid(), "RssAnon")
    }

    /// Number of open sockets.
    pub fn sockets(&self) -> usize {
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten();
        let links = links.flatten().filter_map(|link| std::fs::read_link(link.path()).ok());
        links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&mut self, signal: Signal) {
        self.since = now();
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Requests snapshots until one contains `text`. The signal handlers must be installed already.
    pub fn wait_snapshot(&mut self, text: &str) {
        wait_until(text, || {
            self.signal(Signal::USR1);
            self.told().contains(text)
        });
    }

    /// Waits for the end of the process.
    pub fn ended(mut self) -> Ended {
        let began = now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end; stderr: {}", self.told());
            pause();
        };
        let took = self.since.elapsed();
        let stdout = self.stdout.take().map(|thread| thread.join().unwrap()).unwrap_or_default();
        if let Some(thread) = self.stderr.take() {
            thread.join().unwrap();
        }
        let stderr = self.told();
        for word in ["panicked", "panic:", "stack backtrace", "RUST_BACKTRACE"] {
            assert!(!stderr.contains(word), "{stderr}");
        }
        Ended { command: self.command, code: status.code(), stdout, stderr, took }
    }
}

fn collect_lines(stderr: impl Read, told: &Mutex<String>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while stderr.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        told.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// A running server; killed when dropped.
pub struct Server {
    pub running: Running,
    /// The listening addresses that the server printed.
    pub ports: Vec<SocketAddr>,
    lines: Receiver<String>,
}

impl Server {
    /// Starts a server with one port.
    pub fn start(args: &[&str]) -> Server {
        Server::start_command(program(args), 1)
    }

    /// Starts a server with a limit on descriptors.
    pub fn start_limited(descriptors: usize, args: &[&str]) -> Server {
        let program = program(args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {descriptors}; exec \"$@\"")).arg("sh");
        command.arg(program.get_program()).args(program.get_args());
        Server::start_command(command, 1)
    }

    /// Starts a server that prints `ports` ports.
    pub fn start_command(mut command: Command, ports: usize) -> Server {
        command.stderr(Stdio::piped());
        Server::start_with_stderr(command, ports)
    }

    /// Like [`start_command`](Self::start_command), with the command's own stderr.
    pub fn start_with_stderr(mut command: Command, ports: usize) -> Server {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let since = now();
        let mut child = Killed::start(&mut command);
        let lines = lines(child.stdout.take().unwrap());
        let running = Running::over(child, &command, since);
        let mut server = Server { running, ports: Vec::new(), lines };
        for _ in 0..ports {
            let port = server.next_port();
            server.ports.push(port);
        }
        server
    }

    /// The next line of stdout.
    pub fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        line.unwrap_or_else(|_| panic!("no port is printed: {}", self.running.told()))
    }

    fn next_port(&self) -> SocketAddr {
        let line = self.line();
        let host = line.strip_prefix("listening on tcp:").unwrap_or_default();
        host.trim_end_matches(" for browsers").parse().unwrap_or_else(|_| {
            panic!("this line has no port: {line:?}; stderr: {}", self.running.told())
        })
    }

    /// The address of the first port, as an argument for the program.
    pub fn address(&self) -> String {
        self.ports[0].to_string()
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.ports[0])
    }

    /// Sends a signal and waits for the end of the process.
    pub fn stop(mut self, signal: Signal) -> Ended {
        self.running.signal(signal);
        let Server { running, lines, .. } = self;
        let mut ended = running.ended();
        ended.stdout = lines.iter().collect::<String>().into();
        ended
    }

    /// Waits until stderr contains this text.
    pub fn wait_told(&self, text: &str) {
        wait_until(text, || self.running.told().contains(text));
    }

    /// The private memory of the process in KiB: written pages, without the program's own file.
    pub fn memory(&self) -> u64 {
        self.running.memory()
    }

    /// Number of loops over io_uring; `None`, after a visible skip, where the system forbids it.
    pub fn rings(&self) -> Option<usize> {
        if self.running.told().contains("io_uring is not available") {
            crate::needed::missing("io_uring");
            return None;
        }
        let links = std::fs::read_dir(format!("/proc/{}/fd", self.running.pid())).unwrap();
        let links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
        Some(links.filter(|link| link.to_string_lossy().contains("io_uring")).count())
    }

    /// Connections accepted by each loop, from one snapshot of every loop.
    pub fn accepted(&mut self, threads: usize) -> Vec<usize> {
        self.running.signal(Signal::USR1);
        let shown = || self.running.told().matches(" accepted ").count();
        wait_until("a snapshot", || shown() >= threads);
        let told = self.running.told();
        let counts = told.lines().filter_map(|line| line.split_once(" accepted ")?.1.parse().ok());
        counts.collect()
    }

    /// Number of open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.running.pid())).unwrap().count()
    }
}
