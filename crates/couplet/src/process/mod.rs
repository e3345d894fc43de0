//! Other programs as children of this one: [`Reactor::spawn_process`]. Twisted's `IReactorProcess`,
//! `IProcessTransport` and `ProcessProtocol`.
//!
//! Each pipe of a child is a connection like any other, adopted by the loop, with a protocol that passes its
//! bytes to the child's [`ProcessProtocol`]: there is no second road for bytes. The end of a child is a
//! descriptor that the loop watches, a pidfd where the system has them: no signal of this program is
//! handled for it, and children of other code are left alone.

mod output;
mod pipes;
mod stdio;
mod tether;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

pub use output::{OutputOptions, OutputTooLong, ProcessOutput};
use pipes::{ChildPipe, PipeState};
use tether::Tether;
pub use tether::WhenLost;

use crate::address::Address;
use crate::defer::{Deferred, Resolver, Result};
pub use crate::driver::process::{
    ChildFd, Command, NoSuchSignal, ProcessEnd, ProcessSignal, Resource, WindowSize,
};
use crate::driver::process::{
    ChildProcess, ProcessHandle, Started, SystemProcess, WorldProcess, set_window_size,
};
use crate::driver::{Interest, Spawned};
use crate::error::{Plain, Reason};
use crate::factory::IntoFactory;
use crate::panics::{Contained, contain};
use crate::reactor::{DelayedCall, Reactor, Watch};
use crate::transport::{Connection, Transport};

/// What a child does, as it happens. Twisted's `ProcessProtocol`.
///
/// `connection_made` comes first, then what the child writes and the losses of its pipes in any order;
/// `process_exited` as soon as it has exited, before or after these; and last, exactly once,
/// `process_ended`, when it has exited and all its pipes are closed. Those may stay open longer, where the
/// child has left them to children of its own.
///
/// A panic in a callback about a pipe loses that pipe, with it as the reason; any other is logged.
pub trait ProcessProtocol: Any {
    /// The child runs, and its pipes are connected.
    fn connection_made(&mut self, process: &Process) {
        let _ = process;
    }

    /// The child wrote to one of its descriptors. By default what it wrote to 1 goes to
    /// [`out_received`](Self::out_received), and to 2 to [`err_received`](Self::err_received).
    fn child_data_received(&mut self, process: &Process, child_fd: i32, data: &[u8]) {
        match child_fd {
            1 => self.out_received(process, data),
            2 => self.err_received(process, data),
            _ => {}
        }
    }

    /// The child wrote to its standard output, or its terminal.
    fn out_received(&mut self, process: &Process, data: &[u8]) {
        let _ = (process, data);
    }

    /// The child wrote to its standard error.
    fn err_received(&mut self, process: &Process, data: &[u8]) {
        let _ = (process, data);
    }

    /// The pipe at one of its descriptors is closed: by the child, by us, or by an error. By default this
    /// goes to one of the next three.
    fn child_connection_lost(&mut self, process: &Process, child_fd: i32, reason: &Reason) {
        match child_fd {
            0 => self.in_connection_lost(process, reason),
            1 => self.out_connection_lost(process, reason),
            2 => self.err_connection_lost(process, reason),
            _ => {}
        }
    }

    /// The pipe to its standard input is closed.
    fn in_connection_lost(&mut self, process: &Process, reason: &Reason) {
        let _ = (process, reason);
    }

    /// The pipe from its standard output is closed, or its terminal has gone.
    fn out_connection_lost(&mut self, process: &Process, reason: &Reason) {
        let _ = (process, reason);
    }

    /// The pipe from its standard error is closed.
    fn err_connection_lost(&mut self, process: &Process, reason: &Reason) {
        let _ = (process, reason);
    }

    /// The child has exited. Its pipes may still be open.
    fn process_exited(&mut self, process: &Process, end: &ProcessEnd) {
        let _ = (process, end);
    }

    /// The child has exited and all its pipes are closed. The last call.
    fn process_ended(&mut self, process: &Process, end: &ProcessEnd) {
        let _ = (process, end);
    }
}

/// A child of this program: made by [`Reactor::spawn_process`], and cheap to clone. Dropping it changes
/// nothing. Twisted's `IProcessTransport`.
#[derive(Clone)]
pub struct Process {
    cell: Rc<ProcessCell>,
}

struct ProcessCell {
    reactor: Reactor,
    handle: ProcessHandle,
    name: String,
    /// Its standard input and output are one connection.
    is_joined: bool,
    /// Its process group is its own.
    leads_group: bool,
    /// It is being terminated with its whole group.
    ends_group: Cell<bool>,
    /// Taken out while it is called, and when the process has ended.
    protocol: RefCell<Option<Contained<Box<dyn ProcessProtocol>>>>,
    /// By the child's numbers.
    pipes: RefCell<BTreeMap<i32, PipeState>>,
    /// Until it is watched, from `connection_made` on.
    child: RefCell<Option<ChildProcess>>,
    watch: RefCell<Option<Watch<SystemProcess>>>,
    terminal: RefCell<Option<OwnedFd>>,
    end: RefCell<Option<ProcessEnd>>,
    /// `process_ended` was called.
    has_ended: Cell<bool>,
    /// Law 9: one for each call of [`Process::ended`], which its caller holds or has detached.
    waiting: RefCell<Vec<Resolver<ProcessEnd>>>,
    /// The next step towards its end, until it has exited.
    next_step: RefCell<Option<DelayedCall>>,
}

/// A program that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {command}: {}", Plain(.error))]
pub struct SpawnError {
    /// As a shell would read it.
    pub command: String,
    /// The system's error. [`Unsupported`](io::ErrorKind::Unsupported) in a world without processes: on
    /// another driver than the system's.
    #[source]
    pub error: io::Error,
}

/// A signal that was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignalError {
    /// The process has exited. Twisted's `ProcessExitedAlready`.
    #[error("the process has exited already")]
    ExitedAlready,
    /// There is no such signal.
    #[error(transparent)]
    NoSuchSignal(#[from] NoSuchSignal),
    /// It leads no process group, so a signal to its group would reach others, and us.
    #[error(
        "the process leads no group: start it with process_group(0), new_session() or a terminal"
    )]
    NoGroup,
    /// The system's error.
    #[error("cannot send the signal: {}", Plain(.0))]
    Io(#[from] io::Error),
}

/// The child has no pipe of this number to be written to, or it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("descriptor {0} of the process is not a pipe that is open for writing")]
pub struct NotWritable(pub i32);

impl Reactor {
    /// Starts a program as a child. It runs when this returns; the protocol's callbacks come from the turn.
    ///
    /// The child gets the descriptors that [`Command`] says and no others; signals that this program
    /// ignores have their defaults in it, and none is blocked. Its end is noticed without SIGCHLD. When
    /// the run ends before it does, it goes on, with its pipes closed ([`ProcessEnd::LeftRunning`]).
    ///
    /// Only on Unix. Twisted's `spawnProcess`; the environment is inherited unless the command says
    /// otherwise.
    ///
    /// ```
    /// use couplet::process::{Command, Process, ProcessEnd, ProcessProtocol};
    ///
    /// struct Poem(Vec<u8>);
    /// impl ProcessProtocol for Poem {
    ///     fn connection_made(&mut self, process: &Process) {
    ///         process.write("Rose is a rose");
    ///         process.close_stdin();
    ///     }
    ///     fn out_received(&mut self, _: &Process, data: &[u8]) {
    ///         self.0.extend_from_slice(data);
    ///     }
    ///     fn process_ended(&mut self, process: &Process, end: &ProcessEnd) {
    ///         assert!(end.is_success());
    ///         assert_eq!(self.0, b"ROSE IS A ROSE");
    ///         process.reactor().stop();
    ///     }
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     reactor.spawn_process(Poem(Vec::new()), Command::new("tr").args(["a-z", "A-Z"]))?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SpawnError`], immediately, whatever the reason: there is no such program, it may not be
    /// executed, its directory, user or limits can't be set, or this program is out of descriptors.
    #[track_caller]
    pub fn spawn_process(
        &self,
        protocol: impl ProcessProtocol,
        command: Command,
    ) -> Result<Process, SpawnError> {
        let protocol: Contained<Box<dyn ProcessProtocol>> = Contained::new(Box::new(protocol));
        match self.start_program(&command) {
            Ok(spawned) => Ok(self.started(protocol, &command, spawned)),
            Err(error) => Err(SpawnError { command: command.to_string(), error }),
        }
    }

    /// A process runs: has its pipes connected, and then its end watched.
    #[track_caller]
    fn started(
        &self,
        protocol: Contained<Box<dyn ProcessProtocol>>,
        command: &Command,
        spawned: Spawned,
    ) -> Process {
        let Spawned { pipes, is_joined, terminal, child } = spawned;
        let is_joined = is_joined && pipes.contains_key(&1);
        let numbers = pipes.keys().copied().chain(is_joined.then_some(0));
        let states = numbers.map(|number| (number, PipeState::Opening(Vec::new())));
        let cell = ProcessCell {
            reactor: self.clone(),
            handle: child.handle(),
            name: command.to_string(),
            is_joined,
            leads_group: command.leads_group(),
            ends_group: Cell::new(false),
            protocol: RefCell::new(Some(protocol)),
            pipes: RefCell::new(states.collect()),
            child: RefCell::new(Some(child)),
            watch: RefCell::default(),
            terminal: RefCell::new(terminal),
            end: RefCell::default(),
            has_ended: Cell::new(false),
            waiting: RefCell::default(),
            next_step: RefCell::default(),
        };
        let process = Process { cell: Rc::new(cell) };
        tracing::debug!(pid = process.cell.handle.pid(), command = %process.cell.name, "process started");
        if pipes.is_empty() {
            let process = process.clone();
            self.call_soon(move || process.begin(Vec::new()));
        }
        for (number, adopted) in pipes {
            let settled = process.clone();
            let mut pipe = Some(ChildPipe::new(process.clone(), number));
            let factory = (move |_: &Address| pipe.take()).into_factory();
            let made = self.adopt_prepared(adopted, factory);
            let settle = move |made: Result<Connection<ChildPipe>>| {
                settled.settled(number, made.ok().map(|connection| connection.transport()));
                Ok(())
            };
            made.add_both(settle).detach();
        }
        process
    }
}

/// Tells the process when its watch is dropped by the end of the run.
struct Watched(Process);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.exited(ProcessEnd::LeftRunning);
    }
}

/// The same, of a process that is not the system's: unless the program was ended by force, with all that it
/// would have called.
struct Waiting {
    process: Process,
    child: Rc<dyn WorldProcess>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.child.has_parent() {
            self.process.exited(ProcessEnd::LeftRunning);
        }
    }
}

/// A protocol that was taken out to be called, and goes back when that has returned or panicked.
struct Called<'a> {
    cell: &'a ProcessCell,
    protocol: Option<Contained<Box<dyn ProcessProtocol>>>,
}

impl Drop for Called<'_> {
    fn drop(&mut self) {
        let protocol = self.protocol.take();
        match self.cell.has_ended.get() {
            true => drop(protocol),
            false => *self.cell.protocol.borrow_mut() = protocol,
        }
    }
}

impl Process {
    /// The program at the other end of a connection that was made by
    /// [`connect_process`](Reactor::connect_process) or the endpoint `process:`. It may outlive the
    /// connection for a while.
    pub fn of(transport: &Transport) -> Option<Process> {
        transport.program::<Tether>().map(|tether| tether.process().clone())
    }

    /// Its process number; none once it has exited, when the number may be another's.
    pub fn pid(&self) -> Option<u32> {
        self.cell.end.borrow().is_none().then(|| self.cell.handle.pid())
    }

    /// How it has ended, once it has exited.
    pub fn end(&self) -> Option<ProcessEnd> {
        self.cell.end.borrow().clone()
    }

    /// The reactor that started it.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// Fires when it has exited and all its pipes are closed, after `process_ended`.
    pub fn ended(&self) -> Deferred<ProcessEnd> {
        match self.end() {
            Some(end) if self.cell.has_ended.get() => Deferred::succeed(end),
            _ => {
                let (deferred, resolver) = Deferred::new();
                self.cell.waiting.borrow_mut().push(resolver);
                deferred
            }
        }
    }

    /// Sends a signal, by name (`"TERM"`, `"SIGTERM"`) or number. Twisted's `signalProcess`.
    ///
    /// # Errors
    ///
    /// [`SignalError`]: it has exited, no signal has this name, or the system refuses.
    pub fn signal_process(&self, signal: impl IntoSignal) -> Result<(), SignalError> {
        let signal = signal.into_signal()?;
        // Its number stays its own until it is reaped, which `exited` follows.
        match self.pid() {
            Some(_) => Ok(self.cell.handle.signal(signal)?),
            None => Err(SignalError::ExitedAlready),
        }
    }

    /// Sends a signal to it and to all of its process group: its children and theirs, except for those
    /// that have left the group. It must lead the group, which it does when the command says
    /// [`process_group(0)`](Command::process_group), [`new_session`](Command::new_session) or
    /// [`terminal`](Command::terminal). Like `os.killpg` in Twisted programs.
    ///
    /// # Errors
    ///
    /// As [`signal_process`](Self::signal_process), and [`SignalError::NoGroup`]. Once it has exited,
    /// its group's number may be another's.
    pub fn signal_group(&self, signal: impl IntoSignal) -> Result<(), SignalError> {
        let signal = signal.into_signal()?;
        match self.pid() {
            Some(_) if !self.cell.leads_group => Err(SignalError::NoGroup),
            Some(_) => Ok(self.cell.handle.signal_group(signal)?),
            None => Err(SignalError::ExitedAlready),
        }
    }

    /// Asks it to end by SIGTERM, and kills it by SIGKILL if it has not exited after `grace`. The time of
    /// the last call counts.
    ///
    /// # Errors
    ///
    /// As [`signal_process`](Self::signal_process).
    pub fn terminate(&self, grace: Duration) -> Result<(), SignalError> {
        self.signal_process(ProcessSignal::TERM)?;
        self.kill_after(grace, |process| process.signal_process(ProcessSignal::KILL));
        Ok(())
    }

    /// Asks it and all of its group to end by SIGTERM, and kills those that are left when it has exited,
    /// or after `grace`: none of them stays.
    ///
    /// # Errors
    ///
    /// As [`signal_group`](Self::signal_group).
    pub fn terminate_group(&self, grace: Duration) -> Result<(), SignalError> {
        self.signal_group(ProcessSignal::TERM)?;
        self.cell.ends_group.set(true);
        self.kill_after(grace, |process| process.signal_group(ProcessSignal::KILL));
        Ok(())
    }

    fn kill_after(
        &self,
        grace: Duration,
        kill: impl FnOnce(&Process) -> Result<(), SignalError> + 'static,
    ) {
        let process = self.clone();
        self.set_next_step(grace, move || {
            // It may have exited, and its end be in this turn's events.
            if let Err(error) = kill(&process) {
                tracing::debug!(%error, "a process was not killed");
            }
        });
    }

    /// Plans the next step towards its end, in place of the one that was planned before.
    fn set_next_step(&self, after: Duration, step: impl FnOnce() + 'static) {
        let step = self.cell.reactor.call_later(after, step);
        if let Some(before) = self.cell.next_step.replace(Some(step)) {
            before.cancel();
        }
    }

    /// It has exited and is not reaped yet, so that the number of its group is still its own.
    fn end_group(&self) {
        if self.cell.ends_group.take()
            && let Err(error) = self.cell.handle.signal_group(ProcessSignal::KILL)
        {
            tracing::debug!(%error, "a process group was not killed");
        }
    }

    /// Sets the size of its terminal's window, which programs in it hear of by SIGWINCH.
    ///
    /// # Errors
    ///
    /// When it has no terminal, or no longer.
    pub fn set_window_size(&self, size: WindowSize) -> io::Result<()> {
        match &*self.cell.terminal.borrow() {
            Some(terminal) => set_window_size(terminal.as_fd(), size),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "the process has no terminal")),
        }
    }

    /// Calls the protocol, unless the process has ended.
    fn call(&self, f: impl FnOnce(&mut dyn ProcessProtocol)) {
        let protocol = self.cell.protocol.borrow_mut().take();
        let mut called = Called { cell: &self.cell, protocol };
        if let Some(protocol) = &mut called.protocol {
            f(&mut ***protocol);
        }
    }

    /// All pipes are connected, except for those that could not be.
    fn begin(&self, failed: Vec<i32>) {
        contain("connection_made of a process", || {
            self.call(|protocol| protocol.connection_made(self));
        });
        let child = self.cell.child.borrow_mut().take();
        if let Some(child) = child {
            self.watch(child);
        }
        for number in failed {
            self.pipe_lost(number, &Reason::Shutdown);
        }
    }

    fn watch(&self, child: ChildProcess) {
        let child = match child.0 {
            Started::System(child) => child,
            Started::World(child) => return self.wait(child),
        };
        let watched = Watched(self.clone());
        let on_end = move |child: &mut SystemProcess, _| {
            watched.0.end_group();
            if let Some(end) = child.end() {
                watched.0.exited(end);
            }
        };
        match self.cell.reactor.watch(child, Interest::Readable, on_end) {
            Ok(watch) if self.cell.end.borrow().is_none() => {
                *self.cell.watch.borrow_mut() = Some(watch);
            }
            Ok(_) => {}
            // The callback was dropped, and has said so.
            Err(error) => log_error!(%error, "the end of a process can't be noticed"),
        }
    }

    /// Waits for the end of one that is not the system's.
    fn wait(&self, child: Rc<dyn WorldProcess>) {
        let waiting = Waiting { process: self.clone(), child };
        let ended = async move {
            let end = poll_fn(|context| waiting.child.poll_end(context)).await;
            waiting.process.exited(end);
            Ok(())
        };
        self.cell.reactor.spawn_named("the end of a process", ended).detach();
    }

    /// It has exited, or will not be waited for any more.
    fn exited(&self, end: ProcessEnd) {
        if self.cell.end.borrow().is_some() {
            return;
        }
        tracing::debug!(pid = self.cell.handle.pid(), %end, "process exited");
        *self.cell.end.borrow_mut() = Some(end.clone());
        if let Some(watch) = self.cell.watch.take() {
            watch.stop().add_both(|_| Ok(())).detach();
        }
        if let Some(step) = self.cell.next_step.take() {
            step.cancel();
        }
        if self.cell.is_joined {
            // Nobody reads its input any more.
            self.close_child_fd(0);
        }
        contain("process_exited", || self.call(|protocol| protocol.process_exited(self, &end)));
        self.check_end();
    }

    /// Whether all is over.
    fn check_end(&self) {
        let is_open = |pipe: &PipeState| !matches!(pipe, PipeState::Closed);
        let Some(end) = self.end() else { return };
        if self.cell.pipes.borrow().values().any(is_open) || self.cell.has_ended.get() {
            return;
        }
        contain("process_ended", || {
            self.call(|protocol| {
                self.cell.has_ended.set(true);
                protocol.process_ended(self, &end);
            });
        });
        self.cell.has_ended.set(true);
        for resolver in self.cell.waiting.take() {
            resolver.callback(end.clone());
        }
    }
}

/// What names a signal: a number, a name, or a [`ProcessSignal`].
pub trait IntoSignal {
    /// The signal.
    ///
    /// # Errors
    ///
    /// When no signal has this name.
    fn into_signal(self) -> Result<ProcessSignal, NoSuchSignal>;
}

impl IntoSignal for ProcessSignal {
    fn into_signal(self) -> Result<ProcessSignal, NoSuchSignal> {
        Ok(self)
    }
}

impl IntoSignal for i32 {
    fn into_signal(self) -> Result<ProcessSignal, NoSuchSignal> {
        Ok(self.into())
    }
}

impl IntoSignal for &str {
    fn into_signal(self) -> Result<ProcessSignal, NoSuchSignal> {
        self.parse()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("command", &self.cell.name)
            .field("pid", &self.pid())
            .field("end", &self.end())
            .finish_non_exhaustive()
    }
}
