//! SIGHUP as a call in the loop. The loop itself handles SIGINT, SIGTERM and SIGUSR1.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use couplet::{Interest, Reactor};
use signal_hook::consts::SIGHUP;

/// SIGHUP, which no longer ends the process. A byte for each is in this pipe.
pub(crate) struct Hangups(
    // Bound: the buffer of a socket; a byte that doesn't fit is one of many.
    UnixStream,
);

impl Hangups {
    /// Catches SIGHUP from now on.
    pub(crate) fn catch() -> io::Result<Hangups> {
        let (read, written) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGHUP, written)?;
        Ok(Hangups(read))
    }

    /// Makes a call in the loop after each SIGHUP, or after several that came together.
    pub(crate) fn each(
        self,
        reactor: &Reactor,
        mut call: impl FnMut() + 'static,
    ) -> io::Result<()> {
        reactor.watch(self.0, Interest::Readable, move |read, _ready| {
            let mut bytes = [0; 64];
            while matches!(read.read(&mut bytes), Ok(1..)) {}
            call();
        })?;
        Ok(())
    }
}
