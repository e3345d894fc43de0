//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, status, watchdog. Without systemd
//! they do nothing.

use std::time::Duration;

use couplet::{LoopingCall, Reactor};
use sd_notify::NotifyState;

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

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Reports from the loop, twice in the time that systemd allows, that the loop turns.
/// Nothing is reported while `is_main` returns false.
pub(crate) fn keep_watchdog(reactor: &Reactor, is_main: impl Fn() -> bool + 'static) {
    if let Some(allowed) = sd_notify::watchdog_enabled() {
        let call = LoopingCall::new(reactor, move || {
            if is_main() {
                notify(&[NotifyState::Watchdog]);
            }
        });
        call.start(interval(allowed)).detach();
    }
}

fn interval(allowed: Duration) -> Duration {
    (allowed / 2).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time() {
        assert_eq!(interval(Duration::from_secs(3)), Duration::from_millis(1500));
        assert_eq!(interval(Duration::ZERO), Duration::from_millis(1));
    }
}
