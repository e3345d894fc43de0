//! SIGHUP as a call in the loop. The loop itself handles SIGINT, SIGTERM and SIGUSR1.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use couplet::{Interest, Reactor};
use signal_hook::consts::SIGHUP;

/// Makes a call in the loop after each SIGHUP, or after several that came together.
pub(crate) fn on_hangup(reactor: &Reactor, mut call: impl FnMut() + 'static) -> io::Result<()> {
    let (read, written) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGHUP, written)?;
    reactor.watch(read, Interest::Readable, move |read, _ready| {
        let mut bytes = [0; 64];
        while matches!(read.read(&mut bytes), Ok(1..)) {}
        call();
    })?;
    Ok(())
}
