//! The part of the grammar for programs: `process:COMMAND`.
//!
//! Contract: 145b.

use std::fmt;
use std::sync::Arc;

use crate::defer::{Deferred, Result};
use crate::endpoints::grammar::{Part, Parts, Seconds, escaped};
use crate::endpoints::{ClientEndpoint, EndpointError};
use crate::factory::ErasedFactory;
use crate::process::{ChildFd, Command, WhenLost, WindowSize};
use crate::recorder::Reactor;
use crate::transport::Transport;

/// `process:COMMAND[:directory=PATH][:uid=N][:gid=N][:stderr=inherit|stdout|null][:pty=yes|no][:kill=SECONDS]
/// [:keep=yes|no]`: each connect starts the program, and connects to its standard input and output.
/// The program inherits our standard error, unless `stderr` is `stdout`, which merges it into the
/// received output, or `null`.
///
/// The program and its connection end together. When the connection is lost, the program's input is
/// closed, and its process group is sent SIGTERM and, after `kill` (5 s by default), SIGKILL: see
/// [`WhenLost::End`]. With `keep=yes` the program keeps running, and may outlive this one:
/// [`WhenLost::Keep`].
///
/// The words of COMMAND are separated by spaces; words that contain spaces are in single or double
/// quotes. No shell is involved. A `:`, `=` or `[` in COMMAND is escaped by a backslash, as
/// everywhere in an endpoint.
///
/// ```
/// use couplet::endpoints::client_from_string;
///
/// let endpoint = client_from_string(r#"process:/bin/sh -c "echo 'Rose is a rose'":directory=/"#)?;
/// assert_eq!(endpoint.to_string(), r"process:/bin/sh -c 'echo '\\''Rose is a rose'\\''':directory=/");
/// # Ok::<(), couplet::endpoints::EndpointError>(())
/// ```
///
/// Twisted's `ProcessEndpoint`.
#[derive(Clone, Debug)]
pub struct ProcessClient {
    /// The command that each connect starts.
    pub command: Command,
    /// The fate of the program when its connection is lost.
    pub when_lost: WhenLost,
}

impl ProcessClient {
    /// Starts this program for each connect, and connects to its standard input and output: its output
    /// is received, and written bytes are its input. Standard error is ours, unless the command
    /// redirects it.
    ///
    /// `lose_write_connection` closes its input; the end of its output is `read_closed`. A program
    /// that closes its input earlier ends only that direction
    /// ([`Transport::write_error`]): its output is received to the end. The program and the connection
    /// end together: see [`WhenLost`]. [`Process::of`](crate::process::Process::of) returns the
    /// program. A connect fails with [`SpawnError`](crate::process::SpawnError). Only on Unix.
    ///
    /// ```
    /// use couplet::endpoints::ProcessClient;
    /// use couplet::process::Command;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Shout;
    /// impl Protocol for Shout {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write("Rose is a rose");
    ///         transport.lose_write_connection();
    ///     }
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         assert_eq!(data, b"ROSE IS A ROSE");
    ///         transport.reactor().stop();
    ///     }
    /// }
    ///
    /// couplet::run(|reactor| {
    ///     let shout = ProcessClient::new(Command::new("tr").args(["a-z", "A-Z"]));
    ///     reactor.connect(shout, || Shout).detach();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    #[must_use]
    pub fn new(command: Command) -> ProcessClient {
        ProcessClient { command, when_lost: WhenLost::default() }
    }

    /// Sets the fate of the program when its connection is lost.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use couplet::endpoints::ProcessClient;
    /// use couplet::process::{Command, WhenLost};
    ///
    /// // Killed a tenth of a second after it was asked to end.
    /// let lost = WhenLost::End(Duration::from_millis(100));
    /// let sleeping = ProcessClient::new(Command::new("sleep").arg("1000")).when_lost(lost);
    /// ```
    #[must_use]
    pub fn when_lost(mut self, when_lost: WhenLost) -> ProcessClient {
        self.when_lost = when_lost;
        self
    }
}

impl ClientEndpoint for ProcessClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        let command = self.command.clone();
        let connecting = reactor.connect_process(command, self.when_lost, factory);
        connecting.map(|connection| connection.transport())
    }
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let form = parts.form("COMMAND, a program and its arguments");
    let part = parts.positional().ok_or_else(|| parts.missing("command", &form))?;
    let mut words = split_command(&part)?.into_iter();
    let program = words.next().ok_or_else(|| part.error("expected a program"))?;
    let mut command = Command::new(program).args(words);
    if let Some(directory) = parts.keyword("directory") {
        command = command.current_dir(directory.text());
    }
    if let Some(uid) = parts.keyword("uid") {
        command = command.uid(uid.system_id()?);
    }
    if let Some(gid) = parts.keyword("gid") {
        command = command.gid(gid.system_id()?);
    }
    let stderr = parts.keyword("stderr");
    if let Some(stderr) = &stderr {
        command = command.descriptor(2, parse_stderr(stderr)?);
    }
    if parts.flag("pty")?.unwrap_or(false) {
        if let Some(stderr) = stderr {
            return Err(stderr.error("with pty=yes the standard error is the terminal"));
        }
        command = command.terminal(WindowSize::default());
    }
    let when_lost = when_lost(parts)?;
    Ok(Arc::new(ProcessClient { command, when_lost }))
}

fn when_lost(parts: &mut Parts) -> Result<WhenLost, EndpointError> {
    let kill = parts.keyword("kill");
    let keep = parts.flag("keep")?.unwrap_or(false);
    match kill {
        Some(kill) if keep => Err(kill.error("with keep=yes the program is not killed")),
        Some(kill) => Ok(WhenLost::End(kill.seconds()?)),
        None if keep => Ok(WhenLost::Keep),
        None => Ok(WhenLost::default()),
    }
}

fn parse_stderr(part: &Part) -> Result<ChildFd, EndpointError> {
    match part.text() {
        "inherit" => Ok(ChildFd::Inherit(2)),
        "stdout" => Ok(ChildFd::SameAs(1)),
        "null" => Ok(ChildFd::Null),
        _ => Err(part.error("expected inherit, stdout or null")),
    }
}

/// Splits a command into words like a shell, without expanding anything.
fn split_command(part: &Part) -> Result<Vec<String>, EndpointError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = None;
    let mut letters = part.text().chars();
    while let Some(letter) = letters.next() {
        match (letter, quoted) {
            ('\0', _) => return Err(part.error("a command must not contain a NUL")),
            (quote, Some(open)) if quote == open => quoted = None,
            (letter, Some(_)) => word.get_or_insert_default().push(letter),
            ('\'' | '"', None) => {
                word.get_or_insert_default();
                quoted = Some(letter);
            }
            ('\\', None) => word.get_or_insert_default().extend(letters.next()),
            (' ', None) => words.extend(word.take()),
            (letter, None) => word.get_or_insert_default().push(letter),
        }
    }
    if quoted.is_some() {
        return Err(part.error("unclosed quote"));
    }
    words.extend(word);
    Ok(words)
}

impl fmt::Display for ProcessClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process:{}", escaped(&self.command.to_string()))?;
        let (directory, uid, gid) = self.command.directory_and_user();
        if let Some(directory) = directory {
            write!(f, ":directory={}", escaped(&directory.to_string_lossy()))?;
        }
        for (key, id) in [("uid", uid), ("gid", gid)] {
            id.iter().try_for_each(|id| write!(f, ":{key}={id}"))?;
        }
        match self.command.descriptor_at(2) {
            Some(ChildFd::SameAs(1)) => write!(f, ":stderr=stdout")?,
            Some(ChildFd::Null) => write!(f, ":stderr=null")?,
            _ => {}
        }
        if self.command.has_terminal() {
            write!(f, ":pty=yes")?;
        }
        match self.when_lost {
            lost if lost == WhenLost::default() => Ok(()),
            WhenLost::End(grace) => write!(f, ":kill={}", Seconds(grace)),
            WhenLost::Keep => write!(f, ":keep=yes"),
        }
    }
}
