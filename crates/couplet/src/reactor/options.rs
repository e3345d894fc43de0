//! Options of a loop.

use std::time::Duration;

use super::Drain;
#[cfg(doc)]
use super::Loop;

/// Options of a [`Loop`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoopOptions {
    /// Size in bytes of the read buffer that all connections of the loop share: 256 KiB unless set.
    /// A connection receives at most one buffer's worth in a turn.
    pub read_buffer: usize,
    /// How long connections may flush written bytes when the reactor stops: 500 ms unless set.
    pub shutdown_grace: Duration,
    /// How long a stopping reactor waits for jobs of
    /// [`defer_to_thread`](super::Reactor::defer_to_thread): 5 s unless set.
    pub job_grace: Duration,
    /// Whether a run handles SIGINT, SIGTERM and SIGUSR1; [`run`](crate::run) does.
    pub signals: bool,
    /// How long connections of ports may finish when a SIGTERM ends a run; none unless set.
    pub drain: Option<Drain>,
    /// Whether the loop brings a runtime of tokio: see [`tokio`](LoopOptions::tokio).
    #[cfg(feature = "tokio")]
    pub tokio: bool,
}

impl Default for LoopOptions {
    fn default() -> LoopOptions {
        LoopOptions {
            read_buffer: 256 * 1024,
            shutdown_grace: Duration::from_millis(500),
            job_grace: Duration::from_secs(5),
            signals: false,
            drain: None,
            #[cfg(feature = "tokio")]
            tokio: false,
        }
    }
}

impl LoopOptions {
    /// Sets the size of the read buffer in bytes.
    #[must_use]
    pub fn read_buffer(mut self, bytes: usize) -> Self {
        self.read_buffer = bytes;
        self
    }

    /// Sets how long connections may flush when the reactor stops.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// Sets how long a stopping reactor waits for jobs.
    #[must_use]
    pub fn job_grace(mut self, grace: Duration) -> Self {
        self.job_grace = grace;
        self
    }

    /// Sets whether a run handles signals.
    #[must_use]
    pub fn signals(mut self, on: bool) -> Self {
        self.signals = on;
        self
    }

    /// Sets that a run handles [`signals`](Self::signals), and that a SIGTERM
    /// [drains](super::Reactor::drain) before it ends the run. A second signal ends the drain.
    #[must_use]
    pub fn drain(mut self, times: impl Into<Drain>) -> Self {
        self.signals = true;
        self.drain = Some(times.into());
        self
    }

    /// Starts a multi-threaded runtime of tokio with the loop, with one worker thread, and enters it
    /// around everything that the loop calls: there `tokio::spawn` and the timers and sockets of tokio
    /// work, and libraries that need them. Its thread waits for them and wakes the loop, which can
    /// take much longer than the event itself: [the guide](crate::manual::beside_tokio) has figures, and
    /// the alternative, `couplet::embed`. The runtime is shut down in the background when the loop is
    /// dropped.
    ///
    /// Feature `tokio`.
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn tokio(mut self) -> Self {
        self.tokio = true;
        self
    }
}
