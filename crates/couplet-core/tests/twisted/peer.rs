//! Finds a Python with Twisted, and runs `peer.py` as a process.

use couplet_testkit::processes::{Killed, lines};

use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, Once, OnceLock};

use crate::needed::{Venv, missing, succeed};

pub(crate) const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/twisted");
const MODULES: &str = "twisted, OpenSSL, service_identity";
const VENV: Venv = Venv { name: "twisted", modules: MODULES, packages: &["twisted[tls]>=22.10"] };

/// True if a Python with Twisted is available. Otherwise prints that the tests are skipped, or
/// panics in CI.
pub(crate) fn has_twisted() -> bool {
    match python() {
        Ok(_) => true,
        Err(why) => {
            static SAY: Once = Once::new();
            // In CI the first call panics here, and so does every other one, because the `Once` is
            // poisoned.
            SAY.call_once(|| missing(format_args!("Twisted ({why})")));
            false
        }
    }
}

/// A Python that has Twisted, or why none was found.
pub(crate) fn python() -> Result<&'static Path, &'static str> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| match std::env::var_os("TWISTED_PYTHON") {
        Some(named) => {
            let named = PathBuf::from(named);
            let import = format!("import {MODULES}");
            succeed(Command::new(&named).args(["-c", &import])).map(|()| named)
        }
        None => VENV.python(),
    });
    found.as_deref().map_err(String::as_str)
}

/// The peer's output, line by line. Clones share it, and may be used from any thread.
#[derive(Clone)]
pub(crate) struct Said(Arc<Mutex<Receiver<String>>>);

impl Said {
    /// Waits for the next line; `None` once the peer has ended.
    pub(crate) fn next(&self) -> Option<String> {
        self.0.lock().expect("no thread panics while holding it").recv().ok()
    }

    /// The remaining lines, until the peer ends.
    pub(crate) fn rest(&self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A running `peer.py`.
pub(crate) struct Peer {
    child: Killed,
    pub(crate) said: Said,
}

impl Peer {
    /// Starts `case` as a "server", or as a "client" that connects to `port`, which may be the path
    /// of a UNIX socket. `folder` has certificates for TLS.
    pub(crate) fn start(case: &str, role: &str, port: &str, folder: Option<&str>) -> Peer {
        let python = python().expect("has_twisted() was checked");
        let mut child = Command::new(python)
            .arg(format!("{HERE}/peer.py"))
            .args([case, role, port])
            .args(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a peer");
        let lines = lines(child.stdout.take().expect("piped"));
        let child = Killed(child);
        Peer { child, said: Said(Arc::new(Mutex::new(lines))) }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped, and taken once")
    }
}
