//! A host's loop, and the tokio runtime around it if its program uses tokio.

use std::io;
use std::time::Instant;

use couplet_core::defer::Result;
use couplet_core::reactor::{Loop, Reactor};

#[cfg(feature = "sim-tokio")]
use super::paused_tokio::PausedTokio;

/// The loop of a started program. All its user code runs inside the runtime, if it has one.
pub(super) struct Running {
    l: Loop,
    #[cfg(feature = "sim-tokio")]
    tokio: Option<PausedTokio>,
}

impl Running {
    pub(super) fn new(l: Loop) -> Running {
        Running {
            l,
            #[cfg(feature = "sim-tokio")]
            tokio: None,
        }
    }

    pub(super) fn l(&self) -> &Loop {
        &self.l
    }

    pub(super) fn l_mut(&mut self) -> &mut Loop {
        &mut self.l
    }

    /// Adds a tokio runtime whose clock follows the loop's.
    #[cfg(feature = "sim-tokio")]
    pub(super) fn add_tokio(&mut self, seed: u64) -> io::Result<()> {
        self.tokio = Some(PausedTokio::start(self.l.reactor().now(), seed)?);
        Ok(())
    }

    /// Starts the run.
    pub(super) fn begin(&mut self, program: &dyn Fn(&Reactor) -> Result<()>) -> Result<()> {
        self.inside_tokio(|l| l.begin(|reactor| program(reactor)))
    }

    /// Turns the loop once, after the runtime's tasks ran until the present time.
    pub(super) fn turn(&mut self) -> io::Result<bool> {
        #[cfg(feature = "sim-tokio")]
        {
            let now = self.l.reactor().now();
            if let Some(tokio) = &mut self.tokio {
                tokio.advance_to(now);
            }
        }
        self.inside_tokio(|l| l.turn(None))
    }

    /// When the loop or the runtime's tasks must run again.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let next = self.l.next_turn();
        #[cfg(feature = "sim-tokio")]
        let next = next.into_iter().chain(self.tokio_deadline()).min();
        next
    }

    /// When the runtime's tasks must run again, if any task may wait for its timers.
    #[cfg(feature = "sim-tokio")]
    fn tokio_deadline(&self) -> Option<Instant> {
        let tokio = self.tokio.as_ref()?;
        let has_tasks = couplet_core::hooks::simulator::has_tasks(&self.l) || tokio.has_tasks();
        has_tasks.then(|| tokio.next())
    }

    fn inside_tokio<T>(&mut self, f: impl FnOnce(&mut Loop) -> T) -> T {
        let l = &mut self.l;
        #[cfg(feature = "sim-tokio")]
        if let Some(tokio) = &self.tokio {
            return tokio.run(|| f(l));
        }
        f(l)
    }

    /// Drops the loop inside the runtime, and then the runtime.
    pub(super) fn close(self) {
        #[cfg(feature = "sim-tokio")]
        let _entered = self.tokio.as_ref().map(PausedTokio::enter);
        drop(self.l);
    }
}
