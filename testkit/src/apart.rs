//! Isolation for tests: the same test in another process, and process-wide resources.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::processes::Killed;

/// Set in the process of a test that was started with [`again`].
const TOLD: &str = "COUPLET_TEST_TOLD";
const READY: &str = "the peers are ready";

/// The calling test has the process to itself while it holds this.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises the limit on descriptors to the hard limit, and returns that.
#[cfg(all(unix, feature = "system"))]
pub fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit { current: most, maximum: most };
    setrlimit(Resource::Nofile, raised).expect("a process may raise its own limit");
    most
}

/// Raises the limit on descriptors to this number. False, and a visible skip, where the system allows
/// only a smaller one.
#[must_use]
#[cfg(all(unix, feature = "system"))]
pub fn allow_descriptors(count: u64) -> bool {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    static RAISING: Mutex<()> = Mutex::new(());
    let _raising = RAISING.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.map(|most| most.max(count));
    // Only a privileged process may raise the hard limit.
    let raised = Rlimit { current: Some(count), maximum: most };
    let has_few = limit.current.is_some_and(|limit| limit < count);
    let may = !has_few || setrlimit(Resource::Nofile, raised).is_ok();
    if !may {
        crate::needed::skipped(format!("limit of {count} descriptors"));
    }
    may
}

/// The number of this process's open descriptors.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has it").count()
}

/// The argument of this process, if it runs a test [`again`].
pub fn told() -> Option<String> {
    env::var(TOLD).ok()
}

/// Runs `test` in another process, in which [`told`] returns the argument.
pub fn again(test: &str, told: impl AsRef<OsStr>) -> Command {
    again_by(&[], test, told)
}

/// Like [`again`], started by a program that gets the command as its last arguments.
pub fn again_by(program: &[&str], test: &str, told: impl AsRef<OsStr>) -> Command {
    let this = env::current_exe().expect("a test has a path");
    let mut words = program.iter().map(OsStr::new).chain([this.as_os_str()]);
    let mut command = Command::new(words.next().expect("this program at least"));
    command.args(words).args(["--include-ignored", "--exact", test, "--nocapture"]).env(TOLD, told);
    command
}

/// For a process of peers: reports that they are ready, and waits until the test
/// [ends](Running::end) the process.
pub fn ready() {
    println!("{READY}");
    let _ = io::stdin().read(&mut [0]);
}

/// A process that runs a test.
pub struct Running(Killed, BufReader<ChildStdout>);

impl Running {
    /// Starts `test` [`again`].
    pub fn start(test: &str, told: impl AsRef<OsStr>) -> Running {
        let mut command = again(test, told);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed::start(&mut command);
        let said = BufReader::new(child.stdout.take().expect("it is piped"));
        Running(child, said)
    }

    /// Starts `test` as the peers of a server, and waits until they are [`ready`].
    pub fn peers(test: &str, server: SocketAddr) -> Running {
        let mut peers = Running::start(test, server.to_string());
        peers.says(READY);
        peers
    }

    /// Waits for a line that contains `what`; returns the part after it.
    pub fn says(&mut self, what: &str) -> String {
        let mut lines = self.1.by_ref().lines().map(|line| line.expect("it prints text"));
        let rest = lines.find_map(|line| Some(line.split_once(what)?.1.to_owned()));
        rest.unwrap_or_else(|| panic!("it ended before it said: {what}"))
    }

    /// Closes stdin, and waits for the process, which must succeed.
    pub fn end(mut self) {
        let ended = self.0.wait().expect("it was started here");
        assert!(ended.success(), "{ended}");
    }
}
