//! Redis.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use super::{end, on_free_port, signal, wait_for};
use crate::needed::{Folder, missing};

/// The server's kind of socket.
#[derive(Clone, Copy)]
pub(crate) enum Socket {
    Tcp,
    Unix,
}

/// A running server without persistence.
pub(crate) struct Server {
    child: Child,
    port: Option<u16>,
    folder: Folder,
}

impl Server {
    /// Starts a server; `None` if Redis is not installed.
    pub(crate) fn start(socket: Socket) -> Option<Server> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|folder| folder.join("redis-server").is_file()) {
            missing("redis-server");
            return None;
        }
        let folder = Folder::new();
        let (child, port) = match socket {
            Socket::Unix => (serve(&folder, None).expect("it starts"), None),
            Socket::Tcp => on_free_port(|port| Ok((serve(&folder, Some(port))?, Some(port)))),
        };
        Some(Server { child, port, folder })
    }

    pub(crate) fn url(&self) -> String {
        match self.port {
            Some(port) => format!("redis://127.0.0.1:{port}"),
            None => format!("redis+unix://{}", self.socket().display()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("redis")
    }

    /// Kills it without a warning.
    pub(crate) fn kill(&mut self) {
        end(&mut self.child, Signal::KILL);
    }

    /// Suspends it until [`go_on`](Self::go_on).
    pub(crate) fn pause(&self) {
        signal(&self.child, Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        signal(&self.child, Signal::CONT);
    }

    /// Starts it again on the same port or socket.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        self.child = serve(&self.folder, self.port).expect("it starts again");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(folder: &Path, port: Option<u16>) -> Result<Child, String> {
    let mut serve = Command::new("redis-server");
    serve.current_dir(folder).args(["--save", "", "--appendonly", "no"]);
    serve.args(["--bind", "127.0.0.1", "--port", &port.unwrap_or(0).to_string()]);
    if port.is_none() {
        serve.arg("--unixsocket").arg(folder.join("redis"));
    }
    let child = serve.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("it starts");
    // Printed for a port and for a socket.
    let ready = wait_for("accept connections", child.stdout.take().expect("piped"));
    if ready.is_err() {
        end(&mut child, Signal::KILL);
    }
    ready.map(|()| child)
}
