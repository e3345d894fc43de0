//! Delivers signals as events of the poll.

use std::io;

#[cfg(unix)]
use couplet_os::signals::Signals;
#[cfg(unix)]
use mio::Interest;

#[cfg(unix)]
use super::SIGNALS;
use crate::driver::Signal;

/// The signals that the loop handles.
#[derive(Default)]
pub(super) enum SignalSource {
    #[default]
    None,
    /// None is left to read.
    #[cfg(unix)]
    Quiet(Signals),
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
        *self = SignalSource::Quiet(taken);
        Ok(())
    }

    pub(super) fn restore(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        match std::mem::take(self) {
            // The descriptor stays open.
            SignalSource::Quiet(taken) | SignalSource::Readable(taken) => {
                registry.deregister(&mut mio::unix::SourceFd(&taken.as_fd().as_raw_fd()))
            }
            SignalSource::None => Ok(()),
        }
    }

    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        matches!(self, SignalSource::Readable(_))
    }

    /// The poll reported signals.
    pub(super) fn mark_readable(&mut self) {
        *self = match std::mem::take(self) {
            SignalSource::Quiet(taken) => SignalSource::Readable(taken),
            same => same,
        };
    }

    pub(super) fn next(&mut self) -> Option<Signal> {
        use couplet_os::signals::{INTERRUPT, TERMINATE, USER1};
        let SignalSource::Readable(taken) = self else { return None };
        while let Some(number) = taken.read() {
            match number {
                INTERRUPT => return Some(Signal::Interrupt),
                TERMINATE => return Some(Signal::Terminate),
                USER1 => return Some(Signal::User1),
                _ => {}
            }
        }
        if let SignalSource::Readable(taken) = std::mem::take(self) {
            *self = SignalSource::Quiet(taken);
        }
        None
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

    pub(super) fn is_readable(&self) -> bool {
        false
    }

    pub(super) fn mark_readable(&mut self) {}

    pub(super) fn next(&mut self) -> Option<Signal> {
        None
    }
}
