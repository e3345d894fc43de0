//! A NATS server in a process of its own, and buses that use it.

use std::cell::RefCell;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::{Bus, Event, Message, Pattern, Subscription, nats};
use couplet::{Deferred, Loop, Result};
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

    pub(crate) fn options(&self) -> nats::Options {
        let first = Duration::from_millis(20);
        let options = nats::Options::new([self.url()]).expect("it is valid");
        options.back_off(first, first * 5)
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

/// A loop for buses.
pub(crate) struct Client {
    pub(crate) l: Loop,
    log: Rc<RefCell<Vec<String>>>,
}

impl Client {
    pub(crate) fn new() -> Client {
        Client { l: Loop::new().expect("a loop"), log: Rc::default() }
    }

    /// A bus that has connected.
    pub(crate) fn bus(&mut self, options: nats::Options) -> Bus {
        let bus = self.begin(options);
        self.finish(bus.flush()).expect("it logs in");
        bus
    }

    /// A bus that connects.
    pub(crate) fn begin(&mut self, options: nats::Options) -> Bus {
        let bus = Bus::nats(&self.l.reactor(), options);
        let log = self.log.clone();
        bus.on_event(move |event| {
            let line = match event {
                Event::Connected { .. } => "connected".to_owned(),
                Event::Disconnected { why, .. } => format!("disconnected: {why}"),
                Event::AttemptFailed { why, .. } => format!("failed: {why}"),
                Event::Lost { messages } => format!("lost {messages}"),
                Event::ServerError { text } => format!("error: {text}"),
                event => format!("{event:?}"),
            };
            log.borrow_mut().push(line);
        });
        bus
    }

    pub(crate) fn finish<T: 'static>(&mut self, deferred: Deferred<T>) -> Result<T> {
        self.l.run_until(deferred)
    }

    /// Logs the messages of a pattern.
    pub(crate) fn subscribe(&self, bus: &Bus, pattern: impl Into<Pattern>) -> Subscription {
        let log = self.log.clone();
        let receive = move |message: Message| {
            let payload = String::from_utf8_lossy(message.payload());
            log.borrow_mut().push(format!("{} {payload}", message.subject()));
        };
        bus.subscribe(pattern, receive).expect("it is valid")
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.take()
    }

    /// Runs until a line of the log contains these words; returns the log up to it.
    pub(crate) fn until(&mut self, words: &str) -> Vec<String> {
        self.until_all(&[words])
    }

    /// Runs until the log contains each of these.
    pub(crate) fn until_all(&mut self, all: &[&str]) -> Vec<String> {
        let found =
            |log: &[String]| all.iter().all(|words| log.iter().any(|line| line.contains(words)));
        while !found(&self.log.borrow()) {
            let pause = self.l.reactor().sleep(Duration::from_millis(2));
            self.finish(pause).expect("time passes");
        }
        self.log()
    }
}
