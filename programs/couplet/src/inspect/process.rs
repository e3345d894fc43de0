//! `couplet inspect PID`: finds the best source in a process, by `/proc`. An inspector is asked, or else the
//! control socket for the URL of one, or else for its status. Without either, SIGUSR1 has the
//! program print a snapshot, if it catches that signal.
//!
//! Contract: 183b.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use couplet::Reactor;
use couplet::endpoints::UnixClient;
use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::source::{MOST, Source, run_until};
use crate::ctl;
use crate::exit::Exit;
use crate::output;

/// How long a socket of the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long all of them together may take.
const ALL: Duration = Duration::from_secs(30);

/// How long the program may take to write its snapshot, and how often its log is read until then.
const SNAPSHOT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(50));

/// The thread of an inspector, whose name the system cuts.
const THREAD: &str = "couplet inspect";

/// The best thing that a process offers.
#[derive(Debug)]
pub(super) enum Offer {
    Inspector(Source),
    /// The control socket of a program without an inspector.
    Control(PathBuf),
    /// Only its reaction to SIGUSR1.
    Snapshot(Process),
}

/// A process, as the system describes it.
#[derive(Debug)]
pub(super) struct Process {
    pid: Pid,
    catches_usr1: bool,
    has_inspector: bool,
}

/// Finds the best source in a process.
///
/// # Errors
///
/// If the process does not exist, or belongs to another user.
pub(super) fn find(pid: u32) -> Result<Offer, Exit> {
    let process = Process::look_up(pid)?;
    // Other programs may not expect questions on their sockets.
    if !process.has_inspector && !process.catches_usr1 {
        return Ok(Offer::Snapshot(process));
    }
    let sockets = process.sockets();
    let has_inspector = process.has_inspector;
    let asked = run_until(ALL, async move |reactor| {
        let mut control = None;
        for path in sockets {
            match ask(&reactor, &path, has_inspector).await {
                Answer::Inspector(source) => return Ok(Some(Offer::Inspector(source))),
                Answer::Control => control = Some(Offer::Control(path)),
                Answer::Other => {}
            }
        }
        Ok(control)
    })?;
    Ok(asked.ok().flatten().unwrap_or(Offer::Snapshot(process)))
}

/// The kind of a UNIX socket.
enum Answer {
    Inspector(Source),
    /// A control socket of a program without an inspector.
    Control,
    Other,
}

/// Asks a UNIX socket for the URL of an inspector.
async fn ask(reactor: &Reactor, path: &Path, has_inspector: bool) -> Answer {
    if has_inspector {
        let source = Source::unix(path);
        let (asked, fetched) = (source.clone(), reactor.clone());
        let asking = reactor.spawn(async move { asked.fetch(&fetched, "loops.json").await });
        if asking.add_timeout(reactor, PATIENCE).await.is_ok() {
            return Answer::Inspector(source);
        }
    }
    let (asked, endpoint) = (reactor.clone(), UnixClient::new(path));
    let asking = reactor.spawn(async move { ctl::ask(&asked, endpoint, "inspect").await });
    let answer = asking.add_timeout(reactor, PATIENCE).await.unwrap_or_default();
    let answer = String::from_utf8_lossy(&answer);
    match answer.strip_prefix("ok\n").map(|url| Source::parse(url.trim())) {
        Some(Ok(source)) => Answer::Inspector(source),
        _ if answer.starts_with("error: ") => Answer::Control,
        _ => Answer::Other,
    }
}

impl Process {
    fn look_up(pid: u32) -> Result<Process, Exit> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let unknown = || Exit::failed(format!("cannot inspect process {pid}: it does not exist"));
        let number = number.ok_or_else(unknown)?;
        let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(error) => return Err(cannot(pid, output::plain(&error))),
        };
        let status = Status::parse(&status);
        let (own, user) = (geteuid(), status.user);
        if !own.is_root() && user != Some(own.as_raw()) {
            let user = user.map_or_else(String::new, |user| format!(", {user}"));
            let text =
                format!("it belongs to another user{user}: run this as that user, or as root");
            return Err(cannot(pid, text));
        }
        if status.is_zombie {
            return Err(cannot(
                pid,
                "it has exited, and its parent has not waited for it".to_owned(),
            ));
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut names = threads.filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
        let has_inspector = names.any(|name| name.trim_end() == THREAD);
        Ok(Process { pid: number, catches_usr1: status.catches_usr1, has_inspector })
    }

    fn path(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.pid.as_raw_nonzero()).into()
    }

    /// The paths of the UNIX sockets on which the process listens.
    fn sockets(&self) -> Vec<PathBuf> {
        let descriptors = fs::read_dir(self.path("fd")).into_iter().flatten().flatten();
        let links = descriptors.filter_map(|it| fs::read_link(it.path()).ok());
        let inodes: Vec<u64> = links.filter_map(|link| inode(&link)).collect();
        let all = fs::read_to_string(self.path("net/unix")).unwrap_or_default();
        let own = listening(&all).filter(|(inode, _)| inodes.contains(inode));
        let is_elsewhere =
            fs::read_link(self.path("ns/mnt")).ok() != fs::read_link("/proc/self/ns/mnt").ok();
        let mut paths: Vec<PathBuf> = own
            .map(|(_, path)| match (path.strip_prefix('/'), is_elsewhere) {
                (None, _) => self.path("cwd").join(path),
                (Some(path), true) => self.path("root").join(path),
                (Some(_), false) => path.into(),
            })
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Has the program print a snapshot; returns it, or prints where it is.
    ///
    /// # Errors
    ///
    /// If the process does not catch the signal, which would end it: nothing is sent.
    pub(super) fn snapshot(&self) -> Result<String, Exit> {
        let pid = self.pid.as_raw_nonzero();
        if !self.catches_usr1 {
            let text = "it has neither an inspector nor a control socket, and SIGUSR1 would end it: \
                        start it with --inspect, or see couplet::inspect for your own programs";
            return Err(cannot(pid, text.to_owned()));
        }
        if self.has_inspector {
            output::print_to_stderr(&format!(
                "process {pid} has an inspector, but neither a UNIX socket of it nor a control socket: its \
                 log has the URL, if it serves a page. Here is a snapshot by SIGUSR1."
            ));
        }
        let path = self.path("fd/2");
        let target = fs::read_link(&path).unwrap_or_default();
        let length = fs::metadata(&path).ok();
        let length = length.filter(|it| it.file_type().is_file()).map(|it| it.len());
        kill_process(self.pid, Signal::USR1)
            .map_err(|error| cannot(pid, format!("it can't be signalled: {error}")))?;
        let target = match target.as_os_str().as_bytes() {
            b"/dev/null" => "its stderr, which is /dev/null: its log may have it".to_owned(),
            name if name.starts_with(b"/") => target.display().to_string(),
            _ => format!("its stderr, {}: see its log, or the journal", target.display()),
        };
        let Some(length) = length else {
            return Ok(format!("a snapshot was printed to {target}\n"));
        };
        let text = run_until(ALL, async move |reactor| Ok(grown(&reactor, &path, length).await))?;
        match text.unwrap_or_default() {
            text if text.is_empty() => {
                let text = format!("its snapshot is not in {target}: its log may have it");
                Err(cannot(pid, text))
            }
            text => Ok(text),
        }
    }
}

fn cannot(pid: impl std::fmt::Display, text: String) -> Exit {
    Exit::failed(format!("cannot inspect process {pid}: {text}"))
}

/// The text that a file has got after a length, once it does not grow any more.
async fn grown(reactor: &Reactor, path: &Path, length: u64) -> String {
    let mut bytes = Vec::new();
    let mut left = SNAPSHOT.0;
    while !left.is_zero() {
        // The reactor ends with the run.
        let _ = reactor.sleep(SNAPSHOT.1).await;
        left = left.saturating_sub(SNAPSHOT.1);
        let before = std::mem::take(&mut bytes);
        let read = fs::File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(length))?;
            file.take(MOST as u64).read_to_end(&mut bytes)
        });
        if read.is_err() || !bytes.is_empty() && bytes == before {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The fields of `/proc/PID/status` that matter.
#[derive(Debug, Default, PartialEq)]
struct Status {
    /// The effective user.
    user: Option<u32>,
    is_zombie: bool,
    catches_usr1: bool,
}

impl Status {
    fn parse(text: &str) -> Status {
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let caught = field("SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let bit = Signal::USR1.as_raw() - 1;
        Status {
            user: field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()),
            is_zombie: field("State:").is_some_and(|state| state.starts_with('Z')),
            catches_usr1: caught.is_some_and(|mask| mask >> bit & 1 == 1),
        }
    }
}

/// The inode in the link of a socket's descriptor.
fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inodes and the paths of listening stream sockets in `/proc/net/unix`.
fn listening(table: &str) -> impl Iterator<Item = (u64, &str)> {
    table.lines().skip(1).filter_map(|line| {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut rest = line;
        let mut fields = [""; 7];
        for field in &mut fields {
            let (word, after) = rest.trim_start().split_once(' ')?;
            (*field, rest) = (word, after);
        }
        let [_, _, _, flags, kind, _, inode] = fields;
        // The flag of a socket that accepts; a name with @ is in no file system.
        let is_listening = flags == "00010000" && kind == "0001" && !rest.starts_with('@');
        is_listening.then(|| Some((inode.parse().ok()?, rest)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_sigusr1_is_caught() {
        let status = |caught| {
            Status::parse(&format!(
                "Name:\ta\nState:\tS (sleeping)\nUid:\t7\t8\t9\t9\nSigCgt:\t{caught}\n"
            ))
        };
        let caught = status("0000000000004a02");
        assert_eq!(caught, Status { user: Some(8), is_zombie: false, catches_usr1: true });
        assert!(!status("0000000000004402").catches_usr1);
        assert!(!status("nonsense").catches_usr1);
        assert!(Status::parse("State:\tZ (zombie)\n").is_zombie);
        assert_eq!(Status::parse(""), Status::default());
    }

    #[test]
    fn listening_sockets_have_an_inode_and_a_path() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
000000001: 00000002 00000000 00010000 0001 01  1234 /run/a b.sock
000000001: 00000003 00000000 00000000 0001 03 99 /run/connected
000000001: 00000002 00000000 00010000 0001 01 7 @abstract
000000001: 00000002 00000000 00010000 0005 01 8 /run/packets
000000001: 00000002 00000000 00010000 0001 01 5 couplet.sock
000000001: 00000003 00000000 00000000 0001 03 23456
nonsense
";
        let found: Vec<_> = listening(table).collect();
        assert_eq!(found, [(1234, "/run/a b.sock"), (5, "couplet.sock")]);
        assert_eq!(inode(Path::new("socket:[1234]")), Some(1234));
        assert_eq!(inode(Path::new("pipe:[1234]")), None);
    }
}
