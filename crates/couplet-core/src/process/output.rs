//! Runs a program to its end: [`Reactor::process_output`]. Twisted's `getProcessOutputAndValue`.
//!
//! Contract: 154d.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Command, Process, ProcessEnd, ProcessProtocol, ProcessSignal};
use crate::defer::{Cancelled, Deferred, Failure, Resolver};
use crate::recorder::Reactor;

/// The output of a program, and how it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProcessOutput {
    /// How the program ended.
    pub end: ProcessEnd,
    /// The standard output.
    pub stdout: Vec<u8>,
    /// The standard error. With `command.descriptor(2, ChildFd::SameAs(1))` it is part of `stdout`,
    /// in the order of the writes.
    pub stderr: Vec<u8>,
}

/// A program's input and the limit of its output, for [`Reactor::process_output`].
#[derive(Clone, Debug)]
pub struct OutputOptions {
    input: Vec<u8>,
    limit: usize,
}

impl Default for OutputOptions {
    fn default() -> OutputOptions {
        OutputOptions { input: Vec::new(), limit: 16 * 1024 * 1024 }
    }
}

impl OutputOptions {
    /// Sets the standard input, closed after these bytes. Empty by default.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Sets the maximum bytes of output, both streams together: 16 MiB by default.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
}

/// A command and its options, for [`Reactor::process_output`]: made from a [`Command`], or from a
/// command and [`OutputOptions`].
#[derive(Clone, Debug)]
pub struct OutputCommand {
    command: Command,
    options: OutputOptions,
}

impl From<Command> for OutputCommand {
    fn from(command: Command) -> OutputCommand {
        OutputCommand { command, options: OutputOptions::default() }
    }
}

impl From<(Command, OutputOptions)> for OutputCommand {
    fn from((command, options): (Command, OutputOptions)) -> OutputCommand {
        OutputCommand { command, options }
    }
}

/// A program exceeded its output limit, and was killed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command} wrote more than {limit} bytes, and was killed")]
pub struct OutputTooLong {
    /// The command, in shell syntax.
    pub command: String,
    /// The limit, in bytes.
    pub limit: usize,
}

impl Reactor {
    /// Runs a program to its end, and collects its output: a [`Command`], whose standard input is
    /// empty, or a command with [`OutputOptions`]. An exit code other than 0 is not a failure here:
    /// check [`ProcessOutput::end`].
    ///
    /// The Deferred fails with [`SpawnError`](super::SpawnError) or [`OutputTooLong`]. Cancelling
    /// it, as a timeout does, kills the program and closes its pipes. Only on Unix. Twisted's
    /// `getProcessOutput`, `getProcessValue` and `getProcessOutputAndValue`.
    ///
    /// ```
    /// use couplet::process::Command;
    ///
    /// let output = couplet::run_until(|reactor| {
    ///     reactor.process_output(Command::new("echo").arg("Rose is a rose"))
    /// })?;
    /// assert!(output.end.is_success());
    /// assert_eq!(output.stdout, b"Rose is a rose\n");
    ///
    /// use couplet::process::OutputOptions;
    ///
    /// let output = couplet::run_until(|reactor| {
    ///     let poem = OutputOptions::default().input("Rose is a rose");
    ///     reactor.process_output((Command::new("wc").arg("-w"), poem))
    /// })?;
    /// assert_eq!(output.stdout.trim_ascii(), b"4");
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[track_caller]
    pub fn process_output(&self, command: impl Into<OutputCommand>) -> Deferred<ProcessOutput> {
        let OutputCommand { command, options } = command.into();
        let running: Rc<RefCell<Option<Process>>> = Rc::default();
        let (cancelled, name) = (running.clone(), command.to_string());
        let (deferred, resolver) = Deferred::with_canceller(move |resolver| {
            if let Some(process) = cancelled.take() {
                kill_and_close(&process);
            }
            resolver.errback(Cancelled::of(name));
        });
        let resolver = Rc::new(RefCell::new(Some(resolver)));
        let collect = OutputCollector {
            command: command.to_string(),
            options,
            stdout: Vec::new(),
            stderr: Vec::new(),
            resolver: resolver.clone(),
        };
        match self.spawn_process(command, collect) {
            Ok(process) => *running.borrow_mut() = Some(process),
            Err(error) => fail(&resolver, error),
        }
        deferred
    }
}

type SharedResolver = Rc<RefCell<Option<Resolver<ProcessOutput>>>>;

fn fail(waiting: &SharedResolver, error: impl Into<Failure>) {
    let resolver = waiting.borrow_mut().take();
    if let Some(resolver) = resolver {
        resolver.errback(error.into());
    }
}

/// Kills a process whose output is no longer wanted. The children of the process may hold its pipes and
/// never read the unsent input, so the pipes are closed without flushing.
fn kill_and_close(process: &Process) {
    if let Err(error) = process.signal_process(ProcessSignal::KILL) {
        tracing::debug!(%error, "cannot kill a process");
    }
    process.abort_connection();
}

struct OutputCollector {
    command: String,
    options: OutputOptions,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    resolver: SharedResolver,
}

impl ProcessProtocol for OutputCollector {
    fn connection_made(&mut self, process: &Process) {
        process.write(std::mem::take(&mut self.options.input));
        process.close_stdin();
    }

    fn child_data_received(&mut self, process: &Process, child_fd: i32, data: &[u8]) {
        let limit = self.options.limit;
        if self.stdout.len() + self.stderr.len() + data.len() > limit {
            kill_and_close(process);
            let command = std::mem::take(&mut self.command);
            return fail(&self.resolver, OutputTooLong { command, limit });
        }
        match child_fd {
            1 => self.stdout.extend_from_slice(data),
            2 => self.stderr.extend_from_slice(data),
            _ => {}
        }
    }

    fn process_ended(&mut self, _: &Process, end: &ProcessEnd) {
        let resolver = self.resolver.borrow_mut().take();
        if let Some(resolver) = resolver {
            resolver.callback(ProcessOutput {
                end: end.clone(),
                stdout: std::mem::take(&mut self.stdout),
                stderr: std::mem::take(&mut self.stderr),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_limit_matches_the_documentation() {
        assert_eq!(OutputOptions::default().limit, 16 * 1024 * 1024);
    }
}
