//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, status, watchdog, descriptors. Without systemd
//! they do nothing. While systemd's socket is full, they wait in their order for a thread, and no loop waits.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::LazyLock;
use std::time::Duration;

use couplet::LoopingCall;
use couplet::backlog::Backlog;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sd_notify::NotifyState;

use crate::loops::Loops;

/// All services have started.
pub(crate) fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] follows.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the time for systemd"),
    }
}

/// Another process is the program's main one from now on.
pub(crate) fn main_pid(pid: u32) {
    notify(&[NotifyState::MainPid(pid)]);
}

/// The program ends.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// How many descriptors the descriptor store takes; `None` without one.
pub(crate) fn store_size() -> Option<usize> {
    env::var_os("NOTIFY_SOCKET")?;
    env::var("FDSTORE").ok()?.parse().ok()
}

/// Puts descriptors into the descriptor store, both under this name.
///
/// # Errors
///
/// The system's error; `WouldBlock` if thousands of messages wait for systemd.
pub(crate) fn store(name: &str, descriptors: &[BorrowedFd<'_>; 2]) -> io::Result<()> {
    send(format!("FDSTORE=1\nFDNAME={name}\n"), descriptors)
}

/// Removes the descriptors of this name from the descriptor store.
pub(crate) fn forget(name: &str) {
    notify(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&format!("FDNAME={name}")),
    ]);
}

fn notify(states: &[NotifyState<'_>]) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let text = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send(text, &[]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Messages that wait for room in systemd's socket.
static WAITING: LazyLock<Backlog> = LazyLock::new(|| Backlog::new("systemd", Vec::new()));

/// Sends a message now, or in a thread once systemd has read those before it.
fn send(text: String, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if WAITING.settle(Duration::ZERO) {
        match send_now(&text, descriptors, SendFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
    let own = descriptors.iter().map(|it| it.try_clone_to_owned());
    let own = own.collect::<io::Result<Vec<OwnedFd>>>()?;
    let is_queued = WAITING.run(move || {
        let descriptors: Vec<_> = own.iter().map(AsFd::as_fd).collect();
        if let Err(error) = send_now(&text, &descriptors, SendFlags::empty()) {
            tracing::warn!(%error, "cannot notify systemd");
        }
    });
    if is_queued { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Sends a message. Without `DONTWAIT`, waits for systemd.
fn send_now(text: &str, descriptors: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address()?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    loop {
        match sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// The address of systemd's socket: a path, or `@` and an abstract name.
fn address() -> io::Result<SocketAddr> {
    let name = env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// Reports from the main loop, twice in the time that systemd allows, that all loops turn.
/// Nothing is reported while `is_main` returns false.
pub(crate) fn keep_watchdog(loops: &Loops, is_main: impl Fn() -> bool + Clone + 'static) {
    if let Some(allowed) = sd_notify::watchdog_enabled() {
        let all = loops.clone();
        let call = LoopingCall::new(loops.reactor(), move || {
            let is_main = is_main.clone();
            // The call after this one waits for the answers.
            all.turned().map(move |()| {
                if is_main() {
                    notify(&[NotifyState::Watchdog]);
                }
            })
        });
        call.start(interval(allowed)).detach();
    }
}

fn interval(allowed: Duration) -> Duration {
    (allowed / 2).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    /// The size that a process with these variables has to find. Variables belong to a whole process.
    const WANTED: &str = "COUPLET_TEST_STORE";

    /// Runs a test again in a process with these variables.
    fn again(test: &str, wanted: &str, variables: &[(&str, &str)]) {
        let mut command = Command::new(env::current_exe().expect("a test has a path"));
        command.args(["--exact", &format!("systemd::tests::{test}")]);
        command.env_remove("NOTIFY_SOCKET").env_remove("FDSTORE").env(WANTED, wanted);
        let output = command.envs(variables.iter().copied()).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{variables:?}: {said}");
    }

    #[test]
    fn a_store_has_a_size_and_a_socket() {
        if let Ok(wanted) = env::var(WANTED) {
            return assert_eq!(store_size(), wanted.parse().ok());
        }
        let test = "a_store_has_a_size_and_a_socket";
        again(test, "7", &[("FDSTORE", "7"), ("NOTIFY_SOCKET", "/none")]);
        again(test, "", &[("FDSTORE", "7")]);
        again(test, "", &[("NOTIFY_SOCKET", "/none")]);
        again(test, "", &[("FDSTORE", "x"), ("NOTIFY_SOCKET", "/none")]);
    }

    #[test]
    fn a_busy_service_manager_gets_all_messages_in_order_and_no_caller_waits() {
        const TEST: &str = "a_busy_service_manager_gets_all_messages_in_order_and_no_caller_waits";
        let path = env::temp_dir().join(format!("couplet-notify-{}", std::process::id()));
        let path = path.to_str().expect("a name of letters");
        if env::var_os(WANTED).is_none() {
            again(TEST, "path", &[("NOTIFY_SOCKET", path)]);
            let name = format!("@couplet-notify-{}", std::process::id());
            return again(TEST, "abstract", &[("NOTIFY_SOCKET", &name)]);
        }
        let address = address().expect("an address");
        let manager = UnixDatagram::bind_addr(&address).expect("a socket");
        manager.set_nonblocking(true).expect("an option");
        let (mut text, mut read) = ([0; 100], 0);
        for round in 0..2 {
            // Each sender also has its own queue, which would fill earlier.
            let fill = || {
                let sender = UnixDatagram::unbound()?;
                sender.set_nonblocking(true)?;
                sender.send_to_addr(b"x", &address)
            };
            let full = std::iter::repeat_with(fill).find_map(Result::err).expect("a full queue");
            assert_eq!(full.kind(), io::ErrorKind::WouldBlock, "{full}");
            let socket = UnixDatagram::unbound().expect("a socket");
            let mut wanted = Vec::new();
            for number in 0..100 {
                let name = format!("{round}-{number}");
                store(&name, &[socket.as_fd(); 2]).expect("it waits");
                forget(&name);
                wanted.push(format!("FDSTORE=1\nFDNAME={name}\n"));
                wanted.push(format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
            }
            let mut messages = Vec::new();
            while messages.len() < wanted.len() {
                match manager.recv(&mut text) {
                    Ok(count) if text[..count] == *b"x" => {}
                    Ok(count) => {
                        messages.push(String::from_utf8_lossy(&text[..count]).into_owned())
                    }
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
                }
                read += 1;
            }
            assert_eq!(messages, wanted, "round {round}, {read} reads");
        }
        if !path.is_empty() {
            let _ = std::fs::remove_file(env::var_os("NOTIFY_SOCKET").expect("it is set"));
        }
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time() {
        assert_eq!(interval(Duration::from_secs(3)), Duration::from_millis(1500));
        assert_eq!(interval(Duration::ZERO), Duration::from_millis(1));
    }
}
