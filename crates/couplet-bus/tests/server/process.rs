//! A NATS server in a process of its own.

#![allow(dead_code, reason = "each test uses a part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::needed::{Folder, has};

/// A running server, which ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
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
        // -1 is a free port.
        let (child, said) = serve("-1", &arguments, ready);
        let mut server = Server { child, port: 0, arguments, ready, said, _folder: folder };
        server.port = server.port_of("Listening for client connections");
        Some(server)
    }

    /// The port that a line of the log names at its end.
    pub(crate) fn port_of(&self, words: &str) -> u16 {
        let line = self.said.iter().find(|line| line.contains(words));
        let port = line.and_then(|line| line.rsplit(':').next()?.trim().parse().ok());
        port.unwrap_or_else(|| panic!("no port: {}", self.said.join("\n")))
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
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
        (self.child, self.said) = serve(&self.port.to_string(), &self.arguments, self.ready);
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
fn serve(port: &str, arguments: &[String], ready: &str) -> (Child, Vec<String>) {
    let mut serve = Command::new("nats-server");
    serve.args(["-a", "127.0.0.1", "-p", port]).args(arguments);
    let path = std::env::var("PATH").unwrap_or_default();
    serve.env("PATH", format!("{path}:/usr/sbin"));
    let child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut said = Vec::new();
    for line in log.by_ref().map_while(std::io::Result::ok) {
        let is_ready = line.contains(ready);
        said.push(line);
        if is_ready {
            // The server must not block on a full pipe.
            std::thread::spawn(move || log.for_each(drop));
            return (child, said);
        }
    }
    let _ = child.wait();
    panic!("it does not start: {}", said.join("\n"));
}
