//! Delivers signals as events of the poll.

use std::io;

#[cfg(unix)]
use couplet_os::signals::Signals;
#[cfg(unix)]
use mio::Interest;

#[cfg(unix)]
use super::SIGNALS;
use crate::driver::Signal;

/// The signals that the loop handles, if it does.
#[derive(Default)]
pub(super) enum SignalSource {
    #[default]
    Off,
    /// No signal is pending.
    #[cfg(unix)]
    Waiting(Signals),
    #[cfg(unix)]
    Readable(Signals),
}

#[cfg(unix)]
impl SignalSource {
    pub(super) fn take(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use couplet_os::signals::{INTERRUPT, TERMINATE, USER1};
        use std::os::fd::{AsFd, AsRawFd};
        let taken = Signals::take(&[INTERRUPT, TERMINATE, USER1])?;
        let fd = taken.as_fd().as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&fd), SIGNALS, Interest::READABLE)?;
        *self = SignalSource::Waiting(taken);
        Ok(())
    }

    pub(super) fn restore(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        match std::mem::take(self) {
            // The descriptor stays open.
            SignalSource::Waiting(taken) | SignalSource::Readable(taken) => {
                registry.deregister(&mut mio::unix::SourceFd(&taken.as_fd().as_raw_fd()))
            }
            SignalSource::Off => Ok(()),
        }
    }

    /// Records an event of the poll.
    pub(super) fn record_readiness(&mut self) {
        if let SignalSource::Waiting(taken) = std::mem::take(self) {
            *self = SignalSource::Readable(taken);
        }
    }

    /// Whether the poll has reported signals that were not all read.
    pub(super) fn is_readable(&self) -> bool {
        matches!(self, SignalSource::Readable(_))
    }

    pub(super) fn next(&mut self) -> Option<Signal> {
        use couplet_os::signals::{INTERRUPT, TERMINATE, USER1};
        let SignalSource::Readable(taken) = self else { return None };
        loop {
            return match taken.read() {
                Some(INTERRUPT) => Some(Signal::Interrupt),
                Some(TERMINATE) => Some(Signal::Terminate),
                Some(USER1) => Some(Signal::User1),
                Some(_) => continue,
                None => {
                    if let SignalSource::Readable(taken) = std::mem::take(self) {
                        *self = SignalSource::Waiting(taken);
                    }
                    None
                }
            };
        }
    }
}

#[cfg(not(unix))]
impl SignalSource {
    pub(super) fn take(&mut self, _registry: &mio::Registry) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    pub(super) fn restore(&mut self, _registry: &mio::Registry) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn record_readiness(&mut self) {}

    pub(super) fn is_readable(&self) -> bool {
        false
    }

    pub(super) fn next(&mut self) -> Option<Signal> {
        None
    }
}
