//! Programs that tests run, and the Python packages of some. A missing one is a visible skip for a
//! developer, and a failure in CI.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Reports that a test is skipped for lack of `what`; panics in CI.
pub fn missing(what: impl Display) {
    assert!(std::env::var_os("CI").is_none(), "CI lacks {what}");
    skipped(what);
}

/// Reports a skip, in CI too: for requirements that a machine cannot install.
pub fn skipped(what: impl Display) {
    // Not `eprintln`, whose output the harness captures when a test passes. In one write, because
    // other tests write too.
    let _ = io::stderr().write_all(format!("skipped: there is no {what} here\n").as_bytes());
}

/// True if `program` is installed. Several makers have an `nc`; the tests know the options of OpenBSD's.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Only there: the tests start it by its name.
    let mut folders = std::env::split_paths(&path);
    let found = folders.any(|folder| folder.join(program).is_file());
    let is_known = || program != "nc" || help_of(program).contains("OpenBSD");
    match (found, found && is_known()) {
        (false, _) => missing(program),
        (true, false) => missing(format_args!("{program} of OpenBSD")),
        (true, true) => return true,
    }
    false
}

/// What `program -h` prints, which names the maker.
fn help_of(program: &str) -> String {
    let ended = Command::new(program).arg("-h").stdin(Stdio::null()).output();
    let said = ended.map(|ended| [ended.stdout, ended.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&said).into_owned()
}

/// Ends the test unless these programs are installed.
#[macro_export]
macro_rules! needs {
    ($($program:expr),+) => {
        if !($($crate::needed::has($program))&&+) {
            return;
        }
    };
}

/// The packages of a Python environment, which `venv.sh` creates once in the target folder.
pub struct Venv {
    /// The name of its folder.
    pub name: &'static str,
    /// Modules that Python imports from it, separated by commas.
    pub modules: &'static str,
    /// Packages in pip's notation.
    pub packages: &'static [&'static str],
}

impl Venv {
    /// The path of its interpreter, or why it has none. Runs under a lock, so that concurrent tests
    /// wait.
    pub fn python(&self) -> Result<PathBuf, String> {
        let target = built("../../tmp");
        std::fs::create_dir_all(&target).map_err(|error| error.to_string())?;
        let folder = target.join(format!("{}-venv", self.name));
        let lock = File::create(target.join(format!("{}-venv.lock", self.name)))
            .and_then(|lock| lock.lock().map(|()| lock));
        let _lock = lock.map_err(|error| error.to_string())?;
        let mut script = Command::new("sh");
        script.args(["-c", include_str!("venv.sh"), "venv.sh"]).arg(&folder);
        succeed(script.arg(self.modules).args(self.packages))?;
        Ok(folder.join("bin/python"))
    }
}

/// True if this machine has IPv6, at least on its loopback interface; otherwise the test is skipped
/// like a test whose program is missing.
pub fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        missing("IPv6");
    }
    has
}

/// The addresses of loopback in each family of this machine, IPv4 first.
pub fn loopbacks() -> Vec<IpAddr> {
    let v6 = has_ipv6().then_some(Ipv6Addr::LOCALHOST.into());
    [Ipv4Addr::LOCALHOST.into()].into_iter().chain(v6).collect()
}

/// A path that is relative to the folder of the tests' build.
pub fn built(path: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a test has a path");
    this.parent().expect("a folder").join(path)
}

/// Runs a command to completion; the error is its last line on stderr.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let ended = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&ended.stderr);
    Err(stderr.lines().last().map_or_else(|| ended.status.to_string(), str::to_owned))
}
