//! Shared by the server commands: their arguments; listen, print the ports, run until stopped.

use std::fmt::{self, Display};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use couplet::endpoints::{ServerEndpoint, SharedPort};
use couplet::reactor::Snapshot;
use couplet::services::{Child, DatagramService, Service, StreamServerService, Supervisor};
use couplet::{
    Address, Answers, Cluster, ConnectError, DatagramTransport, DriverChoice, Failure, IntoFactory,
    LoopOptions, Port, Reactor, Shutdown,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::endpoint::{self, to_listen};
use crate::exit::Exit;
use crate::output;
use crate::signals::{signalled, signalled_loop};
use crate::values::seconds_or_none;

// Arguments that several commands have.

#[derive(Args, Debug)]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Listen {
    /// Endpoint to listen on; may be repeated [default: a free port on 127.0.0.1]
    #[arg(
        short = 'l',
        long = "listen",
        value_name = "ENDPOINT",
        value_parser = to_listen,
        allow_negative_numbers = true
    )]
    pub endpoints: Vec<Arc<dyn ServerEndpoint>>,
    #[command(flatten)]
    pub drain: Drain,
    /// When to send the answers of one turn: each immediately, all together, or as the loop's
    /// measurements suggest
    #[arg(long, value_name = "WHEN", default_value = "measured", value_parser = answers())]
    pub answers: Answers,
    #[command(flatten)]
    pub driver: DriverOption,
}

#[derive(Args, Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct DriverOption {
    /// The system's interface for input and output: io_uring, where Linux allows it, takes no system
    /// call for a small message; auto is the best one for most loads, at present epoll
    #[arg(
        long = "driver",
        value_name = "DRIVER",
        default_value = "auto",
        value_parser = drivers()
    )]
    choice: DriverChoice,
    /// Poll for so long before each sleep, while that pays: fewer microseconds to answer a few
    /// clients, for a processor that is never idle; 50 are a good start. Not with uring
    #[arg(
        long,
        value_name = "MICROSECONDS",
        default_value = "0",
        value_parser = clap::value_parser!(u32).range(..=1_000_000)
    )]
    spin: u32,
}

impl DriverOption {
    /// Sets the driver of a loop.
    pub fn set(self, options: LoopOptions) -> LoopOptions {
        options.driver(self.choice).tune(|it| it.spin(Duration::from_micros(self.spin.into())))
    }
}

#[derive(Args, Clone, Copy, Debug)]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Drain {
    /// On SIGTERM, let connections finish for this many seconds; Ctrl-C or a second signal exits
    /// immediately
    #[arg(
        long = "drain",
        value_name = "SECONDS",
        default_value = "5",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub time: Duration,
}

/// Reads when to send the answers of one turn.
pub fn answers() -> impl TypedValueParser<Value = Answers> {
    PossibleValuesParser::new(["at-once", "together", "measured"]).map(|word| match &word[..] {
        "at-once" => Answers::AtOnce,
        "together" => Answers::Together,
        _ => Answers::Measured,
    })
}

#[derive(Args, Clone, Copy, Debug)]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Threads {
    /// Number of serving threads; auto (or 0) starts one per processor
    #[arg(
        long = "threads",
        value_name = "N",
        default_value = "1",
        value_parser = threads,
        allow_negative_numbers = true
    )]
    pub number: usize,
}

/// An example, followed by the forms of an endpoint to listen on.
#[macro_export]
macro_rules! listening {
    ($example:literal) => {
        concat!(
            "Example:\n",
            $example,
            "\n
An ENDPOINT is one of:
  10000                           this port, on 127.0.0.1 only
  :10000, tcp:10000               this port, on all interfaces, IPv4 and IPv6
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  192.0.2.7:10000, [::1]:10000    this port, on one address; localhost is 127.0.0.1
  [fe80::1%eth0]:10000            the same, with the interface by name or number
  0                               a free port on 127.0.0.1, printed on stdout
  tls:10000:cert=FILE:key=FILE    TLS; client-ca=FILE requires client certificates
  systemd:NAME, fd:3              a socket of the init system, or an inherited one
  haproxy:10000:trusted=IP/LEN    behind a proxy that writes PROXY headers
  throttle:10000:write=64k        at most this many bytes a second; also read=
  log:10000:file=traffic.pcap     with a log of what passes
The last three and tls: go before any other ENDPOINT, as in haproxy:tls:unix:… or tls::10000:…"
        )
    };
}
pub use crate::listening;

/// The most threads: no machine has more processors.
pub const MOST_THREADS: usize = 1024;

/// Reads a number of threads: 0, or `auto`, stands for one per processor.
///
/// # Errors
///
/// Words for a user, if it is no number or more than 1024.
pub fn threads(text: &str) -> Result<usize, String> {
    let number = if text == "auto" { Some(0) } else { text.parse().ok() };
    number.filter(|number| *number <= MOST_THREADS).ok_or_else(|| {
        format!("a number of threads, at most {MOST_THREADS}, or auto is expected here")
    })
}

/// The words for drivers.
const DRIVERS: [(&str, DriverChoice); 3] =
    [("auto", DriverChoice::Auto), ("epoll", DriverChoice::Epoll), ("uring", DriverChoice::Uring)];

/// Reads a driver: auto, epoll or uring.
pub fn drivers() -> impl TypedValueParser<Value = DriverChoice> {
    PossibleValuesParser::new(DRIVERS.map(|(word, _)| word))
        .map(|word| driver(&word).unwrap_or_default())
}

/// The driver of this name, which is one of [`drivers`].
pub fn driver(word: &str) -> Option<DriverChoice> {
    DRIVERS.iter().find(|(known, _)| *known == word).map(|(_, driver)| *driver)
}

/// Descriptors reserved for uses other than client connections.
const RESERVED_DESCRIPTORS: usize = 16;

/// The process's limit on descriptors, less a few for other uses than clients.
pub fn max_descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile).current;
    let allowed = allowed.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    allowed.saturating_sub(RESERVED_DESCRIPTORS).max(1)
}

/// Most concurrent sessions, of `each` descriptors: the requested number, if the limit on
/// descriptors allows it. Raises that limit to the hard limit.
pub fn max_sessions(asked: Option<usize>, each: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "cannot raise the limit on descriptors");
    }
    let affordable = max_descriptors() / each;
    asked.map_or(affordable, |most| most.min(affordable)).max(1)
}

/// True if this process had no descriptor left for the connection; the server is not at fault.
pub fn is_local_failure(failure: &Failure) -> bool {
    let Some(ConnectError::System(error)) = failure.downcast_ref() else { return false };
    let none_left = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    none_left.contains(&error.raw_os_error())
}

/// One client in the count of open clients of all loops.
#[derive(Debug)]
pub struct SessionPermit(Arc<AtomicUsize>);

impl SessionPermit {
    /// Counts one more client, unless `most` are open.
    pub fn acquire(open: &Arc<AtomicUsize>, most: usize) -> Option<SessionPermit> {
        let more = |open: usize| (open < most).then_some(open + 1);
        let taken = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.ok().map(|_| SessionPermit(open.clone()))
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes a part of a service that has this name: a UDP port.
pub type Part = Box<dyn Fn(&str) -> DatagramService + Send + Sync>;

/// Opens UDP ports in a loop; returns their addresses.
pub type OpenPorts = Box<dyn Fn(&Reactor) -> couplet::Result<Vec<Address>> + Send + Sync>;

/// A server as its command line describes it.
pub struct Server {
    listen: Listen,
    threads: Threads,
    read_buffer: Option<usize>,
    prepare: Box<Prepare>,
    /// The UDP ports of a service.
    datagrams: Vec<Part>,
    /// Opens the UDP ports of a server of the command line.
    udp: Option<OpenPorts>,
    link: Option<Box<MakeLink>>,
    web: Option<WebPort>,
}

/// An additional port, for browsers.
struct WebPort {
    endpoint: Arc<dyn ServerEndpoint>,
    prepare: Box<Prepare>,
}

/// Makes an additional service, such as a link to other servers, which one loop has.
type MakeLink = dyn Fn() -> Child + Send + Sync;

/// Makes the function that opens the ports of a loop, for the number of all loops.
type Prepare = dyn Fn(usize) -> Open + Send + Sync;

/// Makes a server's child in a loop.
pub type MakeChild = Box<dyn Fn(&Reactor) -> couplet::Result<Child> + Send + Sync>;

/// Opens a port of a loop.
pub type Open = Box<dyn Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port>>;

impl Server {
    /// A server that listens on each endpoint, or on a free local port if the list is empty, with the
    /// function that `prepare` returns for each loop.
    pub fn new<S>(
        listen: Listen,
        threads: Threads,
        prepare: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> Server
    where
        S: Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port> + 'static,
    {
        let prepare = Box::new(move |loops| Box::new(prepare(loops)) as Open);
        Server {
            listen,
            threads,
            read_buffer: None,
            prepare,
            datagrams: Vec::new(),
            udp: None,
            link: None,
            web: None,
        }
    }

    /// A server of a configuration with these UDP ports only.
    pub fn of_datagrams(drain: Drain, datagrams: Vec<Part>) -> Server {
        let (answers, driver) = (Answers::default(), DriverOption::default());
        let listen = Listen { endpoints: Vec::new(), drain, answers, driver };
        let none =
            |_| |_: &Reactor, _| Err(Failure::msg("a server of datagrams accepts no connections"));
        Server::new(listen, Threads { number: 1 }, none).with_datagrams(datagrams)
    }

    /// Sets the size of the read buffer of its loops, unless it is a service of a configuration, which
    /// shares them.
    pub fn read_buffer(self, bytes: usize) -> Server {
        Server { read_buffer: Some(bytes), ..self }
    }

    /// Adds UDP ports, for a server of a configuration.
    pub fn with_datagrams(self, datagrams: Vec<Part>) -> Server {
        Server { datagrams, ..self }
    }

    /// Adds UDP ports, for a server of the command line. With them it needs no other endpoint.
    pub fn with_udp(self, udp: Option<OpenPorts>) -> Server {
        Server { udp, ..self }
    }

    /// Adds a service that starts before the ports and stops after them.
    pub fn with_link(self, link: impl Fn() -> Child + Send + Sync + 'static) -> Server {
        Server { link: Some(Box::new(link)), ..self }
    }

    /// Adds a port for browsers, with the function that `prepare` returns for each loop.
    pub fn with_web<S>(
        self,
        endpoint: Arc<dyn ServerEndpoint>,
        prepare: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> Server
    where
        S: Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port> + 'static,
    {
        let prepare = Box::new(move |loops| Box::new(prepare(loops)) as Open);
        Server { web: Some(WebPort { endpoint, prepare }), ..self }
    }

    /// A server whose protocols are built by `factory`'s factories, one for each loop.
    pub fn of_factory<K: 'static, F: IntoFactory<K> + Clone + 'static>(
        listen: Listen,
        threads: Threads,
        factory: impl Fn() -> F + Send + Sync + 'static,
    ) -> Server {
        Server::new(listen, threads, move |_| {
            let factory = factory();
            move |reactor: &Reactor, endpoint| reactor.listen(endpoint, factory.clone())
        })
    }

    /// Serves until a signal ends the program. On SIGTERM, connections are asked to finish.
    pub fn run(self) -> Result<(), Exit> {
        let Server { listen, threads, read_buffer, prepare, udp, link, web, .. } = self;
        let options =
            LoopOptions::default().drain(listen.drain.time).tune(|it| it.answers(listen.answers));
        let options = listen.driver.set(options);
        let options = match read_buffer {
            Some(bytes) => options.tune(|it| it.read_buffer(bytes)),
            None => options,
        };
        let endpoints = match udp {
            Some(_) => listen.endpoints,
            None => endpoint::or_free_port(listen.endpoints),
        };
        // The addresses of the UDP ports follow the others.
        let with_udp = |reactor: &Reactor, mut ports: Vec<String>| {
            let opened = udp.as_ref().map(|open| open(reactor)).transpose()?;
            ports.extend(opened.iter().flatten().map(Address::to_string));
            Ok(ports)
        };
        let mut ports: Vec<_> =
            endpoints.into_iter().map(|endpoint| (endpoint, &*prepare, "")).collect();
        ports.extend(web.iter().map(|web| (web.endpoint.clone(), &*web.prepare, " for browsers")));
        if threads.number == 1 {
            return run_loop(options, |reactor| {
                start(link.as_deref(), reactor);
                let open = |(endpoint, prepare, what): (_, &Prepare, _)| {
                    Ok(format!("{}{what}", prepare(1)(reactor, endpoint)?))
                };
                with_udp(reactor, ports.into_iter().map(open).collect::<couplet::Result<_>>()?)
            });
        }
        let cluster = cluster(threads, options);
        let ports = ports
            .into_iter()
            .map(|(endpoint, prepare, what)| Ok((cluster.bind(endpoint)?, prepare, what)));
        let ports = ports.collect::<couplet::Result<Vec<_>>>()?;
        let members = cluster.members();
        let linked = OnceLock::new();
        run_loops(cluster, |reactor| {
            // The other loops wait: a member that one of them serves may speak immediately.
            linked.get_or_init(|| start(link.as_deref(), reactor));
            let open = |(port, prepare, what): &(SharedPort, &Prepare, _)| {
                let opened = prepare(members.count())(reactor, Arc::new(port.clone()))?;
                Ok(format!("{opened}{what}"))
            };
            with_udp(reactor, ports.iter().map(open).collect::<couplet::Result<_>>()?)
        })
    }

    /// Makes the server as a service of this name, in one loop or in each of several: one port, or a
    /// supervisor of several. `place` converts each endpoint for connections; only the first loop has
    /// the UDP ports. `this_loop` returns the number of the loop that it is called in, and the total
    /// number of loops.
    pub fn into_child(
        self,
        name: &str,
        place: impl Fn(Arc<dyn ServerEndpoint>) -> Arc<dyn ServerEndpoint>,
        this_loop: fn() -> (usize, usize),
    ) -> MakeChild {
        let Server { listen, prepare, datagrams, link, web, .. } = self;
        let (name, drain) = (name.to_owned(), listen.drain.time);
        let endpoints = match datagrams.is_empty() {
            true => endpoint::or_free_port(listen.endpoints),
            false => listen.endpoints,
        };
        let endpoints: Vec<_> = endpoints.into_iter().map(&place).collect();
        let web = web.map(|web| WebPort { endpoint: place(web.endpoint), ..web });
        let is_alone = endpoints.len() + datagrams.len() == 1 && link.is_none() && web.is_none();
        Box::new(move |_| {
            let (this, count) = this_loop();
            let open = Rc::new(prepare(count));
            let page = web.iter().map(|web| (&web.endpoint, Rc::new((web.prepare)(count))));
            let ports = endpoints.iter().map(|endpoint| (endpoint, open.clone())).chain(page);
            let mut names = (1..).map(|number| match is_alone {
                true => name.clone(),
                false => format!("{name}-{number}"),
            });
            let streams = ports.zip(&mut names).map(|((endpoint, open), child)| {
                let (name, endpoint) = (name.clone(), endpoint.clone());
                let listen = move |reactor: &Reactor| open(reactor, endpoint.clone());
                let announce = move |port: &Port| {
                    if this == 0 {
                        output::served(&name, port);
                    }
                };
                let service = StreamServerService::opening(child, listen);
                Child::new(service.drain(drain).on_listening(announce))
            });
            // Stopped after the ports, whose connections use it until then.
            let link = link.iter().filter(|_| this == 0).map(|link| link());
            let mut children: Vec<Child> = link.chain(streams).collect();
            // The datagrams of a client belong together.
            if this == 0 {
                children.extend(datagrams.iter().zip(&mut names).map(|(part, child)| {
                    let name = name.clone();
                    let announce =
                        move |port: &DatagramTransport| output::served(&name, &port.host());
                    Child::new(part(&child).on_listening(announce))
                }));
            }
            let mut children = children.into_iter().map(|it| it.stop_within(drain + PATIENCE));
            if is_alone && let Some(child) = children.next() {
                return Ok(child);
            }
            let all = Supervisor::new(&*name);
            children.for_each(|child| all.add(child).detach());
            Ok(Child::supervisor(&all))
        })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Starts the service next to the ports before this returns. The service stops before the loop.
fn start(link: Option<&MakeLink>, reactor: &Reactor) {
    let Some(mut link) = link.map(|link| link()) else { return };
    link.start(reactor).detach();
    reactor.on(Shutdown::Before, move || link.stop());
}

/// How long a service may take to stop after its drain.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a loop that listens, and announces its ports.
pub fn run_loop<P: Display>(
    options: LoopOptions,
    listen: impl FnOnce(&Reactor) -> couplet::Result<Vec<P>>,
) -> Result<(), Exit> {
    let failed = Unannounced::default();
    signalled_loop(options, output::print_to_stderr)?.run(|reactor| {
        // All or none: announces no port that closes immediately because another one failed.
        failed.announce(reactor, &listen(reactor)?);
        Ok(())
    })?;
    failed.outcome()
}

/// Like [`run_loop`], with several loops that listen on the same ports.
pub fn run_loops<P: Display>(
    cluster: Cluster,
    listen: impl Fn(&Reactor) -> couplet::Result<Vec<P>> + Send + Sync,
) -> Result<(), Exit> {
    let (all, listening) = (cluster.members().count(), AtomicUsize::new(0));
    let failed = Unannounced::default();
    cluster.run(|reactor| {
        let ports = listen(reactor)?;
        // Announces once all loops listen, or never.
        if listening.fetch_add(1, Ordering::SeqCst) + 1 == all {
            failed.announce(reactor, &ports);
        }
        Ok(())
    })?;
    failed.outcome()
}

/// The failure to announce the ports, if there is one.
#[derive(Clone, Default)]
struct Unannounced(Arc<OnceLock<Exit>>);

impl Unannounced {
    /// Prints the listening ports in a thread, since stdout may have no reader. Stops the reactor if
    /// that fails.
    fn announce(&self, reactor: &Reactor, ports: &[impl Display]) {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let (failed, stopping) = (self.clone(), reactor.clone());
        let printed = reactor.defer_to_thread(move || Ok(output::listening(&ports)));
        let announced = printed.add_callback(move |printed| {
            if let Err(exit) = printed {
                let _ = failed.0.set(exit);
                stopping.stop();
            }
            Ok(())
        });
        // Cancelled if the program ends first.
        announced.add_errback(|_| Ok(())).detach();
    }

    fn outcome(self) -> Result<(), Exit> {
        Arc::into_inner(self.0).and_then(OnceLock::into_inner).map_or(Ok(()), Err)
    }
}

/// A cluster whose loops handle signals as a single one does.
pub fn cluster(threads: Threads, options: LoopOptions) -> Cluster {
    let show = |snapshot: &Snapshot| output::print_to_stderr(snapshot.to_string().trim_end());
    Cluster::new(threads.number).options(signalled(options)).on_snapshot(show)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use couplet::services::FunctionService;
    use couplet::testing::MemoryReactor;
    use couplet::{Deferred, Protocol, Transport};

    use super::*;

    fn parsed(args: &[&str]) -> Result<clap::ArgMatches, clap::Error> {
        let command = Listen::augment_args(clap::Command::new("server"));
        command.try_get_matches_from(["server"].into_iter().chain(args.iter().copied()))
    }

    #[test]
    fn a_link_has_started_before_the_ports_open() {
        let starts = Arc::new(AtomicUsize::new(0));
        let started = starts.clone();
        let link = move || {
            let started = started.clone();
            let start = move |_: &Reactor| {
                started.fetch_add(1, Ordering::SeqCst);
                Deferred::succeed(())
            };
            Child::new(FunctionService::new("link", start))
        };
        start(Some(&link), &MemoryReactor::new().reactor());
        assert_eq!(starts.load(Ordering::SeqCst), 1);
    }

    /// Never ends its connection.
    #[derive(Clone)]
    struct Silent;

    impl Protocol for Silent {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn connections_of_a_service_may_finish_within_its_own_drain() {
        const MOMENT: Duration = Duration::from_millis(1);
        let ports = ["--listen", "127.0.0.1:81", "--listen", "127.0.0.1:82"];
        for (drain, ports) in [("2", &ports[..2]), ("20", &ports[..2]), ("20", &ports[..])] {
            let arguments = parsed(&[ports, &["--drain", drain]].concat()).unwrap();
            let listen = Listen::from_arg_matches(&arguments).unwrap();
            let server = Server::of_factory(listen, Threads { number: 1 }, || || Silent);
            let child = server.into_child("silent", |endpoint| endpoint, || (0, 1));
            let (mut memory, services) = (MemoryReactor::new(), Supervisor::new("test"));
            services.add(child(&memory.reactor()).unwrap()).detach();
            services.run(&memory.reactor()).detach();
            let client = memory.connect(81);
            services.stop_child("silent").detach();
            memory.settle();
            memory.advance(Duration::from_secs(drain.parse().unwrap()) - MOMENT);
            assert!(!client.saw_fin(), "{drain} {ports:?}");
            memory.advance(MOMENT);
            assert!(client.saw_fin(), "{drain} {ports:?}");
        }
    }

    #[test]
    fn answers_go_out_at_once_together_or_as_measured() {
        let cases: [(&[&str], Answers); 4] = [
            (&[], Answers::Measured),
            (&["--answers", "at-once"], Answers::AtOnce),
            (&["--answers", "together"], Answers::Together),
            (&["--answers", "measured"], Answers::Measured),
        ];
        for (args, meant) in cases {
            assert_eq!(parsed(args).unwrap().get_one("answers"), Some(&meant), "{args:?}");
        }
    }

    #[test]
    fn the_driver_is_the_best_one_or_the_one_that_is_named() {
        let cases: [(&[&str], DriverChoice); 4] = [
            (&[], DriverChoice::Auto),
            (&["--driver", "auto"], DriverChoice::Auto),
            (&["--driver", "epoll"], DriverChoice::Epoll),
            (&["--driver", "uring"], DriverChoice::Uring),
        ];
        for (args, meant) in cases {
            assert_eq!(parsed(args).unwrap().get_one("choice"), Some(&meant), "{args:?}");
        }
    }

    #[test]
    fn polling_before_sleeps_has_a_limit() {
        assert_eq!(parsed(&[]).unwrap().get_one("spin"), Some(&0_u32));
        assert_eq!(parsed(&["--spin", "50"]).unwrap().get_one("spin"), Some(&50_u32));
        assert!(parsed(&["--spin", "1000001"]).is_err());
    }
}
