//! PostgreSQL.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::needed::{Folder, missing};
use crate::servers::{end, on_free_port, started};
use rustix::process::{Signal, getuid};

/// A running server, on a UNIX socket in its folder, and optionally on a TCP port.
pub struct Server {
    child: Child,
    programs: PathBuf,
    port: Option<u16>,
    folder: Folder,
}

impl Server {
    /// Starts a server; `None` if PostgreSQL is not installed.
    pub fn start() -> Option<Server> {
        let (programs, folder) = made()?;
        let child = serve(&programs, &folder, None, &[]).expect("it starts");
        Some(Server { child, programs, port: None, folder })
    }

    /// Starts a server that also listens on 127.0.0.1.
    pub fn start_on_tcp() -> Option<Server> {
        Server::start_with(None)
    }

    /// Starts a server that listens on 127.0.0.1 and accepts encrypted connections with this
    /// certificate and key.
    pub fn start_with_tls(pem: &str) -> Option<Server> {
        Server::start_with(Some(pem))
    }

    fn start_with(pem: Option<&str>) -> Option<Server> {
        let (programs, folder) = made()?;
        let options = match pem {
            Some(pem) => {
                write_secret(&folder, "tls.pem", pem);
                // Paths relative to its data folder.
                &["ssl=on", "ssl_cert_file=../tls.pem", "ssl_key_file=../tls.pem"][..]
            }
            None => &[],
        };
        let started = |port| Ok((serve(&programs, &folder, Some(port), options)?, port));
        let (child, port) = on_free_port(started);
        Some(Server { child, programs, port: Some(port), folder })
    }

    /// Stops the server with a fast shutdown: connections are notified, and transactions rolled back.
    pub fn stop(&mut self) {
        end(&mut self.child, Signal::INT);
    }

    /// Starts the server again with the same data.
    pub fn start_again(&mut self) {
        self.stop();
        let child = serve(&self.programs, &self.folder, self.port, &[]);
        self.child = child.expect("it starts again");
    }

    /// The URL of the server's TCP port, or else of its socket.
    pub fn url(&self) -> String {
        match self.port {
            Some(port) => format!("postgres://couplet@127.0.0.1:{port}/postgres"),
            None => {
                let folder = self.folder.display().to_string().replace('/', "%2F");
                format!("postgres://couplet@{folder}/postgres")
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child, Signal::INT);
    }
}

/// The folder of the server's programs, and a folder with an empty database.
fn made() -> Option<(PathBuf, Folder)> {
    let Some(programs) = programs() else {
        missing("PostgreSQL");
        return None;
    };
    let folder = Folder::new();
    if let Some((user, group)) = unprivileged() {
        chown(&*folder, Some(user), Some(group)).expect("root may");
    }
    let mut init = command(&programs, &folder, "initdb");
    init.args(["--no-sync", "--auth=trust", "--username=couplet", "--pgdata=data"]);
    let made = init.output().expect("it starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Some((programs, folder))
}

fn command(programs: &Path, folder: &Path, program: &str) -> Command {
    let mut command = Command::new(programs.join(program));
    command.current_dir(folder).env("LC_ALL", "C").stdin(Stdio::null());
    if let Some((user, group)) = unprivileged() {
        command.uid(user).gid(group);
    }
    command
}

/// Writes a file that only the server may read.
fn write_secret(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a folder of ours");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("it is ours");
    if let Some((user, group)) = unprivileged() {
        chown(&path, Some(user), Some(group)).expect("root may");
    }
}

fn serve(
    programs: &Path,
    folder: &Path,
    port: Option<u16>,
    options: &[&str],
) -> Result<Child, String> {
    let mut serve = command(programs, folder, "postgres");
    serve.args(["-D", "data", "-F", "-c", "max_connections=30"]);
    match port {
        Some(port) => serve.args(["-h", "127.0.0.1", "-p", &port.to_string()]),
        None => serve.args(["-c", "listen_addresses="]),
    };
    serve.args(options.iter().flat_map(|option| ["-c", option]));
    serve.arg("-c").arg(format!("unix_socket_directories={}", folder.display()));
    Ok(started(serve, "ready to accept connections")?.0)
}

/// The folder of the server's programs; on Debian it is not in the path.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let has_both = |folder: &Path| ["initdb", "postgres"].map(|name| folder.join(name).is_file());
    std::env::split_paths(&path).chain(debian).find(|folder| has_both(folder) == [true; 2])
}

/// The user and group for servers that refuse to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let nobody =
        users.lines().find(|user| user.starts_with("nobody:")).expect("a user without rights");
    let mut numbers = nobody.split(':').skip(2).map(|number| number.parse().expect("a number"));
    numbers.next().zip(numbers.next())
}
