//! The loop's optional tokio runtime ([`LoopOptions::tokio`], feature `tokio`), entered around all
//! calls that the loop makes.

use std::io;
#[cfg(feature = "sim-tokio")]
use std::time::{Duration, Instant};

#[cfg(feature = "sim-tokio")]
use tokio::time::{sleep, sleep_until};

use super::LoopOptions;
#[cfg(feature = "tokio")]
use crate::panics::catch_panic;

/// A runtime, if the options request one.
pub(super) struct Runtime {
    #[cfg(feature = "tokio")]
    tokio: Option<tokio::runtime::Runtime>,
}

#[cfg(feature = "tokio")]
impl Runtime {
    /// Starts the runtime that the options request.
    pub(super) fn start(options: &LoopOptions) -> io::Result<Runtime> {
        use tokio::runtime::Builder;
        let build = || {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(1).thread_name("couplet-tokio").enable_all().build()
        };
        // tokio panics when the system refuses the thread.
        let start = || catch_panic(build).unwrap_or_else(|text| Err(io::Error::other(text)));
        Ok(Runtime { tokio: options.tokio.then(start).transpose()? })
    }

    /// Enters the runtime until the result is dropped.
    pub(super) fn enter(&self) -> impl Sized {
        self.tokio.as_ref().map(tokio::runtime::Runtime::enter)
    }
}

/// A runtime whose clock stands still until [`advance_to`](PausedClock::advance_to) advances it.
#[cfg(feature = "sim-tokio")]
pub(super) struct PausedClock {
    /// The loop's time when the runtime's clock began.
    begun: Instant,
    clock: tokio::time::Instant,
    /// Milliseconds passed so far, the resolution of tokio's timers.
    passed: u64,
}

#[cfg(feature = "sim-tokio")]
impl Runtime {
    /// A runtime in this thread, whose clock begins at the loop's time `begun`. Its random
    /// decisions follow the seed, if tokio is built with support for that.
    pub(super) fn paused(begun: Instant, seed: u64) -> io::Result<(Runtime, PausedClock)> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
        #[cfg(not(tokio_unstable))]
        let _ = seed;
        let tokio = builder.enable_time().start_paused(true).build()?;
        let clock = tokio.block_on(async { sleep(Duration::ZERO).deadline() });
        Ok((Runtime { tokio: Some(tokio) }, PausedClock { begun, clock, passed: 0 }))
    }

    /// A handle to the runtime.
    pub(super) fn handle(&self) -> Option<tokio::runtime::Handle> {
        self.tokio.as_ref().map(|tokio| tokio.handle().clone())
    }

    /// Whether the runtime has unfinished tasks.
    pub(super) fn has_tasks(&self) -> bool {
        self.tokio.as_ref().is_some_and(|tokio| tokio.metrics().num_alive_tasks() > 0)
    }
}

#[cfg(feature = "sim-tokio")]
impl PausedClock {
    /// Runs the tasks that can run, and advances time to `until`: timers fire one after another,
    /// each at its time. Fractions of a millisecond are ignored.
    pub(super) fn advance_to(&mut self, runtime: &Runtime, until: Instant) {
        let Some(tokio) = &runtime.tokio else { return };
        let passed = until.saturating_duration_since(self.begun).as_millis() as u64;
        if passed > self.passed {
            self.passed = passed;
            // Sleeps only when no other task can run; then the clock jumps.
            let wake = self.clock + Duration::from_millis(passed);
            tokio.block_on(async { sleep_until(wake).await });
        }
    }

    /// The next time at which a timer may fire.
    pub(super) fn next(&self) -> Instant {
        self.begun + Duration::from_millis(self.passed + 1)
    }
}

#[cfg(feature = "tokio")]
impl Drop for Runtime {
    /// Does not wait: a loop may be dropped where blocking is not allowed.
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}

#[cfg(not(feature = "tokio"))]
impl Runtime {
    #[expect(clippy::unnecessary_wraps, reason = "with the feature `tokio` it may fail")]
    pub(super) fn start(_options: &LoopOptions) -> io::Result<Runtime> {
        Ok(Runtime {})
    }

    pub(super) fn enter(&self) -> impl Sized {}
}
