//! [`Runner`]: a program's services, and its `main`.
//!
//! Contract: 119c.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use clap::{Args, Command, FromArgMatches};
use couplet::backlog;
use couplet::services::Child;
use couplet::{Address, Loop, LoopOptions, Protocol, Reactor};
use serde::de::DeserializeOwned;

use crate::config::Source;
use crate::directory::Directory;
use crate::exit::{Exit, plain};
use crate::identity::{self, Identity};
use crate::logging::Log;
use crate::loops::{self, Loops};
use crate::metrics::{Metrics, OwnMetrics};
use crate::options::{Arguments, Options};
use crate::places::{self, Endpoints};
use crate::plan::{self, Plan, Services};
use crate::restart::{Executable, Heir, Takers};
use crate::running::{self, Program, Signals};
use crate::store::{Store, StoreRoom, Stored};
use crate::workers::Workers;

/// A program made of services; see the [crate's page](crate). Twisted's `twistd` with a plugin.
pub struct Runner {
    name: &'static str,
    about: &'static str,
    version: &'static str,
    options: LoopOptions,
    services: Services,
    takers: Takers,
    own_metrics: OwnMetrics,
}

impl Runner {
    /// A program without services; the name is for its command and its supervisor.
    pub fn new(name: &'static str) -> Runner {
        Runner {
            name,
            about: "",
            version: "",
            options: LoopOptions::default(),
            services: Services::default(),
            takers: Takers::default(),
            own_metrics: OwnMetrics::new(),
        }
    }

    /// Sets the first line of `--help`.
    #[must_use]
    pub fn about(mut self, about: &'static str) -> Runner {
        self.about = about;
        self
    }

    /// Sets the version that `--version` prints: usually `env!("CARGO_PKG_VERSION")`.
    #[must_use]
    pub fn version(mut self, version: &'static str) -> Runner {
        self.version = version;
        self
    }

    /// Sets the options of the loop. Limits of the configuration or the command line replace theirs.
    #[must_use]
    pub fn loop_options(mut self, options: LoopOptions) -> Runner {
        self.options = options;
        self
    }

    /// Adds a service, whose configuration is the whole file, apart from the runner's own tables; a
    /// key that `C` does not have is an error. `build` makes the service, and opens nothing: that
    /// is for the service's start. Called at the start, for each reload that changes the
    /// configuration, and for `--check`.
    #[must_use]
    pub fn service<C: DeserializeOwned + 'static>(
        mut self,
        build: impl Fn(C, &Reactor) -> couplet::Result<Child> + 'static,
    ) -> Runner {
        self.services.add(build);
        self
    }

    /// Adds a kind of service: the configuration says how many there are. Each has a table, such as
    /// `[services.front]` with `kind = "echo"`, with the keys of `C`, and with `restart`, which is
    /// `"permanent"` (the default), `"transient"` or `"temporary"`. `build` also gets the name of the
    /// table, and should give it to the service.
    #[must_use]
    pub fn kind<C: DeserializeOwned + 'static>(
        mut self,
        kind: &'static str,
        build: impl Fn(&str, C, &Reactor) -> couplet::Result<Child> + 'static,
    ) -> Runner {
        self.services.add_kind(kind, build);
        self
    }

    /// Adds a service that runs in all loops of the program: [`--threads`](crate#threads). Otherwise like
    /// [`service`](Self::service): `build` reads the configuration once, in the main loop, and returns a
    /// function that makes the service in each loop, in that loop's thread. State that the loops share
    /// is captured by it.
    ///
    /// The parts start, stop and, if one ends or fails, end together. With one loop there is one part.
    /// Their endpoints are [`Listen`](crate::Listen)s of the configuration, or were [`placed`] by `build`:
    /// the loops share one socket for each. Other endpoints are opened in each loop anew.
    ///
    /// [`placed`]: crate::placed
    ///
    /// ```no_run
    /// use std::sync::Arc;
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use couplet::services::{Child, StreamServerService};
    /// use couplet::{Protocol, Transport};
    /// use couplet_runner::{Listen, Runner};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Config {
    ///     listen: Listen,
    /// }
    ///
    /// /// Numbers the clients of all loops.
    /// struct Number(Arc<AtomicU64>);
    ///
    /// impl Protocol for Number {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write(format!("{}\n", self.0.fetch_add(1, Ordering::Relaxed)));
    ///         transport.lose_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// let runner = Runner::new("number").service_in_loops(|config: Config, _reactor| {
    ///     let count = Arc::new(AtomicU64::new(1));
    ///     Ok(move |_reactor: &_| {
    ///         let count = count.clone();
    ///         let factory = move || Number(count.clone());
    ///         Ok(Child::new(StreamServerService::new("number", &config.listen, factory)?))
    ///     })
    /// });
    /// ```
    #[must_use]
    pub fn service_in_loops<C, M>(
        mut self,
        build: impl Fn(C, &Reactor) -> couplet::Result<M> + 'static,
    ) -> Runner
    where
        C: DeserializeOwned + 'static,
        M: Fn(&Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
    {
        self.services.add_in_loops(build);
        self
    }

    /// Adds a kind of service that runs in all loops: as [`kind`](Self::kind), with a function for each
    /// loop as in [`service_in_loops`](Self::service_in_loops).
    #[must_use]
    pub fn kind_in_loops<C, M>(
        mut self,
        kind: &'static str,
        build: impl Fn(&str, C, &Reactor) -> couplet::Result<M> + 'static,
    ) -> Runner
    where
        C: DeserializeOwned + 'static,
        M: Fn(&Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
    {
        self.services.add_kind_in_loops(kind, build);
        self
    }

    /// Takes connections of this kind over when the program is restarted: `build` makes the protocol of
    /// a connection that [`ProtocolExtension::hand_over`](couplet::ProtocolExtension::hand_over)
    /// has given up in the process before, or whose state [`hooks::keep`](couplet::hooks::keep) has
    /// kept in a process that died, from its state and the peer's address. The protocol's first
    /// call is `connection_made`. An error closes the connection.
    ///
    /// Called in the main loop, after the services have started. All connections of a loop move within
    /// one turn, and are served once the connections of all loops have arrived.
    ///
    /// ```no_run
    /// use couplet::{HandOver, Protocol, ProtocolExtension, Transport};
    /// use couplet_runner::Runner;
    ///
    /// /// Numbers the lines of a client.
    /// struct Numbered(u64);
    ///
    /// impl Protocol for Numbered {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         self.0 += 1;
    ///         transport.write(format!("{} ", self.0));
    ///         transport.write(data);
    ///     }
    ///
    ///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
    ///         Some(self)
    ///     }
    /// }
    ///
    /// impl ProtocolExtension for Numbered {
    ///     fn hand_over(&mut self) -> Option<HandOver> {
    ///         HandOver::new("numbered", self.0.to_be_bytes())
    ///     }
    /// }
    ///
    /// let runner = Runner::new("numbered")
    ///     .takes_over("numbered", |state, _peer| Ok(Numbered(u64::from_be_bytes(state.try_into()?))));
    /// ```
    ///
    /// State that new connections and those taken over share is captured by both closures; it needs to
    /// be neither `Send` nor `Sync`, since both are called in the main loop:
    ///
    /// ```no_run
    /// use std::cell::Cell;
    /// use std::rc::Rc;
    ///
    /// use couplet::services::{Child, StreamServerService};
    /// use couplet::{HandOver, Protocol, ProtocolExtension, Transport};
    /// use couplet_runner::{Listen, Runner};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Config {
    ///     listen: Listen,
    /// }
    ///
    /// /// Counts the lines of all clients.
    /// struct Counter(Rc<Cell<u64>>);
    ///
    /// impl Protocol for Counter {
    ///     fn data_received(&mut self, transport: &Transport, _: &[u8]) {
    ///         self.0.set(self.0.get() + 1);
    ///         transport.write(format!("{}\n", self.0.get()));
    ///     }
    ///
    ///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
    ///         Some(self)
    ///     }
    /// }
    ///
    /// impl ProtocolExtension for Counter {
    ///     fn hand_over(&mut self) -> Option<HandOver> {
    ///         HandOver::new("counter", self.0.get().to_be_bytes())
    ///     }
    /// }
    ///
    /// let count = Rc::new(Cell::new(0));
    /// let moved = count.clone();
    /// let runner = Runner::new("counter")
    ///     .service(move |config: Config, _reactor| {
    ///         let count = count.clone();
    ///         let factory = move || Counter(count.clone());
    ///         Ok(Child::new(StreamServerService::new("counter", &config.listen, factory)?))
    ///     })
    ///     .takes_over("counter", move |state, _peer| {
    ///         moved.set(moved.get().max(u64::from_be_bytes(state.try_into()?)));
    ///         Ok(Counter(moved.clone()))
    ///     });
    /// ```
    #[must_use]
    pub fn takes_over<P: Protocol>(
        mut self,
        kind: &'static str,
        build: impl Fn(&[u8], &Address) -> couplet::Result<P> + 'static,
    ) -> Runner {
        self.takers.add(kind, build);
        self
    }

    /// Takes connections of this kind over, as [`takes_over`](Self::takes_over) does, and spreads them
    /// over all loops: `build` is called in the thread of the loop that gets a connection.
    #[must_use]
    pub fn takes_over_in_loops<P: Protocol>(
        mut self,
        kind: &'static str,
        build: impl Fn(&[u8], &Address) -> couplet::Result<P> + Send + Sync + 'static,
    ) -> Runner {
        self.takers.add_in_loops(kind, build);
        self
    }

    /// Serves the program's own metrics at `/metrics`, behind the runner's: `encode` returns them in
    /// the text of OpenMetrics, as libraries encode a registry. Called in the main loop, for each
    /// scrape, if the option `metrics` is set.
    ///
    /// ```no_run
    /// use std::sync::atomic::{AtomicU64, Ordering};
    ///
    /// use couplet_runner::Runner;
    ///
    /// static ORDERS: AtomicU64 = AtomicU64::new(0);
    ///
    /// let runner = Runner::new("shop").metrics(|| {
    ///     let orders = ORDERS.load(Ordering::Relaxed);
    ///     format!("# HELP shop_orders Orders.\n# TYPE shop_orders counter\nshop_orders_total {orders}\n")
    /// });
    /// ```
    #[must_use]
    pub fn metrics(mut self, encode: impl Fn() -> String + 'static) -> Runner {
        self.own_metrics.push(Rc::new(encode));
        self
    }

    /// Runs the program with the arguments of its command line.
    pub fn main(self) -> ExitCode {
        let parsed = self.command().try_get_matches();
        match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
            Ok(arguments) => self.run(arguments),
            Err(said) => {
                let _ = said.print();
                ExitCode::from(said.exit_code() as u8)
            }
        }
    }

    /// The command line.
    fn command(&self) -> Command {
        // The program's descriptions replace the descriptions of the arguments.
        let command = Arguments::augment_args(Command::new(self.name));
        let command = command.about(self.about).long_about(None::<&str>);
        match self.version {
            "" => command,
            version => command.version(version),
        }
    }

    /// Runs the program with these arguments, which are part of the program's own.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use clap::Parser;
    /// use couplet_runner::{Arguments, Runner};
    ///
    /// #[derive(Parser)]
    /// struct Cli {
    ///     #[command(flatten)]
    ///     runner: Arguments,
    ///     /// A greeting
    ///     #[arg(long, default_value = "hello")]
    ///     greeting: String,
    /// }
    ///
    /// fn main() -> ExitCode {
    ///     let cli = Cli::parse();
    ///     println!("{}", cli.greeting);
    ///     Runner::new("greeter").run(cli.runner)
    /// }
    /// ```
    pub fn run(self, arguments: Arguments) -> ExitCode {
        let (name, heir) = (self.name, Heir::find());
        let code = match self.try_run(arguments, heir.as_ref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(exit) => {
                if let Some(heir) = heir {
                    heir.refuse(exit.message());
                }
                exit.report(name)
            }
        };
        backlog::settle_all();
        code
    }

    /// The options of the loop of this number, of `count` loops.
    fn options_of(&self, options: &Options, number: usize, count: usize) -> LoopOptions {
        let limits = options.load_limits(self.options.load_limits, number, count);
        let of_loop = options.set_driver(self.options.clone());
        of_loop.tune(|it| it.time_calls(options.metrics.is_some())).load_limits(limits)
    }

    fn try_run(self, arguments: Arguments, heir: Option<&Heir>) -> Result<(), Exit> {
        let signals = Signals::catch()
            .map_err(|error| Exit::failed(format!("cannot handle signals: {}", plain(&error))))?;
        let executable = Executable::find()
            .map_err(|error| Exit::failed(format!("cannot find the program: {}", plain(&error))))?;
        let source = match &arguments.config {
            // The first process may have read a pipe.
            Some(path) if heir.is_some() => Source::read_again(path)?,
            Some(path) => Source::read(path)?,
            None => Source::parse("no configuration (--config FILE)", "")?,
        };
        let (plan, endpoints) = places::collecting(|| self.services.plan(&source));
        let plan = plan?;
        let command_line = arguments.options.clone();
        let arguments = arguments.or(&plan.log, plan.options.clone());
        let entered = arguments.options.directory.as_deref().map(Directory::enter).transpose()?;
        let (directory, folder) = entered.unzip();
        let count = arguments.options.loops().map_err(Exit::bad_usage)?;
        let identity = Identity::find(&arguments.options)?;
        let metrics = arguments.options.metrics.as_ref().map(|_| Metrics::new());
        let options = |number| self.options_of(&arguments.options, number, count);
        // Dropped, and so emptied, after the loop, which removes the files of its sockets.
        let pid_file = Rc::default();
        let mut l = Loop::with_options(options(0).signals(true)).map_err(cannot_start)?;
        if arguments.options.check {
            return check(&mut l, plan, endpoints, &arguments.options, &source);
        }
        // First: it applies to the log file too.
        if let Some(mode) = arguments.options.umask {
            identity::set_umask(mode);
        }
        let log = Log::start(&arguments, plan.log.log_level.clone())?;
        let places = places::Common::new(count);
        places.enter();
        loops::enter(0, count);
        let store = StoreRoom::find();
        prepare(&mut l, store.clone(), metrics.as_ref());
        let mut workers = Workers::default();
        for number in 1..count {
            let (places, metrics, main) = (places.clone(), metrics.clone(), l.reactor().remote());
            let store = store.clone();
            let set_up = move |l: &mut Loop| {
                places.enter();
                loops::enter(number, count);
                prepare(l, store, metrics.as_ref());
                if let Some(metrics) = metrics {
                    metrics.start(&l.reactor());
                }
            };
            workers.start(options(number), main, set_up).map_err(cannot_start)?;
        }
        let program = Program {
            name: self.name,
            version: self.version,
            services: self.services,
            arguments,
            command_line,
            limits: self.options.load_limits,
            loop_options: self.options,
            runner_table: plan.options.clone(),
            identity,
            log,
            signals: Cell::new(Some(signals)),
            executable,
            directory,
            folder: RefCell::new(folder),
            takers: self.takers,
            stored: Cell::new(Stored::take()),
            metrics,
            own_metrics: self.own_metrics,
            pid_file: Rc::clone(&pid_file),
        };
        running::run(&mut l, &workers, program, plan, heir)
    }
}

/// Prepares a loop of a program.
fn prepare(l: &mut Loop, store: Option<StoreRoom>, metrics: Option<&Metrics>) {
    if let Some(room) = store {
        l.keep_connections(Store::new(room));
    }
    if let Some(metrics) = metrics {
        metrics.measure(l);
    }
}

fn cannot_start(error: std::io::Error) -> Exit {
    Exit::failed(format!("cannot start a loop: {}", plain(&error)))
}

/// Reads and builds everything that a start would, in a loop that runs, and starts and opens nothing.
fn check(
    l: &mut Loop,
    plan: Plan,
    endpoints: Endpoints,
    options: &Options,
    source: &Arc<Source>,
) -> Result<(), Exit> {
    let count = plan.services.len();
    options.check_files()?;
    let mut outcome = Ok(());
    l.run(|reactor| {
        let loops = Loops::new(reactor, []);
        let (built, more) = places::collecting(|| plan::build(plan.services, [], &loops).map(drop));
        let rehearse = || endpoints.and(more).rehearse(options.own_endpoints());
        outcome = built.and_then(|()| rehearse());
        reactor.stop();
        Ok(())
    })?;
    outcome.map_err(Exit::bad_usage)?;
    use std::io::Write;
    let services = if count == 1 { "service" } else { "services" };
    let said = writeln!(std::io::stdout(), "{}: ok, {count} {services}", source.name());
    said.map_err(|error| Exit::failed(format!("cannot write to stdout: {error}")))
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
