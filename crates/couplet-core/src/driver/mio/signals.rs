//! Delivers signals as events of the poll.

use std::io;

#[cfg(unix)]
use mio::Interest;

#[cfg(unix)]
use super::SIGNALS;
use crate::driver::Signal;

#[derive(Default)]
pub(super) struct SignalSource {
    #[cfg(unix)]
    pub(super) taken: Option<couplet_os::signals::Signals>,
    pub(super) readable: bool,
}

#[cfg(unix)]
impl SignalSource {
    pub(super) fn take(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use couplet_os::signals::{INTERRUPT, Signals, TERMINATE, USER1};
        use std::os::fd::{AsFd, AsRawFd};
        let taken = Signals::take(&[INTERRUPT, TERMINATE, USER1])?;
        let fd = taken.as_fd().as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&fd), SIGNALS, Interest::READABLE)?;
        self.taken = Some(taken);
        Ok(())
    }

    pub(super) fn restore(&mut self, registry: &mio::Registry) -> io::Result<()> {
        use std::os::fd::{AsFd, AsRawFd};
        match self.taken.take() {
            // The descriptor stays open.
            Some(taken) => {
                registry.deregister(&mut mio::unix::SourceFd(&taken.as_fd().as_raw_fd()))
            }
            None => Ok(()),
        }
    }

    pub(super) fn next(&mut self) -> Option<Signal> {
        use couplet_os::signals::{INTERRUPT, TERMINATE, USER1};
        if !self.readable {
            return None;
        }
        loop {
            return match self.taken.as_mut().and_then(couplet_os::signals::Signals::read) {
                Some(INTERRUPT) => Some(Signal::Interrupt),
                Some(TERMINATE) => Some(Signal::Terminate),
                Some(USER1) => Some(Signal::User1),
                Some(_) => continue,
                None => {
                    self.readable = false;
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

    pub(super) fn next(&mut self) -> Option<Signal> {
        self.readable = false;
        None
    }
}
