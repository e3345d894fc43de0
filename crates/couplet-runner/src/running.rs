//! A program that runs: its supervisor, and the requests that come from signals and from the
//! control socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::services::{Child, Health, Service, Supervisor};
use couplet::{Deferred, Failure, Loop, LoopingCall, Reactor, Shutdown};

use crate::config::ConfigError;
use crate::exit::Exit;
use crate::identity::Identity;
use crate::logging::Log;
use crate::metrics::Metrics;
use crate::options::Arguments;
use crate::plan::{self, Key, Plan, Planned, Services, SupervisorTable};
use crate::repeats::PERIOD;
use crate::signals::Hangups;
use crate::{control, reload, systemd, web};

/// A program, with its command line and the configuration of its start.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) services: Services,
    pub(crate) arguments: Arguments,
    pub(crate) identity: Option<Identity>,
    pub(crate) log: Log,
    pub(crate) hangups: Cell<Option<Hangups>>,
}

/// Runs a program until a signal, an order or its supervisor ends it.
pub(crate) fn run(l: &mut Loop, program: Program, plan: Plan) -> Result<(), Exit> {
    let outcome: Rc<RefCell<Result<(), Exit>>> = Rc::new(RefCell::new(Ok(())));
    let (slot, log) = (outcome.clone(), program.log.clone());
    l.on_snapshot(move |snapshot| log.print(&snapshot.to_string()));
    let metrics = program.arguments.options.metrics.as_ref().map(|_| Metrics::measure(l));
    l.run(|reactor| {
        let stopping = reactor.clone();
        let running = Running::new(program, plan.supervisor, reactor, metrics);
        let ended = running.clone().start(plan.services).add_both(move |ended| {
            if let Err(failure) = ended {
                running.keep_failure(&slot, &failure);
            }
            stopping.stop();
            Ok(())
        });
        ended.detach();
        Ok(())
    })?;
    outcome.replace(Ok(()))
}

/// A program that runs in a loop.
pub(crate) struct Running {
    pub(crate) program: Program,
    pub(crate) reactor: Reactor,
    pub(crate) supervisor: Supervisor,
    began: Instant,
    pub(crate) table: SupervisorTable,
    /// The services that run, with the names of their children.
    // Bound: the tables of the configuration.
    pub(crate) services: RefCell<Vec<(Rc<Key>, String)>>,
    phase: Cell<Phase>,
    metrics: Option<Rc<Metrics>>,
}

/// The phase of a program.
#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// Its services start, for the first time.
    Starting,
    Serving,
    /// A reload is in progress.
    Reloading,
    /// Another reload follows the one in progress.
    ReloadingAgain,
    Ending,
}

impl Running {
    fn new(
        program: Program,
        table: SupervisorTable,
        reactor: &Reactor,
        metrics: Option<Rc<Metrics>>,
    ) -> Rc<Running> {
        Rc::new(Running {
            supervisor: table.supervisor(program.name),
            program,
            reactor: reactor.clone(),
            began: reactor.now(),
            table,
            services: RefCell::default(),
            phase: Cell::new(Phase::Starting),
            metrics,
        })
    }

    /// Starts the services and the ports of the runner. The Deferred fires at the end of the program.
    fn start(self: Rc<Self>, services: Vec<Planned>) -> Deferred<()> {
        match plan::build(services, [], &self.reactor) {
            Ok(services) => self.add(services),
            Err(failure) => return Deferred::fail(failure),
        }
        if let Err(failure) = self.open() {
            return Deferred::fail(failure);
        }
        let (ending, started) = (self.clone(), self.clone());
        self.reactor.on(Shutdown::Before, move || ending.end());
        let mut supervisor = self.supervisor.clone();
        let starting = supervisor.start(&self.reactor);
        starting
            .add_callback(move |()| started.serve())
            .then(move |()| supervisor.take_end().unwrap_or_else(|| Deferred::succeed(())))
    }

    /// Adds the services before the start.
    fn add(&self, services: Vec<(Rc<Key>, Child)>) {
        for (key, child) in services {
            self.services.borrow_mut().push((key, child.name().to_owned()));
            // The supervisor doesn't run: the child is added immediately.
            self.supervisor.add(child).detach();
        }
    }

    /// Opens the ports of the runner itself.
    fn open(self: &Rc<Self>) -> Result<(), Failure> {
        let options = &self.program.arguments.options;
        if let Some(endpoint) = &options.health {
            web::serve(&self.reactor, endpoint, &self.supervisor, None)?;
        }
        if let Some(endpoint) = &options.metrics {
            let metrics = self.metrics.clone();
            web::serve(&self.reactor, endpoint, &self.supervisor, metrics)?;
        }
        if let Some(path) = &options.control {
            control::serve(self, path)?;
        }
        Ok(())
    }

    /// Handles SIGHUP, also one that came during the start.
    fn accept_hangups(self: &Rc<Self>) -> std::io::Result<()> {
        let Some(hangups) = self.program.hangups.take() else { return Ok(()) };
        let hung_up = Rc::downgrade(self);
        hangups.each(&self.reactor, move || {
            if let Some(running) = hung_up.upgrade() {
                running.program.log.reopen();
                running.reload_and_log();
            }
        })
    }

    /// All services have started.
    fn serve(self: &Rc<Self>) -> couplet::Result<()> {
        if let Some(identity) = &self.program.identity {
            let control = self.program.arguments.options.control.as_deref();
            let given = control.map_or(Ok(()), |path| identity.give(path));
            let given = given.and_then(|()| self.program.log.give_to(identity));
            given.and_then(|()| identity.assume()).map_err(|exit| Failure::msg(exit.message()))?;
        }
        self.phase.set(Phase::Serving);
        if let Some(metrics) = &self.metrics {
            metrics.start(&self.reactor);
        }
        self.accept_hangups()?;
        systemd::ready(&self.summary());
        systemd::keep_watchdog(&self.reactor);
        let repeats = self.program.log.repeats.clone();
        LoopingCall::new(&self.reactor, move || repeats.end_period()).start(PERIOD).detach();
        tracing::info!(
            program = self.program.name,
            services = self.services.borrow().len(),
            "started"
        );
        Ok(())
    }

    fn end(&self) -> Deferred<()> {
        self.phase.set(Phase::Ending);
        systemd::stopping();
        tracing::info!(program = self.program.name, "stopping");
        self.supervisor.wind_down(&self.reactor).add_errback(|failure| {
            tracing::error!("{failure}");
            Ok(())
        })
    }

    /// A line for people.
    pub(crate) fn summary(&self) -> String {
        let children = self.supervisor.children();
        let ready = children.iter().filter(|child| child.health.is_ready()).count();
        format!("{}, {ready} of {} services ready", self.health(), children.len())
    }

    pub(crate) fn health(&self) -> Health {
        self.supervisor.health()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.reactor.now() - self.began
    }

    /// Ends the program in stages. If `is_hurried`, each is cut short.
    pub(crate) fn stop(&self, is_hurried: bool) {
        if is_hurried {
            self.supervisor.wind_down(&self.reactor).cancel();
        }
        self.reactor.stop();
    }

    fn keep_failure(&self, slot: &RefCell<Result<(), Exit>>, failure: &Failure) {
        if self.phase.get() == Phase::Ending {
            return;
        }
        if self.program.log.is_a_file() {
            tracing::error!("{failure}");
        }
        *slot.borrow_mut() = Err(match failure.downcast_ref::<ConfigError>() {
            Some(error) => Exit::bad_usage(error),
            None => Exit::failed(failure),
        });
    }

    /// Reads the configuration again, and applies its changes. If it is wrong, nothing changes.
    /// The Deferred fires with a line for people.
    pub(crate) fn reload(self: &Rc<Self>) -> Deferred<String> {
        match self.phase.get() {
            Phase::Serving => self.phase.set(Phase::Reloading),
            Phase::Reloading | Phase::ReloadingAgain => {
                self.phase.set(Phase::ReloadingAgain);
                return Deferred::succeed("a reload is in progress; another follows".to_owned());
            }
            Phase::Starting | Phase::Ending => {
                const REFUSED: &str = "cannot reload: the program starts or ends";
                tracing::error!("{REFUSED}");
                return Deferred::fail(Failure::msg(REFUSED));
            }
        }
        systemd::reloading();
        let (running, after) = (self.clone(), self.clone());
        let reloaded =
            self.reactor.spawn_named("reload", async move { reload::apply(&running).await });
        reloaded.add_both(move |outcome| {
            match &outcome {
                Ok(words) => tracing::info!("reloaded: {words}"),
                Err(failure) => tracing::error!("cannot reload: {failure}"),
            }
            after.reloaded();
            outcome
        })
    }

    /// Reloads. The log has the outcome, and no caller waits for it.
    fn reload_and_log(self: &Rc<Self>) {
        self.reload().add_errback(|_| Ok(String::new())).detach();
    }

    fn reloaded(self: &Rc<Self>) {
        match self.phase.replace(Phase::Serving) {
            Phase::ReloadingAgain => return self.reload_and_log(),
            Phase::Ending => return self.phase.set(Phase::Ending),
            _ => {}
        }
        systemd::ready(&self.summary());
    }
}
