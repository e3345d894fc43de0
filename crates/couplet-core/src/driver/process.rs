//! Child processes: the [`Command`] that describes one, and the process that a world starts from
//! it.
//!
//! Contract: 145b, 145c, 146a, 147, 150, 150a, 150c, 151, 154c.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};

pub use couplet_os::process::Resource;
use couplet_os::process::{self, Running, SIGNALS, Session, Setup};

use super::Adopted;
use crate::sorted::SortedMap;

/// The variables by which systemd addresses one process: for its readiness and watchdog, its sockets,
/// and its descriptor store.
const OF_THIS_PROCESS: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "FDSTORE",
];

/// A program to start, with its environment, descriptors, user and limits: see
/// [`Reactor::spawn_process`](crate::Reactor::spawn_process).
///
/// Unless set otherwise, the child inherits our environment, directory and user; its descriptors 0
/// to 2 are pipes to us, and it has no others. The variables by which systemd addresses this process
/// are not inherited: `NOTIFY_SOCKET`, `WATCHDOG_*`, `LISTEN_*` and `FDSTORE`.
///
/// ```
/// use couplet::process::{ChildFd, Command};
///
/// let command = Command::new("/bin/sh")
///     .args(["-c", "echo $POEM >&3"])
///     .env("POEM", "Rose is a rose")
///     .descriptor(3, ChildFd::FromChild);
/// assert_eq!(command.to_string(), "/bin/sh -c 'echo $POEM >&3'");
/// ```
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    /// Changes of our environment, in order.
    env: Vec<EnvChange>,
    directory: Option<PathBuf>,
    descriptors: SortedMap<i32, ChildFd>,
    terminal: Option<WindowSize>,
    /// Standard input and output are one connection.
    is_stream: bool,
    user: User,
    umask: Option<u32>,
    session: Session,
    death_signal: Option<ProcessSignal>,
    limits: Vec<(Resource, u64, u64)>,
}

#[derive(Clone, Debug)]
enum EnvChange {
    Clear,
    Set(OsString, OsString),
    Remove(OsString),
}

#[derive(Clone, Debug, Default)]
struct User {
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
}

/// The kind of a child's descriptor.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChildFd {
    /// A pipe that we write to and the child reads. Twisted's `"w"`.
    ToChild,
    /// A pipe that the child writes to and we read. Twisted's `"r"`.
    FromChild,
    /// A descriptor that we inherited under this number. To pass a descriptor that this program
    /// opened, use [`File`](Self::File).
    Inherit(i32),
    /// A duplicate of another descriptor of the child, such as 1 for `2>&1`: output to both arrives
    /// in the order of the writes.
    SameAs(i32),
    /// The null device.
    Null,
    /// A file, or any other open descriptor.
    File(Arc<OwnedFd>),
}

impl<F: Into<OwnedFd>> From<F> for ChildFd {
    fn from(file: F) -> ChildFd {
        ChildFd::File(Arc::new(file.into()))
    }
}

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Number of lines.
    pub rows: u16,
    /// Number of characters in a line.
    pub columns: u16,
}

impl Default for WindowSize {
    fn default() -> WindowSize {
        WindowSize { rows: 24, columns: 80 }
    }
}

impl Command {
    /// This program, without arguments. A name without a slash is looked up in our `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        Command {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            descriptors: SortedMap::from_iter([
                (0, ChildFd::ToChild),
                (1, ChildFd::FromChild),
                (2, ChildFd::FromChild),
            ]),
            terminal: None,
            is_stream: false,
            user: User::default(),
            umask: None,
            session: Session::Inherited,
            death_signal: None,
            limits: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable of the child.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push(EnvChange::Set(name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push(EnvChange::Remove(name.as_ref().to_owned()));
        self
    }

    /// Starts with an empty environment, instead of ours.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env = vec![EnvChange::Clear];
        self
    }

    /// Sets the child's working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Sets a descriptor of the child, by number. Twisted's `childFDs`.
    #[must_use]
    pub fn descriptor(mut self, number: i32, descriptor: impl Into<ChildFd>) -> Self {
        self.descriptors.insert(number, descriptor.into());
        self
    }

    /// Leaves this descriptor closed in the child.
    #[must_use]
    pub fn closed(mut self, number: i32) -> Self {
        self.descriptors.remove(&number);
        self
    }

    /// Lets the child inherit our standard input, output and error.
    #[must_use]
    pub fn inherit_stdio(self) -> Self {
        (0..3).fold(self, |command, number| command.descriptor(number, ChildFd::Inherit(number)))
    }

    /// Connects descriptors 0, 1 and 2 to a terminal of this size, the controlling terminal of a
    /// new session. Everything the child writes there arrives as output, and our writes are echoed,
    /// as on any terminal. Twisted's `usePTY`.
    #[must_use]
    pub fn terminal(mut self, size: WindowSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Runs the child as this user, by number, and without supplementary groups, unless
    /// [`groups`](Self::groups) sets them.
    #[must_use]
    pub fn uid(mut self, uid: u32) -> Self {
        self.user.uid = Some(uid);
        self
    }

    /// Runs the child in this group, by number.
    #[must_use]
    pub fn gid(mut self, gid: u32) -> Self {
        self.user.gid = Some(gid);
        self
    }

    /// Sets the child's supplementary groups.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.user.groups = Some(groups.into_iter().collect());
        self
    }

    /// Sets the child's file mode creation mask.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// Puts the child into this process group; 0 creates a new group, which can be signalled as a
    /// whole.
    #[must_use]
    pub fn process_group(mut self, group: i32) -> Self {
        self.session = Session::Group(group);
        self
    }

    /// Makes the child the leader of a new session (`setsid`), without a terminal.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.session = Session::New;
        self
    }

    /// Sends the child this signal when the loop's thread ends, for any reason
    /// (`PR_SET_PDEATHSIG`). Linux only; ignored elsewhere.
    #[must_use]
    pub fn death_signal(mut self, signal: impl Into<ProcessSignal>) -> Self {
        self.death_signal = Some(signal.into());
        self
    }

    /// Limits the child's use of a resource. The child may raise the soft limit up to the hard one.
    #[must_use]
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.limits.push((resource, soft, hard));
        self
    }

    /// Makes the child lead a process group, unless it joins one, and kills it when the loop's
    /// thread ends.
    pub(crate) fn into_dependent(mut self) -> Self {
        if matches!(self.session, Session::Inherited) {
            self.session = Session::Group(0);
        }
        self.death_signal.get_or_insert(ProcessSignal::KILL);
        self
    }

    /// Joins standard input and output into one connection, at descriptor 1. Standard error is
    /// ours, unless it is redirected.
    pub(crate) fn into_stream(mut self) -> Self {
        if matches!(self.descriptors.get(&2), Some(ChildFd::FromChild)) {
            self = self.descriptor(2, ChildFd::Inherit(2));
        }
        self.is_stream = true;
        self.descriptor(0, ChildFd::ToChild).descriptor(1, ChildFd::FromChild)
    }

    pub(crate) fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Whether the child leads a new process group.
    pub(crate) fn leads_group(&self) -> bool {
        let is_own = matches!(self.session, Session::New | Session::Group(0));
        is_own || self.has_terminal()
    }

    /// The arguments, as text.
    #[cfg(feature = "testing")]
    pub(crate) fn arguments(&self) -> Vec<String> {
        self.args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }

    /// Whether standard error is a pipe. Fails unless the command fits a simulation, which has only
    /// pipes for input, output and errors.
    #[cfg(feature = "testing")]
    pub(crate) fn has_simulated_pipes(&self) -> io::Result<bool> {
        let is_piped =
            |number, what: fn(&ChildFd) -> bool| self.descriptors.get(&number).is_some_and(what);
        let has_stdio = is_piped(0, |fd| matches!(fd, ChildFd::ToChild))
            && is_piped(1, |fd| matches!(fd, ChildFd::FromChild));
        let is_shared = is_piped(2, |fd| matches!(fd, ChildFd::SameAs(_) | ChildFd::ToChild));
        let has_others = self.descriptors.keys().any(|number| !(0..=2).contains(number));
        if self.terminal.is_some() || !has_stdio || is_shared || has_others {
            let text =
                "cannot simulate the process: it may have only pipes for input, output and errors";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        Ok(is_piped(2, |fd| matches!(fd, ChildFd::FromChild)))
    }

    /// The descriptor of the child with this number.
    pub(crate) fn descriptor_at(&self, number: i32) -> Option<&ChildFd> {
        self.descriptors.get(&number)
    }

    /// Directory, user and group, where they differ from ours.
    pub(crate) fn directory_and_user(&self) -> (Option<&Path>, Option<u32>, Option<u32>) {
        (self.directory.as_deref(), self.user.uid, self.user.gid)
    }

    /// The program.
    pub fn program(&self) -> &OsStr {
        &self.program
    }

    fn setup(&self) -> Setup {
        Setup {
            groups: self.user.groups.clone(),
            gid: self.user.gid,
            uid: self.user.uid,
            umask: self.umask,
            session: self.terminal.map_or(self.session, |_| Session::NewWithTerminal),
            death_signal: self.death_signal.map(ProcessSignal::number),
            limits: self.limits.clone(),
            ..Setup::default()
        }
    }

    fn to_std(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args);
        for name in OF_THIS_PROCESS {
            command.env_remove(name);
        }
        for change in &self.env {
            match change {
                EnvChange::Clear => command.env_clear(),
                EnvChange::Set(name, value) => command.env(name, value),
                EnvChange::Remove(name) => command.env_remove(name),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// In shell syntax.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
            !text.is_empty() && text.chars().all(plain)
        };
        for (at, word) in std::iter::once(&self.program).chain(&self.args).enumerate() {
            let word = word.to_string_lossy().replace(char::is_control, "?");
            let space = if at == 0 { "" } else { " " };
            match is_plain(&word) {
                true => write!(f, "{space}{word}")?,
                false => write!(f, "{space}'{}'", word.replace('\'', "'\\''"))?,
            }
        }
        Ok(())
    }
}

/// A signal, by number. Convert it from a number, or parse a name: `"TERM"`, `"SIGTERM"`.
///
/// ```
/// use couplet::process::ProcessSignal;
///
/// assert_eq!("SIGTERM".parse(), Ok(ProcessSignal::TERM));
/// assert_eq!(ProcessSignal::KILL.to_string(), "SIGKILL");
/// assert_eq!(ProcessSignal::from(9), ProcessSignal::KILL);
/// assert!("POEM".parse::<ProcessSignal>().is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessSignal(i32);

/// No signal has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown signal name {0:?}")]
pub struct NoSuchSignal(String);

impl ProcessSignal {
    /// SIGHUP.
    pub const HUP: ProcessSignal = ProcessSignal(1);
    /// SIGINT.
    pub const INT: ProcessSignal = ProcessSignal(2);
    /// SIGQUIT.
    pub const QUIT: ProcessSignal = ProcessSignal(3);
    /// SIGKILL.
    pub const KILL: ProcessSignal = ProcessSignal(9);
    /// SIGTERM.
    pub const TERM: ProcessSignal = ProcessSignal(15);

    /// The signal's number on this system.
    pub fn number(self) -> i32 {
        self.0
    }

    fn name(self) -> Option<&'static str> {
        SIGNALS.iter().find(|(_, number)| *number == self.0).map(|(name, _)| *name)
    }
}

impl From<i32> for ProcessSignal {
    fn from(number: i32) -> ProcessSignal {
        ProcessSignal(number)
    }
}

impl FromStr for ProcessSignal {
    type Err = NoSuchSignal;

    fn from_str(text: &str) -> Result<ProcessSignal, NoSuchSignal> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let known = SIGNALS.iter().find(|(known, _)| *known == name);
        known.map(|(_, number)| ProcessSignal(*number)).ok_or_else(|| NoSuchSignal(text.to_owned()))
    }
}

impl fmt::Display for ProcessSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl fmt::Debug for ProcessSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a process ended. Twisted's `ProcessDone` and `ProcessTerminated`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProcessEnd {
    /// Exited with this code; 0 means success.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The signal.
        signal: ProcessSignal,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// The system did not report how: other code in this program waits for all children, or ignores
    /// SIGCHLD.
    Unknown(Arc<io::Error>),
    /// The loop ended first; the process keeps running.
    LeftRunning,
}

impl ProcessEnd {
    /// Whether the process exited with code 0.
    pub fn is_success(&self) -> bool {
        matches!(self, ProcessEnd::Exited(0))
    }

    /// The exit code.
    pub fn code(&self) -> Option<i32> {
        match self {
            ProcessEnd::Exited(code) => Some(*code),
            _ => None,
        }
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<ProcessSignal> {
        match self {
            ProcessEnd::Signaled { signal, .. } => Some(*signal),
            _ => None,
        }
    }

    fn from_status(status: ExitStatus) -> ProcessEnd {
        match (status.code(), status.signal()) {
            (Some(code), _) => ProcessEnd::Exited(code),
            (None, Some(signal)) => {
                ProcessEnd::Signaled { signal: signal.into(), core_dumped: status.core_dumped() }
            }
            (None, None) => {
                let text = format!("unexpected exit status: {status}");
                ProcessEnd::Unknown(Arc::new(io::Error::other(text)))
            }
        }
    }
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProcessEnd::Exited(0) => write!(f, "the process exited cleanly"),
            ProcessEnd::Exited(code) => write!(f, "the process exited with code {code}"),
            ProcessEnd::Signaled { signal, core_dumped } => {
                let core = if *core_dumped { " and dumped core" } else { "" };
                write!(f, "the process was ended by {signal}{core}")
            }
            ProcessEnd::Unknown(error) => {
                write!(f, "the process has ended, but its exit status is unknown: {error}")
            }
            ProcessEnd::LeftRunning => {
                write!(f, "the loop has ended, but the process keeps running")
            }
        }
    }
}

/// A process started by a world.
#[derive(Debug)]
#[non_exhaustive]
pub struct Spawned {
    /// Our ends of the child's pipes, by its descriptor numbers. A terminal is at 1.
    pub pipes: Vec<(i32, Adopted)>,
    /// The child's standard input.
    pub input: ChildInput,
    /// The process.
    pub child: ChildProcess,
}

/// The standard input of a child.
#[derive(Debug)]
pub enum ChildInput {
    /// A separate pipe, or no pipe of ours.
    Separate,
    /// The pipe at 1, which is the standard output too.
    Joined,
    /// The pseudoterminal at 1; our side of it, used to set the window size.
    Terminal(OwnedFd),
}

/// A started process.
#[derive(Debug)]
pub struct ChildProcess(pub(crate) ChildKind);

/// Whether the process is the system's or a world's.
#[derive(Debug)]
pub(crate) enum ChildKind {
    System(SystemProcess),
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "only simulations have some"))]
    World(Rc<dyn WorldProcess>),
}

impl ChildProcess {
    /// A process of a world that has its own programs.
    #[cfg(feature = "testing")]
    pub(crate) fn from_world(process: impl WorldProcess + 'static) -> ChildProcess {
        ChildProcess(ChildKind::World(Rc::new(process)))
    }

    /// The parent's handle.
    pub(crate) fn handle(&self) -> ProcessHandle {
        match &self.0 {
            ChildKind::System(process) => ProcessHandle::System(process.running.pid()),
            ChildKind::World(process) => ProcessHandle::World(process.clone()),
        }
    }
}

/// A process of a world other than the system's.
pub trait WorldProcess: fmt::Debug {
    /// The process ID.
    fn pid(&self) -> u32;

    /// Sends a signal to the process.
    fn signal(&self, signal: ProcessSignal) -> io::Result<()>;

    /// How the process ended, once it has.
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<ProcessEnd>;

    /// Whether the program that started it is still running.
    fn has_parent(&self) -> bool;
}

/// A process that signals can be sent to.
#[derive(Debug)]
pub(crate) enum ProcessHandle {
    System(u32),
    World(Rc<dyn WorldProcess>),
}

impl ProcessHandle {
    pub(crate) fn pid(&self) -> u32 {
        match self {
            ProcessHandle::System(pid) => *pid,
            ProcessHandle::World(process) => process.pid(),
        }
    }

    /// Sends a signal. A process of the system is not reaped yet, so its number can't be reused.
    pub(crate) fn signal(&self, signal: ProcessSignal) -> io::Result<()> {
        match self {
            ProcessHandle::System(pid) => process::send_signal(pid.cast_signed(), signal.0),
            ProcessHandle::World(process) => process.signal(signal),
        }
    }

    /// Sends a signal to the process group that it leads. In other worlds the signal reaches only
    /// the process, which takes its own children along when it ends.
    pub(crate) fn signal_group(&self, signal: ProcessSignal) -> io::Result<()> {
        match self {
            ProcessHandle::System(pid) => process::send_signal(-pid.cast_signed(), signal.0),
            ProcessHandle::World(process) => process.signal(signal),
        }
    }
}

/// A child of ours, whose descriptor becomes readable once it has exited.
#[derive(Debug)]
pub(crate) struct SystemProcess {
    running: Running,
    ended: OwnedFd,
}

impl SystemProcess {
    /// How the process ended, once it has. Reported once.
    pub(crate) fn end(&mut self) -> Option<ProcessEnd> {
        match self.running.end() {
            Ok(status) => status.map(ProcessEnd::from_status),
            Err(error) => Some(ProcessEnd::Unknown(Arc::new(error))),
        }
    }
}

impl AsFd for SystemProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

/// The child's descriptors, and our ends.
struct ChildDescriptors {
    theirs: SortedMap<i32, OwnedFd>,
    ours: SortedMap<i32, super::Pipe>,
    terminal: Option<OwnedFd>,
}

impl ChildDescriptors {
    fn for_command(command: &Command) -> io::Result<ChildDescriptors> {
        let mut plumbing =
            ChildDescriptors { theirs: SortedMap::new(), ours: SortedMap::new(), terminal: None };
        if let Some(size) = command.terminal {
            plumbing.open_terminal(size)?;
        }
        let is_same = |what: &ChildFd| matches!(what, ChildFd::SameAs(_));
        let all = || command.descriptors.iter().map(|(number, what)| (*number, what));
        let (others, same) = (all().filter(|(_, what)| !is_same(what)), all());
        for (number, what) in others.chain(same.filter(|(_, what)| is_same(what))) {
            if command.terminal.is_none() || number > 2 {
                plumbing.open(number, what)?;
            }
        }
        if command.is_stream
            && let (Some(input), Some(output)) =
                (plumbing.ours.remove(&0), plumbing.ours.get_mut(&1))
        {
            output.writer = input.writer;
        }
        let name = |number: i32| match (number, command.terminal) {
            (1, _) if command.is_stream => format!("process:{command}"),
            (1, Some(_)) => format!("process:{command} (terminal)"),
            _ => format!("process:{command} (descriptor {number})"),
        };
        let ours = std::mem::take(&mut plumbing.ours).into_iter();
        plumbing.ours = ours.map(|(number, pipe)| (number, pipe.named(name(number)))).collect();
        Ok(plumbing)
    }

    fn open(&mut self, number: i32, what: &ChildFd) -> io::Result<()> {
        if number < 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let theirs = match what {
            ChildFd::ToChild => {
                let (reader, writer) = io::pipe()?;
                self.ours.insert(number, super::Pipe::writer(writer));
                reader.into()
            }
            ChildFd::FromChild => {
                let (reader, writer) = io::pipe()?;
                self.ours.insert(number, super::Pipe::reader(reader));
                writer.into()
            }
            ChildFd::Inherit(ours) => couplet_os::descriptor::inherited(*ours)?,
            ChildFd::SameAs(other) => match self.theirs.get(other) {
                Some(other) => other.try_clone()?,
                None => {
                    let text = format!(
                        "cannot set descriptor {number}: the child has no descriptor {other}"
                    );
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
                }
            },
            ChildFd::Null => {
                std::fs::File::options().read(true).write(true).open("/dev/null")?.into()
            }
            ChildFd::File(file) => file.try_clone()?,
        };
        self.theirs.insert(number, theirs);
        Ok(())
    }

    /// Opens a pair of pseudoterminals: the child gets one side, as descriptors 0, 1 and 2.
    fn open_terminal(&mut self, size: WindowSize) -> io::Result<()> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        set_window_size(ours.as_fd(), size)?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let name = ptsname(&ours, Vec::new())?;
        let theirs = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty())?;
        self.theirs.insert(0, theirs.try_clone()?);
        self.theirs.insert(1, theirs.try_clone()?);
        self.theirs.insert(2, theirs);
        self.terminal = Some(ours.try_clone()?);
        self.ours.insert(1, super::Pipe::duplex(ours)?);
        Ok(())
    }
}

/// Sets the size of a terminal's window; SIGWINCH notifies the programs in it.
pub(crate) fn set_window_size(terminal: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Starts a command on this system. `adopt` takes our ends of the pipes.
pub(super) fn spawn(
    command: &Command,
    mut adopt: impl FnMut(super::Pipe) -> io::Result<Adopted>,
) -> io::Result<Spawned> {
    let ChildDescriptors { mut theirs, ours, terminal } = ChildDescriptors::for_command(command)?;
    let (mut setup, mut std) = (command.setup(), command.to_std());
    let mut stdio = |number: i32| match theirs.remove(&number) {
        Some(theirs) => Stdio::from(theirs),
        None => {
            setup.closed[number as usize] = true;
            Stdio::null()
        }
    };
    std.stdin(stdio(0)).stdout(stdio(1)).stderr(stdio(2));
    setup.descriptors = theirs.into_iter().map(|(number, theirs)| (theirs, number)).collect();
    // Before the child starts, while a failure can still be returned.
    let pipes = ours.into_iter().map(|(number, pipe)| Ok((number, adopt(pipe)?)));
    let pipes = pipes.collect::<io::Result<Vec<(i32, Adopted)>>>()?;
    let running = Running::new(process::spawn(&mut std, setup)?);
    let ended = match process::end_descriptor(running.pid()) {
        Ok(ended) => ended,
        Err(error) => {
            // A child whose end cannot be noticed must not stay.
            let _ = process::send_signal(running.pid().cast_signed(), ProcessSignal::KILL.0);
            return Err(error);
        }
    };
    let child = ChildProcess(ChildKind::System(SystemProcess { running, ended }));
    let input = terminal.map_or(ChildInput::Separate, ChildInput::Terminal);
    Ok(Spawned { pipes, input, child })
}
