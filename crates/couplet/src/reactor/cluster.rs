//! Many loops, one program: [`cluster`] and [`Cluster`].
//!
//! Twisted has none: its programs start a process for each core.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::shutdown::print_snapshot;
use super::{Loop, LoopOptions, Port, Reactor, Remote, Shutdown, Snapshot};
use crate::defer::{Deferred, Failure, Result};
use crate::driver::{ListenOptions, ListeningSocket, Signal};
use crate::error::ListenError;
use crate::factory::IntoFactory;
use crate::panics::{Contained, caught};
use crate::slots::Key;
use crate::transport::{ConnectionId, Transport};

/// How long a loop that failed is left alone before it is started again.
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// Runs a program in `loops` loops, each in a thread (0: one for each processor): calls `setup` in each
/// of them, and turns until one is stopped, or SIGINT or SIGTERM. [`Cluster`] has options and ports.
///
/// # Errors
///
/// As [`Cluster::run`].
pub fn cluster(loops: usize, setup: impl Fn(&Reactor) -> Result<()> + Send + Sync) -> Result<()> {
    Cluster::new(loops).run(setup)
}

/// A program in several loops, each in a thread of its own: many cores, and no lock in your protocols.
///
/// The loops share only what you give them. A [`SharedPort`] is bound once, and each loop accepts a part
/// of its connections; [`Members`] reaches all loops from any thread. The calling thread runs the first
/// loop, which takes the signals and passes each on: a stop, a drain and an impatient second signal reach
/// all of them. A loop that stops stops the others.
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
/// let port = cluster.bind(([127, 0, 0, 1], 0).into(), Default::default())?;
/// println!("listening on {}", port.host());
/// cluster.run(|reactor| {
///     port.listen(reactor, || Echo)?;
/// #   reactor.stop();
///     Ok(())
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Cluster {
    options: LoopOptions,
    restarts: bool,
    members: Members,
}

/// The loops of a [`Cluster`], for any thread.
#[derive(Clone, Debug)]
pub struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Each loop, by its number, while it runs.
    loops: Mutex<Vec<Option<Member>>>,
    state: Mutex<State>,
    /// The state has changed.
    changed: Condvar,
}

#[derive(Clone, Debug)]
struct Member {
    /// The number that the ids of its connections have.
    serial: u32,
    remote: Remote,
}

#[derive(Debug, Default)]
struct State {
    /// How many loops were made; until all were, none is set up.
    made: usize,
    set_up: usize,
    is_stopping: bool,
    /// The first failure.
    failure: Option<Failure>,
}

/// Why [`Members::tell`] reached nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connection {0} belongs to none of the loops")]
pub struct NoSuchLoop(pub ConnectionId);

impl Cluster {
    /// A cluster of so many loops; 0: one for each processor that this process may use.
    pub fn new(loops: usize) -> Cluster {
        let processors = || thread::available_parallelism().map_or(1, usize::from);
        let loops = if loops == 0 { processors() } else { loops };
        let shared = Shared {
            loops: Mutex::new(vec![None; loops]),
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        let options = LoopOptions::default().signals(true);
        Cluster { options, restarts: false, members: Members(Arc::new(shared)) }
    }

    /// Sets the options of each loop; those unless set handle signals.
    pub fn options(mut self, options: LoopOptions) -> Cluster {
        self.options = options;
        self
    }

    /// Sets that a loop that fails in its run, or panics, is made again after 100 ms, and set up; its
    /// connections are lost. Unless set, it ends the program. What fails before all loops are set up ends
    /// the program in any case.
    pub fn restart(mut self, on: bool) -> Cluster {
        self.restarts = on;
        self
    }

    /// The loops, for other threads and for `setup`.
    pub fn members(&self) -> Members {
        self.members.clone()
    }

    /// Binds a port for all loops, in the calling thread: where a program still has the right to, and
    /// where port 0 becomes a number. Each loop that is to accept calls [`SharedPort::listen`].
    ///
    /// # Errors
    ///
    /// As [`Reactor::listen_tcp_with`].
    pub fn bind(&self, at: SocketAddr, options: ListenOptions) -> Result<SharedPort, ListenError> {
        SharedPort::bind(at, options, self.members.count())
            .map_err(|error| ListenError::new(at.into(), error))
    }

    /// Runs: calls `setup` in each loop, the first of which is that of the calling thread, and turns until
    /// one of them is stopped.
    ///
    /// # Errors
    ///
    /// The first failure or panic of a `setup`; a driver's, when its wait fails; the system's, when it
    /// refuses a thread or a poll descriptor.
    pub fn run(self, setup: impl Fn(&Reactor) -> Result<()> + Send + Sync) -> Result<()> {
        let (this, setup) = (&self, &setup);
        thread::scope(|scope| {
            for number in 1..self.members.count() {
                let name = format!("couplet loop {number}");
                let keep = move || this.keep(number, setup);
                if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, keep) {
                    return self.members.fail(error.into());
                }
            }
            self.keep(0, setup);
        });
        let failure = self.members.state().failure.take();
        failure.map_or(Ok(()), Err)
    }

    /// Runs a loop, and another one in its place if it is to be restarted.
    fn keep(&self, number: usize, setup: &(impl Fn(&Reactor) -> Result<()> + Send + Sync)) {
        loop {
            let ended = caught(|| self.run_once(number, setup))
                .unwrap_or_else(|text| Err(Failure::msg(format_args!("a loop panicked: {text}"))));
            self.members.loops()[number] = None;
            match ended {
                Ok(()) => return self.members.stop(),
                Err(failure) if self.restarts && self.members.are_set_up() => {
                    tracing::error!(number, %failure, "a loop has failed, and is made again");
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
        let signals = self.options.signals && number == 0;
        let mut l = Loop::with_options(self.options.clone().signals(signals))?;
        let (members, reactor) = (&self.members, l.reactor());
        members.loops()[number] =
            Some(Member { serial: reactor.serial(), remote: reactor.remote() });
        if !members.wait_until_made() {
            return Ok(());
        }
        if signals {
            let passing = members.clone();
            l.core.on_signal =
                Some(Box::new(move |reactor, signal| passing.pass_on(reactor, signal)));
        }
        let stopping = members.clone();
        l.run(|reactor| {
            reactor.on(Shutdown::Before, move || {
                stopping.stop();
                Deferred::succeed(())
            });
            setup(reactor)?;
            members.state().set_up += 1;
            Ok(())
        })
    }
}

impl Members {
    /// The number of loops.
    pub fn count(&self) -> usize {
        self.loops().len()
    }

    /// A handle to each loop that runs, by its number. In a `setup` all do.
    pub fn remotes(&self) -> Vec<Remote> {
        self.loops().iter().flatten().map(|member| member.remote.clone()).collect()
    }

    /// Runs `f` in each loop, in its thread: see [`Remote::call`]. Returns in how many.
    ///
    /// Calls of one thread run in each loop in their order.
    pub fn broadcast(&self, f: impl Fn(&Reactor) + Send + Sync + 'static) -> usize {
        let f = Arc::new(Contained::new(f));
        let call = |remote: &Remote| {
            let f = f.clone();
            remote.call(move |reactor| f(reactor))
        };
        self.remotes().iter().filter(|remote| call(remote).is_ok()).count()
    }

    /// Runs `f` on the protocol of a connection in whichever loop it is: see [`Remote::tell`].
    ///
    /// # Errors
    ///
    /// When the connection's loop is none of these, or was made again since; `f` is dropped.
    pub fn tell<P: 'static>(
        &self,
        connection: ConnectionId,
        f: impl FnOnce(&mut P, &Transport) + Send + 'static,
    ) -> Result<(), NoSuchLoop> {
        let is_its = |member: &&Member| member.serial == connection.reactor;
        let remote = self.loops().iter().flatten().find(is_its).map(|member| member.remote.clone());
        let told = remote.map(|remote| remote.tell(connection, f));
        told.and_then(Result::ok).ok_or(NoSuchLoop(connection))
    }

    /// Stops all loops, as [`Reactor::stop`] does one.
    pub fn stop(&self) {
        self.state().is_stopping = true;
        self.0.changed.notify_all();
        self.broadcast(Reactor::stop);
    }

    /// What all loops hold. Fires in the loop that asks, with what those had that have answered before
    /// they ended.
    pub fn snapshot(&self, reactor: &Reactor) -> Deferred<Snapshot> {
        let (deferred, resolver) = Deferred::new();
        let number = reactor.records.asked_all.borrow_mut().insert(resolver);
        let asked = Arc::new(Asked { by: reactor.remote(), number, found: Mutex::default() });
        self.broadcast(move |reactor| {
            let asked = asked.clone();
            reactor.snapshot().map(move |snapshot| asked.add(snapshot)).detach();
        });
        deferred
    }

    fn loops(&self) -> MutexGuard<'_, Vec<Option<Member>>> {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, failure: Failure) {
        self.state().failure.get_or_insert(failure);
        self.stop();
    }

    /// Whether every loop was set up once, and none is to stop.
    fn are_set_up(&self) -> bool {
        let state = self.state();
        state.set_up >= self.count() && !state.is_stopping
    }

    /// A loop was made: waits for the others. False if all are to stop.
    fn wait_until_made(&self) -> bool {
        let count = self.count();
        let mut state = self.state();
        state.made += 1;
        self.0.changed.notify_all();
        let waits = |state: &mut State| state.made < count && !state.is_stopping;
        let waited = self.0.changed.wait_while(state, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).is_stopping
    }

    /// Waits; true if all are to stop before the time has passed.
    #[expect(clippy::disallowed_methods, reason = "its loop has failed, and the next is not made")]
    fn stop_within(&self, time: Duration) -> bool {
        let waits = |state: &mut State| !state.is_stopping;
        let waited = self.0.changed.wait_timeout_while(self.state(), time, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// The loop that takes the signals has one: the others get it too. True if nothing is left to do.
    fn pass_on(&self, reactor: &Reactor, signal: Signal) -> bool {
        if signal == Signal::User1 {
            let shown = self.snapshot(reactor).map(|snapshot| print_snapshot(&snapshot));
            shown.detach();
            return true;
        }
        let others = self.loops();
        for member in others.iter().flatten().filter(|member| member.serial != reactor.serial()) {
            // One that is gone has stopped.
            let _ = member.remote.signal(signal);
        }
        false
    }
}

/// A snapshot of all loops that a loop has asked for: each of the others holds it until it has answered,
/// and the last sends the answer.
struct Asked {
    by: Remote,
    number: Key,
    found: Mutex<Snapshot>,
}

impl Asked {
    fn add(&self, snapshot: Snapshot) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).extend(snapshot);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let found = std::mem::take(self.found.get_mut().unwrap_or_else(PoisonError::into_inner));
        let number = self.number;
        // A loop that is gone needs no answer.
        let _ = self.by.call(move |reactor| {
            let resolver = reactor.records.asked_all.borrow_mut().remove(number);
            if let Some(resolver) = resolver {
                resolver.callback(found);
            }
        });
    }
}

/// A port that the loops of a [`Cluster`] share: [`Cluster::bind`].
///
/// On Linux each loop has a socket of its own, and the system distributes the connections by a hash of
/// their addresses (`SO_REUSEPORT`). Elsewhere the loops share one socket, and whichever is idle accepts.
#[derive(Debug)]
pub struct SharedPort {
    at: SocketAddr,
    options: ListenOptions,
    /// Those that no loop has taken yet, or the one that they share. The first listens, so that nobody is
    /// refused before the loops run; the others would be given connections that nobody accepts.
    sockets: Mutex<VecDeque<ListeningSocket>>,
}

impl SharedPort {
    fn bind(at: SocketAddr, options: ListenOptions, loops: usize) -> std::io::Result<SharedPort> {
        let options = options.reuse_port(DISTRIBUTES);
        let first = ListeningSocket::bound(at, &options)?.listening(&options)?;
        let at = first.address()?;
        let mut sockets = VecDeque::from([first]);
        if DISTRIBUTES {
            let others = (1..loops).map(|_| ListeningSocket::bound(at, &options));
            sockets.extend(others.collect::<std::io::Result<Vec<_>>>()?);
        }
        Ok(SharedPort { at, options, sockets: Mutex::new(sockets) })
    }

    /// The address, with the number that port 0 became.
    pub fn host(&self) -> SocketAddr {
        self.at
    }

    /// Accepts a part of the connections in this loop. The port is one like any other.
    ///
    /// # Errors
    ///
    /// As [`Reactor::listen_tcp_with`].
    #[track_caller]
    pub fn listen<K>(
        &self,
        reactor: &Reactor,
        factory: impl IntoFactory<K>,
    ) -> Result<Port, ListenError> {
        let listening = self.take().and_then(|socket| socket.listening(&self.options));
        let socket = listening.map_err(|error| ListenError::new(self.at.into(), error))?;
        reactor.listen_on(self.at, self.options.clone(), socket, factory)
    }

    /// A socket for one loop. A loop that was made again finds none left, and binds one.
    fn take(&self) -> std::io::Result<ListeningSocket> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        match sockets.front() {
            Some(shared) if !DISTRIBUTES => shared.try_clone(),
            _ => sockets
                .pop_front()
                .map_or_else(|| ListeningSocket::bound(self.at, &self.options), Ok),
        }
    }
}

/// Whether the system distributes connections among sockets of one port.
const DISTRIBUTES: bool = cfg!(target_os = "linux");
