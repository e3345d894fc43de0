//! Servers in processes of their own: NATS and Redis.

#![allow(dead_code, reason = "each test uses a part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::needed::{Folder, has};

/// A running server, which ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    program: &'static str,
    /// The arguments besides the port.
    arguments: Vec<String>,
    /// The last line of its start.
    ready: &'static str,
    /// The log until it was ready.
    said: Vec<String>,
    _folder: Folder,
}

impl Server {
    /// Starts a server on a free port; `None` if it is not installed.
    pub(crate) fn start(arguments: &[&str]) -> Option<Server> {
        Server::start_with("", arguments)
    }

    /// Starts a server with a configuration.
    pub(crate) fn start_with(configuration: &str, arguments: &[&str]) -> Option<Server> {
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
        let mut server =
            Server { child, port: 0, program, arguments, ready, said, _folder: folder };
        server.port = server.port_of("Listening for client connections");
        Some(server)
    }

    /// Starts a Redis server without persistence; `None` if it is not installed.
    pub(crate) fn start_redis(arguments: &[&str]) -> Option<Server> {
        Server::start_redis_with("save ''", arguments)
    }

    /// Starts a Redis server with a configuration.
    pub(crate) fn start_redis_with(configuration: &str, arguments: &[&str]) -> Option<Server> {
        if !has("redis-server") {
            return None;
        }
        let folder = Folder::new();
        let (program, ready) = ("redis-server", "Ready to accept connections");
        let configuration = folder.write("conf", configuration);
        // Redis cannot choose a free port itself, and another program may take this one first.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = free.local_addr().expect("an address").port();
            drop(free);
            let fixed = [&configuration, "--bind", "127.0.0.1", "--dir", &folder.path("")];
            let arguments = fixed.iter().chain(arguments).chain(&["--port"]);
            let arguments: Vec<String> = arguments.map(|text| (*text).to_owned()).collect();
            match try_serve(program, &arguments, &port.to_string(), ready) {
                Ok((child, said)) => {
                    let _folder = folder;
                    return Some(Server { child, port, program, arguments, ready, said, _folder });
                }
                Err(said) => assert!(said.contains("Address already in use"), "{said}"),
            }
        }
        panic!("others take each free port");
    }

    /// The port that a line of the log names at its end.
    pub(crate) fn port_of(&self, words: &str) -> u16 {
        let line = self.said.iter().find(|line| line.contains(words));
        let port = line.and_then(|line| line.rsplit(':').next()?.trim().parse().ok());
        port.unwrap_or_else(|| panic!("no port: {}", self.said.join("\n")))
    }

    pub(crate) fn url(&self) -> String {
        let scheme = self.program.trim_end_matches("-server");
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    fn end(&mut self, by: Signal) {
        self.signal(by);
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Starts it again on the same port, after its end.
    pub(crate) fn start_again(&mut self) {
        let port = self.port.to_string();
        (self.child, self.said) = serve(self.program, &self.arguments, &port, self.ready);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
        }
    }
}

/// Starts the program, and waits until it is ready. Returns its log.
fn serve(program: &str, arguments: &[String], port: &str, ready: &str) -> (Child, Vec<String>) {
    let served = try_serve(program, arguments, port, ready);
    served.unwrap_or_else(|said| panic!("it does not start: {said}"))
}

/// Fails with the log if the program ends.
fn try_serve(
    program: &str,
    arguments: &[String],
    port: &str,
    ready: &str,
) -> Result<(Child, Vec<String>), String> {
    let mut serve = Command::new(program);
    serve.args(arguments).arg(port);
    let path = std::env::var("PATH").unwrap_or_default();
    serve.env("PATH", format!("{path}:/usr/sbin"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    // NATS logs to one of them, Redis to the other.
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
            // The server must not block on a full pipe.
            std::thread::spawn(move || log.for_each(drop));
            return Ok((child, said));
        }
    }
    let _ = child.wait();
    Err(said.join("\n"))
}
