//! Child processes: [`Reactor::spawn_process`]. Twisted's `IReactorProcess`, `IProcessTransport`
//! and `ProcessProtocol`.
//!
//! Each pipe of a child is an ordinary connection, adopted by the loop, with a protocol that passes
//! its bytes to the child's [`ProcessProtocol`]: there is no second path for bytes. The loop learns
//! that a child has exited from a descriptor that it watches, a pidfd where the system has them. No
//! signal handler is installed for it, and children of other code are left alone.
//!
//! Contract: 145c, 146, 146a, 148, 149, 152–152c, 154, 154a, 154c.

mod output;
mod pipes;
mod row;
mod stdio;
mod tether;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

pub use output::{OutputCommand, OutputOptions, OutputTooLong, ProcessOutput};
use pipes::{ChildPipe, PipeState};
use tether::Tether;
pub use tether::WhenLost;

use crate::address::Address;
use crate::defer::{Deferred, Resolver, Result};
pub use crate::driver::process::{
    ChildFd, Command, NoSuchSignal, ProcessEnd, ProcessSignal, Resource, WindowSize,
};
use crate::driver::process::{
    ChildKind, ChildProcess, ProcessHandle, SystemProcess, WorldProcess, set_window_size,
};
use crate::driver::{ChildInput, Interest, Spawned};
use crate::error::{Plain, Reason};
use crate::factory::IntoFactory;
use crate::internals::{FiredBy, fired_by};
use crate::panics::{Contained, contain};
use crate::reactor::notes::Note;
use crate::reactor::{DelayedCall, Reactor, Watch};
use crate::sorted::SortedMap;
use crate::transport::{Connection, Transport};

/// Callbacks for the events of a child. Twisted's `ProcessProtocol`.
///
/// `connection_made` comes first, followed by the child's output and the losses of its pipes in any
/// order. `process_exited` comes as soon as the child has exited, before or after these. The last
/// call, exactly once, is `process_ended`, when the child has exited and all its pipes are closed;
/// its own children may hold the pipes open longer.
///
/// A panic in a callback about a pipe loses that pipe, with the panic as the reason; any other
/// panic is logged.
pub trait ProcessProtocol: Any {
    /// The child is running, and its pipes are connected.
    fn connection_made(&mut self, process: &Process) {
        let _ = process;
    }

    /// The child wrote to one of its descriptors. By default, output to 1 goes to
    /// [`out_received`](Self::out_received), and output to 2 to
    /// [`err_received`](Self::err_received).
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

    /// The pipe at one of its descriptors is closed: by the child, by us, or by an error. By
    /// default this calls one of the next three.
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

    /// The pipe from its standard output is closed, or its terminal has hung up.
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

    /// The child has exited and all its pipes are closed. This is the last call.
    fn process_ended(&mut self, process: &Process, end: &ProcessEnd) {
        let _ = (process, end);
    }
}

/// A handle to a child process, made by [`Reactor::spawn_process`]; cheap to clone. Dropping it
/// changes nothing. Twisted's `IProcessTransport`.
#[derive(Clone)]
pub struct Process {
    cell: Rc<ProcessCell>,
}

struct ProcessCell {
    reactor: Reactor,
    handle: ProcessHandle,
    name: String,
    /// A terminal is closed with the pipe at 1.
    input: RefCell<ChildInput>,
    group: Cell<Group>,
    /// Taken out during a call, and dropped once the process has ended.
    protocol: RefCell<Option<Contained<Box<dyn ProcessProtocol>>>>,
    /// By the child's descriptor numbers.
    pipes: RefCell<SortedMap<i32, PipeState>>,
    /// Held from the start until the child is watched, after `connection_made`.
    child: RefCell<Option<ChildProcess>>,
    watch: RefCell<Option<Watch<SystemProcess>>>,
    progress: RefCell<Progress>,
    waiting: RefCell<Vec<Resolver<ProcessEnd>>>,
    /// The next timed step of a termination, until the child has exited.
    next_step: RefCell<Option<DelayedCall>>,
    /// The row in the loop's snapshots, until the process has ended.
    note: RefCell<Option<Note>>,
}

/// The process group of a child.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// The child does not lead it.
    Other,
    /// The child leads it.
    Led,
    /// The child leads it, and the whole group is being terminated.
    Ending,
}

#[derive(Default)]
enum Progress {
    #[default]
    Running,
    Exited(ProcessEnd),
    /// `process_ended` was called.
    Ended(ProcessEnd),
}

impl ProcessCell {
    /// Whether standard input and output are one connection.
    fn is_joined(&self) -> bool {
        matches!(&*self.input.borrow(), ChildInput::Joined)
    }

    fn has_terminal(&self) -> bool {
        matches!(&*self.input.borrow(), ChildInput::Terminal(_))
    }

    fn has_ended(&self) -> bool {
        matches!(&*self.progress.borrow(), Progress::Ended(_))
    }

    /// Terminates the group, if the child leads it, when the child has exited.
    fn end_group_with_child(&self) {
        if self.group.get() == Group::Led {
            self.group.set(Group::Ending);
        }
    }
}

/// A program that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {command}: {}", Plain(.error))]
pub struct SpawnError {
    /// The command, in shell syntax.
    pub command: String,
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) in a world without
    /// processes.
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
    /// The process leads no group, so a signal to its group would reach other processes, and us.
    #[error(
        "the process leads no group: start it with process_group(0), new_session() or a terminal"
    )]
    NoGroup,
    /// The system's error.
    #[error("cannot send the signal: {}", Plain(.0))]
    Io(#[from] io::Error),
}

/// The child has no open pipe for writing with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("descriptor {0} of the process is not a pipe that is open for writing")]
pub struct NotWritable(pub i32);

impl Reactor {
    /// Starts a program as a child, which is running when this returns; the turn makes the protocol's
    /// callbacks.
    ///
    /// The child gets only the descriptors listed in the [`Command`]. Signals that this program
    /// ignores have their default action in the child, and none is blocked. The loop notices the exit
    /// without SIGCHLD. If the run ends first, the child keeps running, with its pipes closed
    /// ([`ProcessEnd::LeftRunning`]).
    ///
    /// Only on Unix. Twisted's `spawnProcess`, with the protocol last, as everywhere here; the
    /// environment is inherited unless the command says otherwise.
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
    ///     reactor.spawn_process(Command::new("tr").args(["a-z", "A-Z"]), Poem(Vec::new()))?;
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`SpawnError`], immediately, for every cause: the program does not exist or may not be
    /// executed; its directory, user or limits can't be set; or this program is out of descriptors.
    #[track_caller]
    pub fn spawn_process(
        &self,
        command: Command,
        protocol: impl ProcessProtocol,
    ) -> Result<Process, SpawnError> {
        let protocol: Contained<Box<dyn ProcessProtocol>> = Contained::new(Box::new(protocol));
        match self.start_program(&command) {
            Ok(spawned) => Ok(self.connect_pipes(protocol, &command, spawned)),
            Err(error) => Err(SpawnError { command: command.to_string(), error }),
        }
    }

    /// Connects the pipes of a started process, and then watches for its exit.
    #[track_caller]
    fn connect_pipes(
        &self,
        protocol: Contained<Box<dyn ProcessProtocol>>,
        command: &Command,
        spawned: Spawned,
    ) -> Process {
        let Spawned { pipes, input, child } = spawned;
        let is_joined =
            matches!(input, ChildInput::Joined) && pipes.iter().any(|(number, _)| *number == 1);
        let numbers = pipes.iter().map(|(number, _)| *number).chain(is_joined.then_some(0));
        let states = numbers.map(|number| (number, PipeState::Opening(Vec::new())));
        let cell = ProcessCell {
            reactor: self.clone(),
            handle: child.handle(),
            name: command.to_string(),
            input: RefCell::new(match input {
                ChildInput::Joined if !is_joined => ChildInput::Separate,
                input => input,
            }),
            group: Cell::new(if command.leads_group() { Group::Led } else { Group::Other }),
            protocol: RefCell::new(Some(protocol)),
            pipes: RefCell::new(states.collect()),
            child: RefCell::new(Some(child)),
            watch: RefCell::default(),
            progress: RefCell::default(),
            waiting: RefCell::default(),
            next_step: RefCell::default(),
            note: RefCell::default(),
        };
        let process = Process { cell: Rc::new(cell) };
        *process.cell.note.borrow_mut() = Some(row::note(&process));
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
                settled.record_pipe_outcome(
                    number,
                    made.ok().map(|connection| connection.transport()),
                );
                Ok(())
            };
            made.add_both(settle).detach();
        }
        process
    }
}

/// Marks the process as left running when the end of the run drops its watch.
struct ExitWatch(Process);

impl Drop for ExitWatch {
    fn drop(&mut self) {
        self.0.handle_exit(ProcessEnd::LeftRunning);
    }
}

/// Marks a simulated process as left running when the end of the run drops its task, unless the
/// program was killed.
struct ExitWait {
    process: Process,
    child: Rc<dyn WorldProcess>,
}

impl Drop for ExitWait {
    fn drop(&mut self) {
        if self.child.has_parent() {
            self.process.handle_exit(ProcessEnd::LeftRunning);
        }
    }
}

/// A protocol taken out for a call; put back when the call returns or panics.
struct ProtocolCall<'a> {
    cell: &'a ProcessCell,
    protocol: Option<Contained<Box<dyn ProcessProtocol>>>,
}

impl Drop for ProtocolCall<'_> {
    fn drop(&mut self) {
        let protocol = self.protocol.take();
        match self.cell.has_ended() {
            true => drop(protocol),
            false => *self.cell.protocol.borrow_mut() = protocol,
        }
    }
}

impl Process {
    /// The program at the other end of a connection made by
    /// [`ProcessClient`](crate::endpoints::ProcessClient) or the endpoint `process:`. The program
    /// may outlive the connection for a while.
    pub fn of(transport: &Transport) -> Option<Process> {
        transport.program::<Tether>().map(|tether| tether.process().clone())
    }

    /// The process ID; `None` once the process has exited, because the number may be reused.
    pub fn pid(&self) -> Option<u32> {
        self.end().is_none().then(|| self.cell.handle.pid())
    }

    /// How the process ended, once it has exited.
    pub fn end(&self) -> Option<ProcessEnd> {
        match &*self.cell.progress.borrow() {
            Progress::Running => None,
            Progress::Exited(end) | Progress::Ended(end) => Some(end.clone()),
        }
    }

    /// The reactor that started it.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// Fires after `process_ended`, when the process has exited and all its pipes are closed.
    #[track_caller]
    pub fn ended(&self) -> Deferred<ProcessEnd> {
        match self.end() {
            Some(end) if self.cell.has_ended() => Deferred::succeed(end),
            _ => {
                let (deferred, resolver) = Deferred::new();
                fired_by(&deferred, FiredBy { kind: "the end of a process", id: None });
                self.cell.waiting.borrow_mut().push(resolver);
                deferred
            }
        }
    }

    /// Sends a signal, by name (`"TERM"`, `"SIGTERM"`) or number. Twisted's `signalProcess`.
    ///
    /// # Errors
    ///
    /// [`SignalError`]: the process has exited, no signal has this name, or the system refuses.
    pub fn signal_process(&self, signal: impl IntoSignal) -> Result<(), SignalError> {
        let signal = signal.into_signal()?;
        // The number can't be reused before the process is reaped, right before `handle_exit`.
        match self.pid() {
            Some(_) => Ok(self.cell.handle.signal(signal)?),
            None => Err(SignalError::ExitedAlready),
        }
    }

    /// Sends a signal to the process and all other members of its group: its descendants, except
    /// those that have left the group. The process must lead the group, which the command arranges
    /// by [`process_group(0)`](Command::process_group), [`new_session`](Command::new_session) or
    /// [`terminal`](Command::terminal). Like `os.killpg` in Twisted programs.
    ///
    /// # Errors
    ///
    /// As [`signal_process`](Self::signal_process), and [`SignalError::NoGroup`]. Fails once the
    /// process has exited, because the number of its group may be reused.
    pub fn signal_group(&self, signal: impl IntoSignal) -> Result<(), SignalError> {
        let signal = signal.into_signal()?;
        match self.pid() {
            Some(_) if self.cell.group.get() == Group::Other => Err(SignalError::NoGroup),
            Some(_) => Ok(self.cell.handle.signal_group(signal)?),
            None => Err(SignalError::ExitedAlready),
        }
    }

    /// Sends SIGTERM, and SIGKILL if the process has not exited after `grace`. A later call
    /// replaces the deadline of an earlier one.
    ///
    /// # Errors
    ///
    /// As [`signal_process`](Self::signal_process).
    pub fn terminate(&self, grace: Duration) -> Result<(), SignalError> {
        self.signal_process(ProcessSignal::TERM)?;
        self.kill_after(grace, |process| process.signal_process(ProcessSignal::KILL));
        Ok(())
    }

    /// Sends SIGTERM to the process and its group, and SIGKILL to all remaining members when the
    /// process has exited, or after `grace`.
    ///
    /// # Errors
    ///
    /// As [`signal_group`](Self::signal_group).
    pub fn terminate_group(&self, grace: Duration) -> Result<(), SignalError> {
        self.signal_group(ProcessSignal::TERM)?;
        self.cell.group.set(Group::Ending);
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
            // The process may have exited, with the event still pending in this turn.
            if let Err(error) = kill(&process) {
                tracing::debug!(%error, "cannot kill a process");
            }
        });
    }

    /// Schedules the next step of a termination, replacing the one scheduled before.
    fn set_next_step(&self, after: Duration, step: impl FnOnce() + 'static) {
        let step = self.cell.reactor.call_later(after, step);
        if let Some(before) = self.cell.next_step.replace(Some(step)) {
            before.cancel();
        }
    }

    /// Kills the remaining members of the group. Called when the process has exited but is not
    /// reaped, so the number of its group is still valid.
    fn end_group(&self) {
        if self.cell.group.get() != Group::Ending {
            return;
        }
        self.cell.group.set(Group::Led);
        if let Err(error) = self.cell.handle.signal_group(ProcessSignal::KILL) {
            tracing::debug!(%error, "cannot kill a process group");
        }
    }

    /// Sets the size of the terminal's window; SIGWINCH notifies the programs in it.
    ///
    /// # Errors
    ///
    /// If the process has no terminal, or no longer has one.
    pub fn set_window_size(&self, size: WindowSize) -> io::Result<()> {
        match &*self.cell.input.borrow() {
            ChildInput::Terminal(terminal) => set_window_size(terminal.as_fd(), size),
            ChildInput::Separate | ChildInput::Joined => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the process has no terminal"))
            }
        }
    }

    /// Calls the protocol, unless the process has ended.
    fn call(&self, f: impl FnOnce(&mut dyn ProcessProtocol)) {
        let protocol = self.cell.protocol.borrow_mut().take();
        let mut called = ProtocolCall { cell: &self.cell, protocol };
        if let Some(protocol) = &mut called.protocol {
            f(&mut ***protocol);
        }
    }

    /// All pipes are connected, except the `failed` ones.
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
            ChildKind::System(child) => child,
            ChildKind::World(child) => return self.wait(child),
        };
        let watched = ExitWatch(self.clone());
        let on_end = move |child: &mut SystemProcess, _| {
            watched.0.end_group();
            if let Some(end) = child.end() {
                watched.0.handle_exit(end);
            }
        };
        match self.cell.reactor.watch(child, Interest::Readable, on_end) {
            Ok(watch) if self.end().is_none() => {
                *self.cell.watch.borrow_mut() = Some(watch);
            }
            Ok(_) => {}
            // The dropped callback has already reported it.
            Err(error) => log_error!(%error, "cannot watch for the exit of a process"),
        }
    }

    /// Waits for a process of another world to end.
    fn wait(&self, child: Rc<dyn WorldProcess>) {
        let waiting = ExitWait { process: self.clone(), child };
        let ended = async move {
            let end = poll_fn(|context| waiting.child.poll_end(context)).await;
            waiting.process.handle_exit(end);
            Ok(())
        };
        self.cell.reactor.spawn_named("exit of a process", ended).detach();
    }

    /// The process has exited, or is no longer watched.
    fn handle_exit(&self, end: ProcessEnd) {
        if self.end().is_some() {
            return;
        }
        tracing::debug!(pid = self.cell.handle.pid(), %end, "process exited");
        self.cell.progress.replace(Progress::Exited(end.clone()));
        if let Some(watch) = self.cell.watch.take() {
            watch.stop().add_both(|_| Ok(())).detach();
        }
        if let Some(step) = self.cell.next_step.take() {
            step.cancel();
        }
        if self.cell.is_joined() {
            // The child's input no longer has a reader.
            self.close_child_fd(0);
        }
        contain("process_exited", || self.call(|protocol| protocol.process_exited(self, &end)));
        self.check_end();
    }

    /// Finishes once the process has exited and all its pipes are closed.
    fn check_end(&self) {
        let is_open = |pipe: &PipeState| !matches!(pipe, PipeState::Closed);
        let Some(end) = self.end() else { return };
        if self.cell.pipes.borrow().values().any(is_open) || self.cell.has_ended() {
            return;
        }
        contain("process_ended", || {
            self.call(|protocol| {
                self.cell.progress.replace(Progress::Ended(end.clone()));
                protocol.process_ended(self, &end);
            });
        });
        self.cell.progress.replace(Progress::Ended(end.clone()));
        drop(self.cell.note.take());
        for resolver in self.cell.waiting.take() {
            resolver.callback(end.clone());
        }
    }
}

/// A signal's number or name, or a [`ProcessSignal`].
pub trait IntoSignal {
    /// The signal.
    ///
    /// # Errors
    ///
    /// If no signal has this name.
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
