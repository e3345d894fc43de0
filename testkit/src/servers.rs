//! Servers as processes: NATS and Redis.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::needed::{Folder, has};

/// The name of Redis' socket in the server's folder.
const SOCKET: &str = "socket";

/// A running server, which ends when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    program: &'static str,
    /// The arguments besides the port.
    arguments: Vec<String>,
    /// The last line of its start.
    ready: &'static str,
    /// The log until it was ready.
    said: Vec<String>,
    folder: Folder,
}

impl Server {
    /// Starts a server on a free port; `None` if it is not installed.
    pub fn start(arguments: &[&str]) -> Option<Server> {
        Server::start_with("", arguments)
    }

    /// Starts a server with a configuration.
    pub fn start_with(configuration: &str, arguments: &[&str]) -> Option<Server> {
        if !has("nats-server") {
            return None;
        }
        let folder = Folder::new();
        let mut arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let ready = match configuration.contains("cluster") {
            true => "Listening for route connections",
            false => "Server is ready",
        };
        arguments.extend(["-c".to_owned(), folder.write("conf", configuration)]);
        arguments.extend(["-a", "127.0.0.1", "-p"].map(str::to_owned));
        // -1 is a free port.
        let program = "nats-server";
        let (child, said) = serve(program, &arguments, "-1", ready);
        let mut server = Server { child, port: 0, program, arguments, ready, said, folder };
        server.port = server.port_of("Listening for client connections");
        Some(server)
    }

    /// Starts a Redis server without persistence; `None` if it is not installed.
    pub fn start_redis(arguments: &[&str]) -> Option<Server> {
        Server::start_redis_with("save ''", arguments)
    }

    /// Starts a Redis server with a configuration.
    pub fn start_redis_with(configuration: &str, arguments: &[&str]) -> Option<Server> {
        Server::redis(configuration, arguments, false)
    }

    /// Starts a Redis server without persistence, at a UNIX socket.
    pub fn start_redis_at_path() -> Option<Server> {
        Server::redis("save ''", &[], true)
    }

    fn redis(configuration: &str, arguments: &[&str], at_path: bool) -> Option<Server> {
        if !has("redis-server") {
            return None;
        }
        let folder = Folder::new();
        // Printed for a port and for a socket.
        let (program, ready) = ("redis-server", "eady to accept connections");
        let configuration = folder.write("conf", configuration);
        let fixed = [&configuration, "--bind", "127.0.0.1", "--dir", &folder.path("")];
        let socket = ["--unixsocket", &folder.path(SOCKET)];
        let socket = if at_path { &socket[..] } else { &[] };
        let arguments = fixed.iter().chain(arguments).chain(socket).chain(&["--port"]);
        let arguments: Vec<String> = arguments.map(|text| (*text).to_owned()).collect();
        let start =
            |port: u16| Ok((try_serve(program, &arguments, &port.to_string(), ready)?, port));
        let ((child, said), port) = match at_path {
            true => start(0).unwrap_or_else(|said: String| panic!("it does not start: {said}")),
            false => on_free_port(start),
        };
        Some(Server { child, port, program, arguments, ready, said, folder })
    }

    /// The port that a line of the log names at its end.
    pub fn port_of(&self, words: &str) -> u16 {
        let line = self.said.iter().find(|line| line.contains(words));
        let port = line.and_then(|line| line.rsplit(':').next()?.trim().parse().ok());
        port.unwrap_or_else(|| panic!("no port: {}", self.said.join("\n")))
    }

    pub fn url(&self) -> String {
        let scheme = self.program.trim_end_matches("-server");
        match self.port {
            0 => format!("{scheme}+unix://{}", self.folder.path(SOCKET)),
            port => format!("{scheme}://127.0.0.1:{port}"),
        }
    }

    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops the server cleanly.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, by: Signal) {
        end(&mut self.child, by);
    }

    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Runs a command of Redis over another connection.
    pub fn administer(&self, command: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("it reads");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+OK\r\n");
    }

    /// Starts the server again on the same port, or at the same path.
    pub fn start_again(&mut self) {
        self.kill();
        let port = self.port.to_string();
        (self.child, self.said) = serve(self.program, &self.arguments, &port, self.ready);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A process, and its log until it was ready.
type StartedServer = (Child, Vec<String>);

/// Sends a signal to a server, and waits for its end.
pub fn end(child: &mut Child, by: Signal) {
    // After a wait the process id is no longer valid.
    if let Ok(None) = child.try_wait() {
        let _ = kill_process(Pid::from_child(child), by);
        let _ = child.wait();
    }
}

/// Starts a server that cannot choose a free port itself. Another program may take the port first:
/// the error is the server's log.
pub fn on_free_port<T>(start: impl Fn(u16) -> Result<T, String>) -> T {
    for _ in 0..10 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        match start(port) {
            Ok(started) => return started,
            Err(said) => assert!(said.contains("in use"), "it does not start: {said}"),
        }
    }
    panic!("others take each free port");
}

/// Starts the program, and waits until it is ready.
fn serve(program: &str, arguments: &[String], port: &str, ready: &str) -> StartedServer {
    let served = try_serve(program, arguments, port, ready);
    served.unwrap_or_else(|said| panic!("it does not start: {said}"))
}

fn try_serve(
    program: &str,
    arguments: &[String],
    port: &str,
    ready: &str,
) -> Result<StartedServer, String> {
    let mut serve = Command::new(program);
    serve.args(arguments).arg(port);
    let path = std::env::var("PATH").unwrap_or_default();
    serve.env("PATH", format!("{path}:/usr/sbin"));
    started(serve, ready)
}

/// Starts a server, and reads its log until a line contains `ready`. A thread reads the rest: a
/// server must not block on a full pipe.
///
/// # Errors
///
/// The log, if the server ends before.
pub fn started(mut serve: Command, ready: &str) -> Result<StartedServer, String> {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // Some servers log to stdout, others to stderr.
    let output = writer.try_clone().expect("a descriptor");
    let child = serve.stdin(Stdio::null()).stdout(output).stderr(writer).spawn();
    let mut child = child.expect("it starts");
    drop(serve);
    let mut log = BufReader::new(reader).lines();
    let mut said = Vec::new();
    for line in log.by_ref().map_while(std::io::Result::ok) {
        let is_ready = line.contains(ready);
        said.push(line);
        if is_ready {
            std::thread::spawn(move || log.for_each(drop));
            return Ok((child, said));
        }
    }
    let _ = child.wait();
    Err(said.join("\n"))
}
