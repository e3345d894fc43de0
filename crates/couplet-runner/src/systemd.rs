//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, status, watchdog, descriptors. Without systemd
//! they do nothing.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use couplet::LoopingCall;
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
/// The system's error; `WouldBlock` if systemd is behind with its messages.
pub(crate) fn store(name: &str, descriptors: &[BorrowedFd<'_>; 2]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(env::var_os("NOTIFY_SOCKET").unwrap_or_default())?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(descriptors));
    let message = format!("FDSTORE=1\nFDNAME={name}\n");
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(&socket, &[IoSlice::new(message.as_bytes())], &mut control, flags)?;
    Ok(())
}

/// Removes the descriptors of this name from the descriptor store.
pub(crate) fn forget(name: &str) {
    notify(&[
        NotifyState::Custom("FDSTOREREMOVE=1"),
        NotifyState::Custom(&format!("FDNAME={name}")),
    ]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
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
    fn storing_does_not_wait_for_a_busy_service_manager() {
        if env::var_os(WANTED).is_some() {
            let socket = UnixDatagram::unbound().expect("a socket");
            let error = store("a", &[socket.as_fd(); 2]).expect_err("its queue is full");
            return assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
        }
        let path = env::temp_dir().join(format!("couplet-notify-{}", std::process::id()));
        let manager = UnixDatagram::bind(&path).expect("a socket");
        // Each sender has a queue of its own, too, which would fill earlier.
        let send = || {
            let sender = UnixDatagram::unbound()?;
            sender.set_nonblocking(true)?;
            sender.send_to(b"x", &path)
        };
        let full = std::iter::repeat_with(send).find_map(Result::err).expect("a full queue");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock, "{full}");
        let name = path.to_str().expect("a name of letters");
        again("storing_does_not_wait_for_a_busy_service_manager", "", &[("NOTIFY_SOCKET", name)]);
        drop(manager);
        std::fs::remove_file(&path).expect("it is there");
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time() {
        assert_eq!(interval(Duration::from_secs(3)), Duration::from_millis(1500));
        assert_eq!(interval(Duration::ZERO), Duration::from_millis(1));
    }
}
