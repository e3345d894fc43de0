//! A tokio runtime in the thread of the simulation, whose clock stands still between the turns of
//! its loop. Feature `sim-tokio`.

use std::io;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::unconstrained;
use tokio::time::{sleep, sleep_until};

/// A runtime whose clock stands still until [`advance_to`](PausedTokio::advance_to) advances it.
pub(super) struct PausedTokio {
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// The loop's time when the runtime's clock began.
    begun: Instant,
    clock: tokio::time::Instant,
    /// Milliseconds passed so far, the resolution of tokio's timers.
    passed: u64,
}

impl PausedTokio {
    /// Starts a runtime, whose clock begins at the loop's time `begun`, and whose random decisions
    /// follow the seed if tokio is built with support for that.
    pub(super) fn start(begun: Instant, seed: u64) -> io::Result<PausedTokio> {
        let mut builder = Builder::new_current_thread();
        #[cfg(tokio_unstable)]
        builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
        #[cfg(not(tokio_unstable))]
        let _ = seed;
        let runtime = builder.enable_time().start_paused(true).build()?;
        let clock = runtime.block_on(async { sleep(Duration::ZERO).deadline() });
        Ok(PausedTokio { runtime: Some(runtime), begun, clock, passed: 0 })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is not being dropped")
    }

    /// Enters the runtime until the result is dropped.
    pub(super) fn enter(&self) -> impl Sized {
        self.runtime().enter()
    }

    /// Runs `f` where tokio draws random numbers from the runtime's generator; merely entering the
    /// runtime would use the thread's.
    pub(super) fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        // tokio's budget is for one task, but `f` runs all tasks of the loop.
        self.runtime().handle().block_on(unconstrained(async { f() }))
    }

    /// Whether the runtime has unfinished tasks.
    pub(super) fn has_tasks(&self) -> bool {
        self.runtime().metrics().num_alive_tasks() > 0
    }

    /// Runs the tasks that can run, and advances time to `until`: timers fire one after another,
    /// each at its time. Fractions of a millisecond are ignored.
    pub(super) fn advance_to(&mut self, until: Instant) {
        let passed = until.saturating_duration_since(self.begun).as_millis() as u64;
        if passed > self.passed {
            self.passed = passed;
            // Sleeps only when no other task can run; then the clock jumps.
            let wake = self.clock + Duration::from_millis(passed);
            self.runtime().block_on(async { sleep_until(wake).await });
        }
    }

    /// The next time at which a timer may fire.
    pub(super) fn next(&self) -> Instant {
        self.begun + Duration::from_millis(self.passed + 1)
    }
}

impl Drop for PausedTokio {
    /// Does not wait for the runtime's tasks.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
