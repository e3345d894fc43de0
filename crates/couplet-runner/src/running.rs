//! A program that runs: its supervisor, and the requests that come from signals and from the
//! control socket.
//!
//! Contract: 48a, 105d, 105f.

use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use couplet::defer::TimedOut;
use couplet::process::Process;
use couplet::reactor::Snapshot;
use couplet::services::{Child, Health, Service, Supervisor};
use couplet::{
    Deferred, Failure, LoadLimits, Loop, LoopOptions, LoopingCall, Port, Reactor, Shutdown,
};
use rustix::process::{Resource, getrlimit};

use crate::config::ConfigError;
use crate::directory::{Directory, Folder};
use crate::exit::Exit;
use crate::identity::Identity;
use crate::logging::Log;
use crate::loops::{Loops, merge};
use crate::metrics::{Metrics, OwnMetrics};
use crate::options::{Arguments, Options};
use crate::pid_file::PidFile;
use crate::plan::{self, Key, Plan, Planned, Services, SupervisorTable};
use crate::repeats::PERIOD;
use crate::restart::{self, Executable, Generations, Heir, Inheritance, Older, Successor, Takers};
use crate::signals::{Caught, SIGHUP, SIGTERM, SIGUSR2};
use crate::store::Stored;
use crate::workers::Workers;
use crate::{asking, control, parts, places, reload, systemd, web};

/// A program, with its command line and the configuration of its start.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) services: Services,
    pub(crate) arguments: Arguments,
    /// The options of the command line, without the configuration's.
    pub(crate) command_line: Options,
    /// The limits of each loop if no option sets one.
    pub(crate) limits: LoadLimits,
    /// The options of each loop, without the configuration's.
    pub(crate) loop_options: LoopOptions,
    /// The table `[runner]` of the configuration at the start.
    pub(crate) runner_table: Options,
    pub(crate) identity: Option<Identity>,
    pub(crate) log: Log,
    pub(crate) signals: Cell<Option<Signals>>,
    pub(crate) executable: Executable,
    pub(crate) directory: Option<Directory>,
    /// The working folder that was entered last.
    pub(crate) folder: RefCell<Option<Folder>>,
    pub(crate) takers: Takers,
    /// Connections of a process that has died.
    pub(crate) stored: Cell<Stored>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) own_metrics: OwnMetrics,
    pub(crate) pid_file: Rc<RefCell<Option<PidFile>>>,
}

/// The signals that the runner handles.
pub(crate) struct Signals {
    hangups: Caught,
    restarts: Caught,
}

impl Signals {
    /// Catches them from now on.
    pub(crate) fn catch() -> std::io::Result<Signals> {
        Ok(Signals { hangups: Caught::catch(SIGHUP)?, restarts: Caught::catch(SIGUSR2)? })
    }
}

/// Runs a program until a signal, an order or its supervisor ends it. An heir first receives its
/// inheritance.
pub(crate) fn run(
    l: &mut Loop,
    workers: &Workers,
    program: Program,
    plan: Plan,
    heir: Option<&Heir>,
) -> Result<(), Exit> {
    let outcome = Outcome::default();
    let loops = Loops::new(&l.reactor(), workers.remotes());
    let (shown, log) = (loops.clone(), program.log.clone());
    l.on_snapshot(move |snapshot| show(&shown, snapshot, &log));
    let ended = outcome.clone();
    let ran = l.run(|reactor| {
        let (stopping, given) = (reactor.clone(), ended.clone());
        let inheritance = match heir {
            Some(heir) => heir.receive(&loops, &program.takers).map(Some),
            None => Deferred::succeed(None),
        };
        let ends = inheritance.then(move |inheritance| {
            match Running::new(program, plan.supervisor, loops, inheritance) {
                Ok(running) => {
                    running.watch_loops(given);
                    running.run(plan.services)
                }
                Err(failure) => Deferred::fail(failure),
            }
        });
        let stopped = ends.add_both(move |outcome| {
            ended.give(outcome);
            stopping.stop();
            Ok(())
        });
        stopped.detach();
        Ok(())
    });
    parts::forget_all();
    asking::forget_all();
    ran?;
    outcome.0.replace(Ok(()))
}

/// Writes a snapshot of all loops into the log.
fn show(loops: &Loops, snapshot: &Snapshot, log: &Log) {
    if loops.count() == 1 {
        return log.print(&snapshot.to_string());
    }
    let log = log.clone();
    let shown = loops.snapshots().map(move |all| log.print(&merge(all).to_string()));
    shown.detach();
}

/// The outcome of a program: its first failure.
#[derive(Clone)]
struct Outcome(Rc<RefCell<Result<(), Exit>>>);

impl Default for Outcome {
    fn default() -> Outcome {
        Outcome(Rc::new(RefCell::new(Ok(()))))
    }
}

impl Outcome {
    fn give(&self, outcome: couplet::Result<()>) {
        let mut first = self.0.borrow_mut();
        if first.is_ok() {
            *first = outcome.map_err(|failure| exit(&failure));
        }
    }
}

fn exit(failure: &Failure) -> Exit {
    match failure.downcast_ref::<ConfigError>() {
        Some(error) => Exit::bad_usage(error),
        None => Exit::failed(failure),
    }
}

/// A program that runs in a loop.
pub(crate) struct Running {
    pub(crate) program: Program,
    /// The main loop's.
    pub(crate) reactor: Reactor,
    pub(crate) loops: Loops,
    pub(crate) supervisor: Supervisor,
    began: Instant,
    pub(crate) table: SupervisorTable,
    /// The services that run, with the names of their children.
    pub(crate) services: RefCell<Vec<(Rc<Key>, String)>>,
    phase: Cell<ProgramPhase>,
    pub(crate) generations: Generations,
    /// The port of the control socket.
    control: RefCell<Option<Port>>,
    /// A new process that starts.
    pub(crate) successor: RefCell<Option<Process>>,
    /// The program's older process, until this one is alone.
    older: RefCell<Option<Older>>,
    /// Whether a thread reads files for a reload.
    reads: Arc<AtomicBool>,
}

/// A thread that reads files. Dropped when it has read them.
struct Reads(Arc<AtomicBool>);

impl Drop for Reads {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The phase of a program.
#[derive(Clone, Copy, PartialEq)]
enum ProgramPhase {
    /// The services start for the first time.
    Starting,
    Serving,
    /// A reload is in progress.
    Reloading,
    /// Another reload follows the one in progress.
    ReloadingAgain,
    /// A new process starts.
    Restarting,
    /// A new process serves. This one lets its connections finish, and ends.
    Replaced,
    Ending,
}

impl ProgramPhase {
    /// The program's activity.
    fn words(self) -> &'static str {
        match self {
            ProgramPhase::Starting => "starts",
            ProgramPhase::Serving => "runs",
            ProgramPhase::Reloading | ProgramPhase::ReloadingAgain => "reloads its configuration",
            ProgramPhase::Restarting => "restarts",
            ProgramPhase::Replaced | ProgramPhase::Ending => "ends",
        }
    }
}

impl Running {
    fn new(
        program: Program,
        table: SupervisorTable,
        loops: Loops,
        inheritance: Option<Inheritance>,
    ) -> couplet::Result<Rc<Running>> {
        let (generations, locked, inheritance) = match inheritance {
            Some(Inheritance { generations, pid_file, link }) => {
                (generations, pid_file, Some(link))
            }
            None => (Generations::first()?, None, None),
        };
        let pid_file = match (&program.arguments.options.pid_file, locked) {
            (Some(path), Some(file)) => Some(PidFile::inherited(path, file)),
            (Some(path), None) => Some(PidFile::lock(path)),
            (None, _) => None,
        };
        let pid_file = pid_file.transpose().map_err(|exit| Failure::msg(exit.message()))?;
        *program.pid_file.borrow_mut() = pid_file;
        Ok(Rc::new(Running {
            generations,
            control: RefCell::default(),
            successor: RefCell::default(),
            older: RefCell::new(inheritance),
            supervisor: loops.drain_at_end(table.supervisor(program.name), table.drain()),
            program,
            reactor: loops.reactor().clone(),
            began: loops.reactor().now(),
            loops,
            table,
            services: RefCell::default(),
            phase: Cell::new(ProgramPhase::Starting),
            reads: Arc::default(),
        }))
    }

    /// Ends the program, with a failure, when another loop than the main one ends.
    fn watch_loops(self: &Rc<Self>, outcome: Outcome) {
        let running = Rc::downgrade(self);
        self.loops.watch(move |failure| {
            if let Some(running) = running.upgrade() {
                outcome.give(running.fail(failure));
                running.reactor.stop();
            }
        });
    }

    /// Runs the services until the end of the program.
    fn run(self: Rc<Self>, services: Vec<Planned>) -> Deferred<()> {
        let failed = self.clone();
        self.start(services).add_errback(move |failure| failed.fail(failure))
    }

    /// Starts the services and the ports of the runner. The Deferred fires at the end of the program.
    fn start(self: Rc<Self>, services: Vec<Planned>) -> Deferred<()> {
        match plan::build(services, [], &self.loops) {
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
            let endpoint = endpoint.of_runner("health");
            web::serve(&self.loops, endpoint, &self.supervisor, None)?;
        }
        if let Some(endpoint) = &options.metrics {
            let endpoint = endpoint.of_runner("metrics");
            let own = self.program.own_metrics.clone();
            let metrics = self.program.metrics.clone().map(|metrics| (metrics, own));
            web::serve(&self.loops, endpoint, &self.supervisor, metrics)?;
        }
        if let Some(path) = &options.control {
            *self.control.borrow_mut() = Some(control::serve(self, path)?);
        }
        Ok(())
    }

    /// Handles signals, also those that came during the start.
    fn accept_signals(self: &Rc<Self>) -> std::io::Result<()> {
        let Some(Signals { hangups, restarts }) = self.program.signals.take() else {
            return Ok(());
        };
        let (hung_up, restarted) = (Rc::downgrade(self), Rc::downgrade(self));
        hangups.each(&self.reactor, move || {
            if let Some(running) = hung_up.upgrade() {
                running.program.log.reopen();
                running.reload_and_log();
            }
        })?;
        restarts.each(&self.reactor, move || {
            if let Some(running) = restarted.upgrade() {
                running.restart().add_errback(|_| Ok(String::new())).detach();
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
            self.program.log.check_reopening();
        }
        if let Some(metrics) = &self.program.metrics {
            metrics.start(&self.reactor);
        }
        self.accept_signals()?;
        if places::begin(&self.reactor) {
            self.loops.call_others(places::resume);
        }
        let older = self.older.borrow().clone();
        match older {
            Some(older) => {
                let alone = self.clone();
                older.ready().map(move |()| alone.take_over()).detach();
            }
            None => {
                self.phase.set(ProgramPhase::Serving);
                let stored = self.program.stored.take();
                stored.continue_all(&self.loops, &self.program.takers);
                systemd::ready(&self.summary());
            }
        }
        let program = self.clone();
        systemd::keep_watchdog(&self.loops, move || program.phase.get() != ProgramPhase::Replaced);
        let repeats = self.program.log.repeats.clone();
        LoopingCall::new(&self.reactor, move || repeats.end_period()).start(PERIOD).detach();
        tracing::info!(
            program = self.program.name,
            services = self.services.borrow().len(),
            "started"
        );
        self.check_descriptors();
        Ok(())
    }

    /// Warns if the connections of the ports may need more descriptors than the process has.
    fn check_descriptors(&self) {
        let most = self.program.arguments.options.max_connections;
        let loops = self.loops.clone();
        let checking = self.reactor.spawn_named("descriptors", async move {
            let ports = loops.snapshot().await?.ports;
            let limits = ports.iter().map(|port| port.max_descriptors);
            let descriptors = getrlimit(Resource::Nofile).current;
            if let Some(needed) = excess(limits, most, descriptors) {
                tracing::warn!(
                    needed,
                    descriptors,
                    "the connections of the ports may need more descriptors than the process has: raise \
                     its limit (`ulimit -n`, `LimitNOFILE=`), or lower theirs"
                );
            }
            Ok(())
        });
        // The loops may end first.
        checking.add_errback(|_| Ok(())).detach();
    }

    /// All loops serve the sockets, and no other process does.
    fn settle(&self) {
        places::settle();
        self.loops.call_others(places::resume);
    }

    /// The older process accepts no more connections.
    fn take_over(&self) {
        let older = self.older.take();
        match self.phase.get() {
            ProgramPhase::Starting => self.phase.set(ProgramPhase::Serving),
            // The older process has given this one up, or has died.
            ProgramPhase::Ending => return,
            _ => {}
        }
        self.settle();
        let claim = self.program.pid_file.borrow_mut().as_mut().map(PidFile::claim);
        let written = match claim {
            None => Deferred::succeed(()),
            // The file's disk may be slow.
            Some(claim) => self.reactor.defer_to_thread(move || {
                claim.write().map_err(|exit| Failure::msg(exit.message()))
            }),
        };
        let confirmed = written.add_both(move |written| {
            if let Err(failure) = written {
                tracing::warn!("{failure}");
            }
            if let Some(older) = older {
                older.confirm();
            }
            Ok(())
        });
        confirmed.detach();
        systemd::ready(&self.summary());
    }

    fn end(&self) -> Deferred<()> {
        if self.phase.get() != ProgramPhase::Replaced {
            let before = self.phase.replace(ProgramPhase::Ending);
            systemd::stopping();
            let successor = self.successor.take().filter(|_| before == ProgramPhase::Restarting);
            if let Some(process) = successor {
                // The process may have ended.
                let _ = process.terminate(restart::GRACE);
            }
        }
        tracing::info!(program = self.program.name, "stopping");
        let (ended, loops) = (self.supervisor.wind_down(&self.reactor), self.loops.clone());
        ended
            .add_errback(|failure| {
                tracing::error!("{failure}");
                Ok(())
            })
            .then(move |()| loops.stop())
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

    /// Handles the failure that ends the program.
    fn fail(&self, failure: Failure) -> couplet::Result<()> {
        if matches!(self.phase.get(), ProgramPhase::Ending | ProgramPhase::Replaced) {
            return Ok(());
        }
        if self.program.log.is_a_file() {
            tracing::error!("{failure}");
        }
        if let (Some(older), ProgramPhase::Starting) = (&*self.older.borrow(), self.phase.get()) {
            older.fail(&failure.to_string());
        }
        Err(failure)
    }

    /// Reads files in a thread, since a dead mount answers late or never. A thread that still waits for
    /// one is not joined by another.
    ///
    /// # Errors
    ///
    /// The error of `read`, or that it takes longer than `read-within`.
    pub(crate) async fn read_files<T: Send + 'static>(
        &self,
        what: &str,
        read: impl FnOnce() -> couplet::Result<T> + Send + 'static,
    ) -> couplet::Result<T> {
        if self.reads.swap(true, Ordering::AcqRel) {
            return Err(Failure::msg(format!("cannot read {what}: an earlier read has not ended")));
        }
        let reads = Reads(self.reads.clone());
        let read = self.reactor.defer_to_thread(move || {
            let read = read();
            drop(reads);
            read
        });
        let read = self.reactor.timeout(self.table.read_within.0, read).await;
        read.map_err(|failure| match failure.is::<TimedOut>() {
            true => Failure::msg(format!("cannot read {what}: {failure}")),
            false => failure,
        })
    }

    /// Reads the configuration again, and applies its changes. If it is wrong, nothing changes.
    /// The Deferred fires with a line for people.
    pub(crate) fn reload(self: &Rc<Self>) -> Deferred<String> {
        match self.phase.get() {
            ProgramPhase::Serving => self.phase.set(ProgramPhase::Reloading),
            ProgramPhase::Reloading | ProgramPhase::ReloadingAgain => {
                self.phase.set(ProgramPhase::ReloadingAgain);
                return Deferred::succeed("a reload is in progress; another follows".to_owned());
            }
            _ => return self.refuse("reload"),
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
        match self.phase.replace(ProgramPhase::Serving) {
            ProgramPhase::ReloadingAgain => return self.reload_and_log(),
            ProgramPhase::Ending => return self.phase.set(ProgramPhase::Ending),
            _ => {}
        }
        systemd::ready(&self.summary());
    }

    fn refuse(&self, what: &str) -> Deferred<String> {
        let words = format!("cannot {what}: the program {}", self.phase.get().words());
        tracing::error!("{words}");
        Deferred::fail(Failure::msg(words))
    }

    /// Has a new process of the program take over. This one lets its connections finish, and ends. The
    /// Deferred fires with a line for people, once the new process serves.
    pub(crate) fn restart(self: &Rc<Self>) -> Deferred<String> {
        if self.phase.get() != ProgramPhase::Serving {
            return self.refuse("restart");
        }
        self.phase.set(ProgramPhase::Restarting);
        let running = self.clone();
        self.reactor.spawn_named("restart", async move {
            let started = match restart::start(&running).await {
                Ok(successor) => running.leave_to(successor).await,
                Err(failure) => Err(failure),
            };
            drop(running.successor.take());
            running.restarted(started)
        })
    }

    /// Hands everything to a new process that can serve; returns its number. If that fails, this one
    /// continues to serve.
    async fn leave_to(&self, successor: Successor) -> couplet::Result<u32> {
        if self.phase.get() != ProgramPhase::Restarting {
            let ended = Failure::msg("the program ends");
            return Err(successor.give_up(&self.reactor, &ended).await);
        }
        self.phase.set(ProgramPhase::Replaced);
        places::give_away();
        match successor.move_connections(self).await {
            Ok(connections) => {
                tracing::info!(connections, "handed connections over");
                if let Some(file) = self.program.pid_file.take() {
                    file.leave();
                }
                Ok(successor.pid)
            }
            Err(failure) => {
                systemd::main_pid(std::process::id());
                if self.phase.get() == ProgramPhase::Replaced {
                    self.phase.set(ProgramPhase::Restarting);
                }
                Err(successor.give_up(&self.reactor, &failure).await)
            }
        }
    }

    /// Has SIGTERM end a process that another one has replaced, whose connections may take long to finish.
    fn end_on_signal(&self) {
        let (supervisor, reactor) = (self.supervisor.clone(), self.reactor.clone());
        let hasten = move || supervisor.wind_down(&reactor).cancel();
        let caught = Caught::catch(SIGTERM).and_then(|caught| caught.each(&self.reactor, hasten));
        if let Err(error) = caught {
            tracing::warn!(%error, "cannot handle SIGTERM");
        }
    }

    /// Has the supervisor end immediately, and let the connections of all loops finish. The new process
    /// answers orders.
    fn let_connections_finish(&self) {
        if let Some(port) = &*self.control.borrow() {
            port.accept_while_draining(false);
        }
        let supervisor = self.supervisor.clone().not_ready_for(Duration::ZERO);
        drop(self.loops.drain_at_end(supervisor, self.table.drain_after_restart()));
    }

    fn restarted(&self, started: couplet::Result<u32>) -> couplet::Result<String> {
        match started {
            Ok(pid) => {
                let words = format!("process {pid} has taken over");
                tracing::info!(pid, "a new process has taken over");
                self.let_connections_finish();
                self.end_on_signal();
                let reactor = self.reactor.clone();
                self.reactor.call_soon(move || reactor.stop());
                Ok(words)
            }
            Err(failure) => {
                self.settle();
                // The program may be ending by now.
                if self.phase.get() == ProgramPhase::Restarting {
                    self.phase.set(ProgramPhase::Serving);
                }
                tracing::error!("cannot restart: {failure}");
                Err(failure)
            }
        }
    }
}

/// The descriptors that the connections of ports with these limits need, if they are more than there
/// are. The limit of the program, if it has one, is on all connections, outgoing ones included.
fn excess(
    ports: impl Iterator<Item = Option<u64>>,
    of_program: Option<NonZeroUsize>,
    descriptors: Option<u64>,
) -> Option<u64> {
    let needed = match of_program {
        Some(most) => most.get() as u64,
        None => ports.flatten().sum(),
    };
    descriptors.filter(|&limit| needed > limit).map(|_| needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_on_connections_are_compared_with_the_descriptors() {
        for (ports, of_program, descriptors, wanted) in [
            (&[][..], None, Some(10), None),
            (&[None], None, Some(10), None),
            (&[Some(10)], None, Some(10), None),
            (&[Some(6), None, Some(5)], None, Some(10), Some(11)),
            (&[Some(6), Some(5)], None, None, None),
            (&[Some(6), Some(5)], NonZeroUsize::new(9), Some(10), None),
            (&[None], NonZeroUsize::new(11), Some(10), Some(11)),
        ] {
            let got = excess(ports.iter().copied(), of_program, descriptors);
            assert_eq!(got, wanted, "{ports:?} {of_program:?} {descriptors:?}");
        }
    }
}
