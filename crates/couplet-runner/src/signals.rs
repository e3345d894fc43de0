//! Signals as calls in the loop, which itself handles SIGINT, SIGTERM and SIGUSR1.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use couplet::{Interest, Reactor};
pub(crate) use signal_hook::consts::{SIGHUP, SIGTERM, SIGUSR2};

/// A signal that no longer ends the process. A byte for each is in this pipe.
pub(crate) struct Caught(
    // A byte that doesn't fit in the socket's buffer is one of many.
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use couplet::Loop;
    use signal_hook::consts::SIGWINCH;

    use super::*;

    #[test]
    fn signals_that_came_together_make_one_call() {
        let caught = Caught::catch(SIGWINCH).unwrap();
        // More than are read at once.
        for _ in 0..200 {
            signal_hook::low_level::raise(SIGWINCH).unwrap();
        }
        let mut l = Loop::new().unwrap();
        let (reactor, calls) = (l.reactor(), Rc::new(Cell::new(0)));
        let counted = calls.clone();
        caught.each(&reactor, move || counted.set(counted.get() + 1)).unwrap();
        for round in 1..=3 {
            let reactor = reactor.clone();
            let turns = reactor.clone().spawn(async move {
                for _ in 0..10 {
                    reactor.sleep(Duration::ZERO).await?;
                }
                Ok(())
            });
            l.run_until(turns).unwrap();
            assert_eq!(calls.get(), round);
            (0..200).for_each(|_| signal_hook::low_level::raise(SIGWINCH).unwrap());
        }
    }
}
