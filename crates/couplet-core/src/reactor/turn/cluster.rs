//! [`cluster`] and [`Cluster`]: one program in several loops.
//!
//! Twisted has no equivalent: its programs start a process per core.
//!
//! Contract: 103b–103f.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::run::Loop;
use super::shutdown::print_snapshot;
use crate::defer::{Deferred, Failure, Result};
use crate::driver::{Signal, affinity};
use crate::panics::{Contained, catch_panic, lock};
use crate::reactor::options::LoopOptions;
use crate::reactor::remote::{ForThread, Remote};
use crate::reactor::snapshot::Snapshot;
use crate::reactor::stage::Shutdown;
use crate::recorder::Reactor;
use crate::slots::Key;
use crate::switches::Switch;
use crate::transport::{ConnectionId, Transport};

/// Delay before a failed loop is started again.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// Runs a program in `loops` loops, each in a thread (0: one per processor): calls `setup` in each
/// loop, and runs until one is stopped, or until SIGINT or SIGTERM. [`Cluster`] has options and
/// ports.
///
/// # Errors
///
/// See [`Cluster::run`].
pub fn cluster(loops: usize, setup: impl Fn(&Reactor) -> Result<()> + Send + Sync) -> Result<()> {
    Cluster::new(loops).run(setup)
}

/// A program in several loops, each in its own thread: many cores, and no locks in your protocols.
///
/// The loops share only the objects that you pass to them. A [`SharedPort`] is bound once, and each
/// loop serves a part of its connections; [`Members`] reaches all loops from any thread. The
/// calling thread runs the first loop, which handles the signals and forwards each to the others: a
/// stop, a drain and an impatient second signal reach all loops. Stopping one loop stops them all.
///
/// ```
/// use couplet::{Cluster, Protocol, Transport};
///
/// struct Echo;
///
/// impl Protocol for Echo {
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         transport.write(data);
///     }
/// }
///
/// let cluster = Cluster::new(2);
/// let port = cluster.bind("localhost:0")?;
/// println!("listening on {}", port.host());
/// cluster.run(|reactor| {
///     port.listen(reactor, || Echo)?;
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
///
/// [`SharedPort`]: crate::endpoints::SharedPort
#[must_use]
pub struct Cluster {
    options: LoopOptions,
    restarts: bool,
    pins: bool,
    on_snapshot: Option<Arc<ShowSnapshot>>,
    members: Members,
}

type ShowSnapshot = dyn Fn(&Snapshot) + Send + Sync;

/// The loops of a [`Cluster`], for any thread.
#[derive(Clone, Debug)]
pub struct Members(Arc<ClusterShared>);

#[derive(Debug)]
struct ClusterShared {
    /// Each running loop, by number.
    loops: Mutex<Vec<Option<Member>>>,
    state: Mutex<ClusterState>,
    /// Notified when the state changes.
    changed: Condvar,
}

#[derive(Clone, Debug)]
struct Member {
    /// The serial number in the ids of the loop's connections.
    serial: u32,
    remote: Remote,
}

#[derive(Debug, Default)]
struct ClusterState {
    stage: ClusterStage,
    /// The first failure.
    failure: Option<Failure>,
}

#[derive(Debug)]
enum ClusterStage {
    /// Loops are being created; setup begins when all are.
    Creating {
        created: usize,
    },
    /// The first loop runs; the others are set up after it, because it handles the signals.
    Running {
        set_up: usize,
    },
    Stopping,
}

impl Default for ClusterStage {
    fn default() -> ClusterStage {
        ClusterStage::Creating { created: 0 }
    }
}

/// No loop of the cluster has the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no loop of the cluster has connection {0}")]
pub struct NoSuchLoop(pub ConnectionId);

impl Cluster {
    /// Creates a cluster of `loops` loops; 0 means one for each processor that this process may
    /// use.
    pub fn new(loops: usize) -> Cluster {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let loops = if loops == 0 { processors() } else { loops };
        let shared = ClusterShared {
            loops: Mutex::new(vec![None; loops]),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        let options = LoopOptions::default().signals(true);
        let members = Members(Arc::new(shared));
        Cluster { options, restarts: false, pins: false, on_snapshot: None, members }
    }

    /// Sets the options of each loop; the default handles signals.
    pub fn options(mut self, options: LoopOptions) -> Cluster {
        self.options = options;
        self
    }

    /// Sets whether a loop that panics or fails in its run is replaced after 100 ms and set up
    /// again; its connections are lost. Off by default: the failure then ends the program. A
    /// failure before all loops are set up always ends the program.
    pub fn restart(mut self, on: bool) -> Cluster {
        self.restarts = on;
        self
    }

    /// Binds each loop's thread to a processor, chosen from those that this process may use; with
    /// more loops than processors, loops share them. Only on Linux; elsewhere does nothing. Off by
    /// default: the system moves threads to idle processors, which suits a program that shares its
    /// processors with others.
    ///
    /// The calling thread is unbound when the run is over. Threads that you start in a loop are
    /// bound to its processor; the loop's own threads, for blocking jobs, are not.
    pub fn pin(mut self, on: bool) -> Cluster {
        self.pins = on;
        self
    }

    /// Sets the function that gets the [snapshot](Members::snapshot) of all loops on SIGUSR1; by
    /// default it is printed to stderr. Called in the first loop.
    ///
    /// ```
    /// use couplet::Cluster;
    ///
    /// let cluster = Cluster::new(2)
    ///     .on_snapshot(|snapshot| println!("{} connections", snapshot.connections.len()));
    /// # drop(cluster);
    /// ```
    pub fn on_snapshot(mut self, show: impl Fn(&Snapshot) + Send + Sync + 'static) -> Cluster {
        let show = Contained::new(show);
        self.on_snapshot = Some(Arc::new(move |snapshot: &Snapshot| show(snapshot)));
        self
    }

    /// A handle to the loops, for other threads and for `setup`.
    pub fn members(&self) -> Members {
        self.members.clone()
    }

    /// Runs the cluster: calls `setup` in each loop, the first of them in the calling thread, and
    /// runs the loops until one is stopped.
    ///
    /// # Errors
    ///
    /// The first failure or panic of a `setup`; the driver's error when its wait fails; the
    /// system's when it refuses a thread or a poll descriptor.
    pub fn run(self, setup: impl Fn(&Reactor) -> Result<()> + Send + Sync) -> Result<()> {
        let (this, setup) = (&self, &setup);
        thread::scope(|scope| {
            for number in 1..self.members.count() {
                let name = format!("couplet loop {number}");
                let keep = move || this.run_loop(number, setup);
                if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, keep) {
                    return self.members.fail(error.into());
                }
            }
            self.run_loop(0, setup);
        });
        let failure = self.members.state().failure.take();
        failure.map_or(Ok(()), Err)
    }

    /// Runs a loop, and its replacements if failed loops are restarted.
    fn run_loop(&self, number: usize, setup: &(impl Fn(&Reactor) -> Result<()> + Send + Sync)) {
        let _pinned = self.pins.then(|| affinity::pin(number));
        loop {
            let ended = catch_panic(|| self.run_once(number, setup))
                .unwrap_or_else(|text| Err(Failure::msg(format_args!("a loop panicked: {text}"))));
            // Each path from here wakes the first loop, which may be waiting for this one.
            self.members.loops()[number] = None;
            match ended {
                Ok(()) => return self.members.stop(),
                Err(failure) if self.restarts && self.members.are_set_up() => {
                    log_error!(number, %failure, "a loop failed and is restarted");
                    if self.members.stop_within(RESTART_AFTER) {
                        return;
                    }
                }
                Err(failure) => return self.members.fail(failure),
            }
        }
    }

    fn run_once(
        &self,
        number: usize,
        setup: &(impl Fn(&Reactor) -> Result<()> + Send + Sync),
    ) -> Result<()> {
        let signals = self.options.switches.has(Switch::Signals) && number == 0;
        let mut l = Loop::with_options(self.options.clone().signals(signals))?;
        let (members, reactor) = (&self.members, l.reactor());
        members.loops()[number] =
            Some(Member { serial: reactor.serial(), remote: reactor.remote() });
        members.change(ClusterStage::add_created);
        let is_first = number == 0;
        let count = members.count();
        let begins = |stage: &ClusterStage| match stage {
            ClusterStage::Creating { created } => is_first && *created >= count,
            ClusterStage::Running { .. } => true,
            ClusterStage::Stopping => false,
        };
        if !members.wait_until(begins) {
            return Ok(());
        }
        let stop_signals = Rc::new(Cell::new(0));
        if signals {
            let (passing, show, stop_signals) =
                (members.clone(), self.on_snapshot.clone(), stop_signals.clone());
            l.core.hooks.on_signal(move |reactor, signal| {
                stop_signals.set(stop_signals.get() + u32::from(signal != Signal::User1));
                passing.forward_signal(reactor, signal, show.as_ref())
            });
        }
        let stopping = members.clone();
        let ended = l.run(|reactor| {
            if is_first {
                members.change(ClusterStage::begin);
            }
            reactor.on(Shutdown::Before, move || {
                stopping.stop();
                Deferred::succeed(())
            });
            setup(reactor)?;
            members.change(ClusterStage::add_set_up);
            Ok(())
        });
        if signals && ended.is_ok() {
            members.stop();
            // A second signal is for loops that still drain or flush. If it does not end them, the
            // next one may end the program.
            let most = stop_signals.get() + 2;
            while members.are_others_running(&reactor)
                && stop_signals.get() < most
                && l.turn(None).is_ok()
            {}
        }
        ended
    }
}

impl ClusterStage {
    fn is_stopping(&self) -> bool {
        matches!(self, ClusterStage::Stopping)
    }

    fn add_created(&mut self) {
        if let ClusterStage::Creating { created } = self {
            *created += 1;
        }
    }

    /// The first loop runs, perhaps again.
    fn begin(&mut self) {
        if let ClusterStage::Creating { .. } = self {
            *self = ClusterStage::Running { set_up: 0 };
        }
    }

    fn add_set_up(&mut self) {
        if let ClusterStage::Running { set_up } = self {
            *set_up += 1;
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("options", &self.options)
            .field("restarts", &self.restarts)
            .field("pins", &self.pins)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Members {
    /// The number of loops.
    pub fn count(&self) -> usize {
        self.loops().len()
    }

    /// A handle to each running loop, in the order of their numbers. During `setup`, all loops run.
    pub fn remotes(&self) -> Vec<Remote> {
        self.loops().iter().flatten().map(|member| member.remote.clone()).collect()
    }

    /// Runs `f` in each loop, in that loop's thread: see [`Remote::call`]. Returns the number of
    /// loops reached.
    ///
    /// Calls from one thread run in each loop in the same order.
    pub fn broadcast(&self, f: impl Fn(&Reactor) + Send + Sync + 'static) -> usize {
        let f = Arc::new(Contained::new(f));
        let call = |remote: &Remote| {
            let f = f.clone();
            remote.call(move |reactor| f(reactor))
        };
        self.remotes().iter().filter(|remote| call(remote).is_ok()).count()
    }

    /// Runs `f` on the protocol of a connection, in the loop that has it: see [`Remote::tell`].
    ///
    /// # Errors
    ///
    /// [`NoSuchLoop`] when the connection's loop is not in this cluster, or has been replaced
    /// since; `f` is dropped.
    pub fn tell<P: 'static>(
        &self,
        connection: ConnectionId,
        f: impl FnOnce(&mut P, &Transport) + ForThread + 'static,
    ) -> Result<(), NoSuchLoop> {
        let is_its = |member: &&Member| member.serial == connection.reactor;
        let remote = self.loops().iter().flatten().find(is_its).map(|member| member.remote.clone());
        let sent = remote.map(|remote| remote.tell(connection, f));
        sent.and_then(Result::ok).ok_or(NoSuchLoop(connection))
    }

    /// Stops all loops, as [`Reactor::stop`] stops one.
    pub fn stop(&self) {
        self.change(|stage| *stage = ClusterStage::Stopping);
        self.broadcast(Reactor::stop);
    }

    /// Collects a snapshot of all loops. Fires in the loop of `reactor`, with the snapshots of the
    /// loops that replied before they ended.
    pub fn snapshot(&self, reactor: &Reactor) -> Deferred<Snapshot> {
        let (deferred, resolver) = Deferred::new();
        let number = reactor.records().add_cluster_snapshot(resolver);
        let collection =
            Arc::new(ClusterSnapshot { by: reactor.remote(), number, found: Mutex::default() });
        self.broadcast(move |reactor| {
            let collection = collection.clone();
            reactor.snapshot().map(move |snapshot| collection.add(snapshot)).detach();
        });
        deferred
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Option<Member>>> {
        lock(&self.0.loops)
    }

    fn state(&self) -> MutexGuard<'_, ClusterState> {
        lock(&self.0.state)
    }

    fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.stop();
    }

    fn are_others_running(&self, than: &Reactor) -> bool {
        self.loops().iter().flatten().any(|member| member.serial != than.serial())
    }

    /// Whether every loop was set up once and the cluster is not stopping.
    fn are_set_up(&self) -> bool {
        let count = self.count();
        matches!(self.state().stage, ClusterStage::Running { set_up } if set_up >= count)
    }

    fn change(&self, change: impl FnOnce(&mut ClusterStage)) {
        change(&mut self.state().stage);
        self.0.changed.notify_all();
    }

    /// Waits until `done` holds; returns false if the cluster is stopping.
    fn wait_until(&self, done: impl Fn(&ClusterStage) -> bool) -> bool {
        let waits = |state: &mut ClusterState| !done(&state.stage) && !state.stage.is_stopping();
        let waited = self.0.changed.wait_while(self.state(), waits);
        !waited.unwrap_or_else(PoisonError::into_inner).stage.is_stopping()
    }

    /// Waits for `time`; returns true if the cluster begins to stop first.
    #[expect(clippy::disallowed_methods, reason = "its loop has failed, and the next is not made")]
    fn stop_within(&self, time: Duration) -> bool {
        let waits = |state: &mut ClusterState| !state.stage.is_stopping();
        let waited = self.0.changed.wait_timeout_while(self.state(), time, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.stage.is_stopping()
    }

    /// Forwards a signal of the first loop to the others. Returns true if the first loop need not
    /// act on it.
    fn forward_signal(
        &self,
        reactor: &Reactor,
        signal: Signal,
        show: Option<&Arc<ShowSnapshot>>,
    ) -> bool {
        if signal == Signal::User1 {
            let show = show.cloned();
            let shown = self.snapshot(reactor).map(move |snapshot| match &show {
                Some(show) => show(&snapshot),
                None => print_snapshot(&snapshot),
            });
            shown.detach();
            return true;
        }
        let others = self.loops();
        for member in others.iter().flatten().filter(|member| member.serial != reactor.serial()) {
            // A loop that was dropped has stopped.
            let _ = member.remote.signal(signal);
        }
        false
    }
}

/// A snapshot of all loops in progress. Each loop keeps a reference until it has replied; dropping
/// the last one sends the result.
struct ClusterSnapshot {
    by: Remote,
    number: Key,
    found: Mutex<Snapshot>,
}

impl ClusterSnapshot {
    fn add(&self, snapshot: Snapshot) {
        lock(&self.found).extend(snapshot);
    }
}

impl Drop for ClusterSnapshot {
    fn drop(&mut self) {
        let found = std::mem::take(&mut *lock(&self.found));
        let number = self.number;
        // A loop that was dropped needs no reply.
        let _ = self.by.call(move |reactor| {
            let resolver = reactor.records().take_cluster_snapshot(number);
            if let Some(resolver) = resolver {
                resolver.callback(found);
            }
        });
    }
}
