//! A server of PostgreSQL for each test, on a UNIX socket in a folder of its own.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, getuid, kill_process};

use super::Folder;
use crate::needed::missing;

/// A running server. It is stopped when dropped.
struct Server {
    child: Child,
    folder: Folder,
}

impl Server {
    /// A missing PostgreSQL is a visible skip, and an error in CI.
    fn start() -> Option<Server> {
        let Some(programs) = programs() else {
            missing("PostgreSQL");
            return None;
        };
        let folder = Folder::new();
        let nobody = unprivileged();
        if let Some((user, group)) = nobody {
            chown(folder.path(), Some(user), Some(group)).expect("root may");
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder.path()).env("LC_ALL", "C").stdin(Stdio::null());
            if let Some((user, group)) = nobody {
                command.uid(user).gid(group);
            }
            command
        };
        let mut init = command("initdb");
        init.args(["--no-sync", "--auth=trust", "--username=couplet", "--pgdata=data"]);
        let made = init.output().expect("it starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut serve = command("postgres");
        serve.args(["-D", "data", "-F", "-c", "listen_addresses="]);
        serve.arg("-c").arg(format!("unix_socket_directories={}", folder.path().display()));
        let child = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut server = Server { child: child.expect("it starts"), folder };
        server.wait_until_ready();
        Some(server)
    }

    /// Reads its log on, so that it never waits for a reader.
    fn wait_until_ready(&mut self) {
        let mut log = BufReader::new(self.child.stderr.take().expect("piped")).lines();
        let mut said = Vec::new();
        let is_ready = log.by_ref().map_while(Result::ok).any(|line| {
            said.push(line);
            said.last().is_some_and(|line| line.contains("ready to accept connections"))
        });
        assert!(is_ready, "{}", said.join("\n"));
        thread::spawn(move || log.for_each(drop));
    }

    fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://couplet@{folder}/postgres")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = Pid::from_child(&self.child);
        // Closes the connections that are left, and ends.
        let _ = kill_process(id, Signal::INT);
        let _ = self.child.wait();
    }
}

/// The folder of its programs, which Debian keeps out of the path.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    let has_both = |folder: &Path| ["initdb", "postgres"].map(|name| folder.join(name).is_file());
    std::env::split_paths(&path).chain(debian).find(|folder| has_both(folder) == [true; 2])
}

/// The user and the group to run it as: it refuses to be root.
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

facts!(Server::start);
