//! Whole programs in memory and in virtual time, each with a script: orders over the control socket,
//! health and metrics over HTTP, and clients of their services.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use couplet::services::{Health, Service, StreamServerService};
use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{Deferred, Failure, LoadLimits, Result, Signal, Stream, Transport};
use couplet_testkit::needed::Folder;
use serde::Deserialize;
use tracing::Dispatch;

use super::*;

mod life;
mod orders;
mod reloads;

const POEM: &str = "rose\nis\na\nrose\n";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Echo {
    port: u16,
    /// Changes nothing.
    #[serde(default)]
    #[expect(dead_code, reason = "its changes matter")]
    word: String,
}

/// Sends a line of the poem each ten seconds.
#[derive(Deserialize)]
struct Poet {
    port: u16,
    /// How long a stop waits for readers.
    #[serde(default)]
    drain: u64,
}

/// Runs until it is stopped.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Task {
    #[serde(skip)]
    name: String,
    #[serde(skip)]
    reactor: Option<Reactor>,
    is_broken: bool,
    /// How often it fails.
    failures: u32,
    /// How long a stop takes.
    stops_in: u64,
    cannot_stop: bool,
    is_degraded: bool,
    word: String,
}

impl Service for Task {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        self.reactor = Some(reactor.clone());
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        match (self.cannot_stop, &self.reactor) {
            (true, _) => Deferred::fail(Failure::msg("it stays")),
            (_, Some(reactor)) => reactor.sleep(secs(self.stops_in)),
            _ => Deferred::succeed(()),
        }
    }

    fn health(&self) -> Health {
        if self.is_degraded { Health::Degraded(self.word.clone()) } else { Health::Ready }
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.failures = self.failures.checked_sub(1)?;
        Some(Deferred::fail(Failure::msg("it broke")))
    }
}

struct Echoes;

impl Protocol for Echoes {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn draining(&mut self, transport: &Transport) {
        transport.lose_connection();
    }
}

/// The program, with three kinds of services.
fn program() -> Runner {
    let echo = |name: &str, config: Echo, _: &Reactor| {
        let at = format!("tcp:{}:interface=127.0.0.1", config.port);
        Ok(Child::new(StreamServerService::new(name, at, || Echoes)?))
    };
    let poet = |name: &str, config: Poet, _: &Reactor| {
        let serve = move |reactor: &Reactor| {
            let timer = reactor.clone();
            let at = format!("tcp:{}:interface=127.0.0.1", config.port);
            reactor.serve(at, async move |mut stream: Stream| {
                for line in POEM.split_inclusive('\n') {
                    stream.write_all(line).await?;
                    timer.sleep(secs(10)).await?;
                }
                Ok(())
            })
        };
        let service = StreamServerService::opening(name, serve).drain(secs(config.drain));
        Ok(Child::new(service).stop_within(secs(1000)))
    };
    let task = |name: &str, config: Task, _: &Reactor| match config.is_broken {
        true => Err(Failure::msg("it cannot be built")),
        false => Ok(Child::new(Task { name: name.to_owned(), ..config }).stop_within(secs(1000))),
    };
    Runner::new("x").version("1").kind("echo", echo).kind("poet", poet).kind("task", task)
}

fn echo(name: &str, port: u16, word: &str) -> String {
    format!("[services.{name}]\nkind = \"echo\"\nport = {port}\nword = \"{word}\"\n")
}

fn poet(port: u16, drain: u64) -> String {
    format!("[services.poet]\nkind = \"poet\"\nport = {port}\ndrain = {drain}\n")
}

/// A task with these keys.
fn task(name: &str, keys: &str) -> String {
    format!("[services.{name}]\nkind = \"task\"\n{keys}\n")
}

/// The tables of the process, with further keys of `[runner]` and a control socket, health and metrics.
fn process(keys: &str) -> String {
    format!(
        "[runner]\ncontrol = \"/ctl\"\nhealth = \"tcp:7000:interface=127.0.0.1\"\n\
         metrics = \"tcp:9000:interface=127.0.0.1\"\n{keys}\n"
    )
}

/// A program that runs.
struct Site {
    reactor: Reactor,
    network: Network,
    folder: Rc<Folder>,
    log: Log,
}

/// The end of a program.
struct Ended {
    /// The message of a failure.
    failure: Option<String>,
    log: String,
    /// Since its start.
    took: Duration,
}

impl Site {
    /// Changes the configuration.
    fn write(&self, text: &str) {
        self.folder.write("a.toml", text);
    }

    fn log(&self) -> String {
        read_log(&self.log, &self.folder)
    }

    /// The answer to these bytes at the control socket, up to the end of the connection.
    async fn answer(&self, order: impl AsRef<[u8]>) -> Result<String> {
        let mut client = self.reactor.connect_stream("unix:/ctl").await?;
        client.write_all(order).await?;
        Ok(read_answer(client).await)
    }

    /// The answer to an order without its first line.
    async fn order(&self, order: &str) -> Result<String> {
        let answer = self.answer(format!("{order}\n")).await?;
        let words = answer.strip_prefix("ok\n").map(str::to_owned);
        words.ok_or_else(|| Failure::msg(format!("{order}: {answer}")))
    }

    /// Changes the configuration, and reloads it; returns the answer.
    async fn reload(&self, text: &str) -> Result<String> {
        self.write(text);
        self.answer("reload\n").await
    }

    /// The status and the body of an answer of the health's or the metrics' port.
    async fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let mut client = self.reactor.connect_stream(format!("tcp:127.0.0.1:{port}")).await?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        client.write_all(head).await?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer, 1_000_000).await?;
        let answer = String::from_utf8(answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        Ok((head.split(' ').nth(1).expect("a status").parse()?, body.to_owned()))
    }

    /// The value of a metric with these labels.
    async fn value(&self, metric: &str) -> Result<f64> {
        let (_, text) = self.get(9000, "/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        Ok(line.unwrap_or_else(|| panic!("no {metric}: {text}")).parse()?)
    }

    /// A client of this port.
    async fn connect(&self, port: u16) -> Result<Client> {
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let wire = self.network.connect(to)?;
        // The server has accepted, and has sent its first bytes.
        self.tick().await?;
        Ok(Client { wire, reactor: self.reactor.clone() })
    }

    /// Waits until everything that has been sent is received and answered.
    async fn tick(&self) -> Result<()> {
        self.reactor.sleep(Duration::from_millis(1)).await
    }

    async fn sleep(&self, seconds: u64) -> Result<()> {
        self.reactor.sleep(secs(seconds)).await
    }
}

/// The far end of a connection.
struct Client {
    wire: Wire,
    reactor: Reactor,
}

impl Client {
    /// Whether an echo server answers. The end of its stream is answered by the client's.
    async fn is_served(&self) -> bool {
        self.wire.push(b"hello");
        let is_over = self.reactor.sleep(Duration::from_millis(1)).await.is_err();
        if self.wire.saw_fin() {
            self.wire.fin();
        }
        !is_over && self.wire.take() == b"hello"
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.wire.close();
    }
}

/// Everything up to the end of the connection; a reset is an end too.
async fn read_answer(mut client: Stream) -> String {
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer, 10_000_000).await;
    String::from_utf8(answer).expect("text")
}

fn read_log(log: &Log, folder: &Path) -> String {
    log.settle();
    fs::read_to_string(folder.join("log")).expect("a log")
}

/// Runs the program with this configuration and these arguments, together with a script; the end of
/// the script stops the program. Returns the script's value.
#[track_caller]
fn run<T: 'static>(
    text: &str,
    arguments: &[&str],
    script: impl AsyncFnOnce(Site) -> Result<T> + 'static,
) -> (T, Ended) {
    let (value, ended) = try_run(program(), text, arguments, script);
    (value.unwrap_or_else(|| panic!("{:?} {}", ended.failure, ended.log)), ended)
}

/// Like [`run`], for a program that may fail before the end of the script.
fn try_run<T: 'static>(
    runner: Runner,
    text: &str,
    arguments: &[&str],
    script: impl AsyncFnOnce(Site) -> Result<T> + 'static,
) -> (Option<T>, Ended) {
    /// With a single subscriber, `tracing` would ask only the subscriber of the thread that is the
    /// first to log at a place whether any thread logs there.
    static SECOND: LazyLock<Dispatch> =
        LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
    LazyLock::force(&SECOND);
    let folder = Rc::new(Folder::new());
    let (file, log) = (folder.write("a.toml", text), folder.path("log"));
    let own = ["x", "--config", &file, "--log-file", &log];
    let command = runner.command().try_get_matches_from([&own, arguments].concat());
    let arguments = Arguments::from_arg_matches(&command.expect("a command line")).unwrap();
    let plan = runner.services.plan(&Source::read(Path::new(&file)).expect(text)).expect(text);
    let command_line = arguments.options.clone();
    let arguments = arguments.or(&plan.log, plan.options.clone());
    let (log, subscriber) = Log::prepare(&arguments, plan.log.log_level.clone()).unwrap();
    let logging = tracing::subscriber::set_default(subscriber);
    places::Common::new(1).enter();
    loops::enter(0, 1);
    let metrics = arguments.options.metrics.as_ref().map(|_| Metrics::new());
    let (driver, network) = Memory::new(Manner::Readiness, 0);
    let options = runner.options_of(&arguments.options, 0, 1);
    let mut l = Loop::with_driver(driver, options.signals(true));
    prepare(&mut l, None, metrics.as_ref());
    let runner_table = plan.options.clone();
    let program = Program {
        name: runner.name,
        version: runner.version,
        limits: runner.options.load_limits,
        services: runner.services,
        arguments,
        command_line,
        loop_options: runner.options,
        runner_table,
        identity: None,
        log: log.clone(),
        signals: Cell::default(),
        executable: Executable::find().expect("a test has a path"),
        directory: None,
        folder: RefCell::default(),
        takers: runner.takers,
        stored: Cell::new(Stored::take()),
        metrics,
        own_metrics: runner.own_metrics,
        pid_file: Rc::default(),
    };
    let (reactor, value) = (l.reactor(), Rc::new(Cell::new(None)));
    let (noted, before) = (value.clone(), network.elapsed());
    let site = Site { reactor, network: network.clone(), folder: folder.clone(), log: log.clone() };
    let stopping = l.reactor();
    let beside = l.reactor().spawn(async move {
        // The services have started.
        site.tick().await?;
        script(site).await
    });
    let scripted = beside.add_both(move |outcome| {
        noted.set(Some(outcome));
        stopping.stop();
        Ok(())
    });
    scripted.detach();
    let outcome = running::run(&mut l, &Workers::default(), program, plan, None);
    drop(l);
    let failure = outcome.err().map(|exit| exit.message().to_owned());
    let ended = Ended { failure, log: read_log(&log, &folder), took: network.elapsed() - before };
    drop(logging);
    let value = value.take().and_then(|outcome: Result<T>| match outcome {
        Ok(value) => Some(value),
        Err(failure) if failure.to_string().starts_with("panicked") => panic!("{failure}"),
        // The program has ended before.
        Err(_) => None,
    });
    (value, ended)
}

#[test]
fn a_command_has_the_name_the_words_and_the_version_of_its_program() {
    let runner = || Runner::new("greeter").about("Greets");
    let command = runner().version("1.2").command();
    assert_eq!(command.get_name(), "greeter");
    let help = command.clone().render_long_help().to_string();
    assert!(help.starts_with("Greets\n\nUsage: greeter"), "{help}");
    assert_eq!(command.render_version(), "greeter 1.2\n");
    assert_eq!(runner().command().get_version(), None);
    assert!(command.get_arguments().any(|argument| argument.get_id() == "config"));
}
