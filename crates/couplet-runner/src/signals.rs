//! Signals as calls in the loop, which itself handles SIGINT, SIGTERM and SIGUSR1.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use couplet::{Interest, Reactor};
pub(crate) use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR2};

/// A signal that no longer ends the process. A byte for each is in this pipe.
pub(crate) struct Caught(
    // Bound: the buffer of a socket; a byte that doesn't fit is one of many.
    UnixStream,
);

impl Caught {
    /// Catches the signal from now on.
    pub(crate) fn catch(signal: i32) -> io::Result<Caught> {
        let (read, written) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(signal, written)?;
        Ok(Caught(read))
    }

    /// Makes a call in the loop after each signal, or after several that came together.
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
