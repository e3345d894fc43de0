//! Options of a loop.
//!
//! Contract: 31, 57, 71b, 106b, 105b.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::inspect::ByInspector;
use super::records::LoopRequest;
use crate::recorder::Reactor;
use crate::switches::{Switch, Switches};

/// Options of a [`Loop`](crate::Loop).
#[derive(Clone, Debug)]
pub struct LoopOptions {
    pub(super) driver: DriverChoice,
    pub(super) shutdown_grace: Duration,
    pub(super) drain: Option<Drain>,
    pub(super) stall_after: Option<Duration>,
    /// The limits on connections and their unsent output.
    pub load_limits: LoadLimits,
    pub(super) tuning: Tuning,
    pub(super) inspector: Option<ByInspector>,
    pub(super) switches: Switches,
}

/// Limits on the number of connections of a loop and on their unsent output:
/// [`LoopOptions::load_limits`], and [`Reactor::set_load_limits`] while it runs. None by default.
///
/// ```
/// use couplet::{LoadLimits, LoopOptions};
///
/// let limits = LoadLimits::default()
///     .connections(10_000)
///     .buffered(256 * 1024 * 1024)
///     .buffered_by_peer(8 * 1024 * 1024);
/// let options = LoopOptions::default().load_limits(limits);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadLimits {
    pub(super) connections: Option<NonZeroUsize>,
    pub(super) buffered: Option<usize>,
    pub(super) buffered_by_peer: Option<usize>,
}

impl LoadLimits {
    /// Limits the number of connections, to at least 1. At the limit the loop's ports stop accepting,
    /// apart from those that [accept under load](crate::Port::accept_under_load), and clients wait in
    /// their queues; below it the ports accept again. Outgoing connections count, and are made
    /// regardless of the limit.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = Some(NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN));
        self
    }

    /// Limits the unsent output of all connections together, in bytes: output that the driver did not
    /// take at once, because peers do not read. Above three quarters of the limit, ports stop accepting,
    /// and the producers of the largest buffers are paused, down to their low watermark. Above the limit
    /// the connections with the largest buffers are ended with
    /// [`Reason::Overflow`](crate::Reason::Overflow) and a reset; each is logged as a warning, and counted
    /// in [`LoopCounters::shed`](super::LoopCounters::shed). Measured once a turn.
    #[must_use]
    pub fn buffered(mut self, bytes: usize) -> Self {
        self.buffered = Some(bytes);
        self
    }

    /// Like [`buffered`](Self::buffered), for the connections of each IP address. Ports keep accepting.
    #[must_use]
    pub fn buffered_by_peer(mut self, bytes: usize) -> Self {
        self.buffered_by_peer = Some(bytes);
        self
    }

    /// Whether output is limited.
    pub(super) fn counts_output(&self) -> bool {
        self.buffered.is_some() || self.buffered_by_peer.is_some()
    }
}

/// The part of a limit on bytes above which producers are paused.
pub(super) fn high(most: usize) -> usize {
    most - most / 4
}

impl Reactor {
    /// Replaces the [limits](LoopOptions::load_limits) of this loop, in the turn. Connections beyond a
    /// lower limit stay, and the loop accepts no others until enough of them have ended; output beyond
    /// one is handled as if it were written now.
    pub fn set_load_limits(&self, limits: LoadLimits) {
        self.records().request(LoopRequest::SetLoadLimits(Box::new(limits)));
    }
}

impl Default for LoopOptions {
    fn default() -> LoopOptions {
        LoopOptions {
            driver: DriverChoice::default(),
            shutdown_grace: Duration::from_millis(500),
            drain: None,
            stall_after: None,
            load_limits: LoadLimits::default(),
            tuning: Tuning::default(),
            inspector: None,
            switches: Switches::on(&[]),
        }
    }
}

impl LoopOptions {
    /// Sets the driver of a loop that is made [with these options](crate::Loop::with_options), and of
    /// each loop of a cluster: [`DriverChoice::Auto`] by default.
    ///
    /// ```
    /// use couplet::{DriverChoice, Loop, LoopOptions};
    ///
    /// let l = Loop::with_options(LoopOptions::default().driver(DriverChoice::Uring))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// Sets how long connections may flush written bytes when the reactor stops: 500 ms by default.
    #[must_use]
    pub fn shutdown_grace(mut self, grace: Duration) -> Self {
        self.shutdown_grace = grace;
        self
    }

    /// Limits the connections and their unsent output. In a [`Cluster`](crate::Cluster) the limits
    /// apply to each loop separately.
    #[must_use]
    pub fn load_limits(mut self, limits: LoadLimits) -> Self {
        self.load_limits = limits;
        self
    }

    /// Sets whether a run handles SIGINT, SIGTERM and SIGUSR1. Off by default, but on in
    /// [`run`](crate::run).
    #[must_use]
    pub fn signals(mut self, on: bool) -> Self {
        self.switches.set(Switch::Signals, on);
        self
    }

    /// Makes a run handle [`signals`](Self::signals), and makes a SIGTERM
    /// [drain](super::Reactor::drain) before it ends the run: connections of ports may finish within
    /// these times. A second signal ends the drain. Off by default.
    #[must_use]
    pub fn drain(mut self, times: impl Into<Drain>) -> Self {
        self.drain = Some(times.into());
        self.signals(true)
    }

    /// Starts a multi-threaded tokio runtime with the loop, with one worker thread, and enters it
    /// around all calls that the loop makes: `tokio::spawn` works there, and so do tokio's timers
    /// and sockets and libraries that need them. The runtime's thread waits for them and wakes the
    /// loop, which can take much longer than the event itself:
    /// the chapter [Using tokio libraries] has figures, and describes the alternative,
    /// `couplet::embed`. The runtime is shut down in the background when the loop is dropped.
    ///
    /// Feature `tokio`.
    ///
    /// [Using tokio libraries]: https://github.com/couplet-rs/couplet/blob/main/docs/guide/beside-tokio.md
    #[cfg(feature = "tokio")]
    #[must_use]
    pub fn tokio(mut self) -> Self {
        self.switches.set(Switch::Tokio, true);
        self
    }

    /// Logs each call into user code (a callback of a protocol or factory, a timed call, a poll of
    /// a task, a call queued by a handle or another thread, …) that holds the loop for longer than
    /// `limit`, while it is running: at level `warn`, with its kind, its type or source location,
    /// the thread of the loop, and on Linux with glibc (feature `backtrace`) a [backtrace](Tuning::stall_backtraces) of
    /// that thread. A call that continues is logged again at doubling intervals, and once more when
    /// it has ended, with the total time. Without a subscriber that accepts it, the log goes to
    /// stderr.
    ///
    /// One helper thread, `couplet stalls`, does this for all loops of the process, from the first
    /// loop that requests it until the last of them is dropped, and logs to the global subscriber.
    /// The thread sleeps while the loops are idle, and wakes about once per limit while they are busy.
    /// Each call costs its loop one clock reading and a lock that is hardly ever contended. Callbacks of
    /// Deferreds are part of the call that fires them, or of the step of the turn (`connect`,
    /// `name lookup`, `job result`, …). Calls into custom layers and drops of user objects are
    /// not covered. Virtual time cannot stall: the memory driver and the simulator ignore this
    /// option. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = couplet::LoopOptions::default().stall_after(Duration::from_millis(500));
    /// let l = couplet::Loop::with_options(options)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.stall_after = Some(limit);
        self
    }

    /// Changes settings that few programs need. Calls add up: settings that `change` leaves alone stay.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let options = couplet::LoopOptions::default()
    ///     .tune(|tuning| tuning.spin(Duration::from_micros(50)));
    /// ```
    #[must_use]
    pub fn tune(mut self, change: impl FnOnce(Tuning) -> Tuning) -> Self {
        self.tuning = change(self.tuning);
        self
    }
}

/// Settings of a loop that few programs need: [`LoopOptions::tune`].
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    pub(super) read_buffer: usize,
    pub(super) job_grace: Duration,
    pub(super) answers: Answers,
    pub(super) spin: Duration,
    pub(super) switches: Switches,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            read_buffer: 256 * 1024,
            job_grace: Duration::from_secs(5),
            answers: Answers::default(),
            spin: Duration::ZERO,
            switches: Switches::on(&[Switch::StallBacktraces]),
        }
    }
}

impl Tuning {
    /// Sets the size in bytes of the read buffer that all connections of the loop share: 256 KiB by
    /// default. A connection receives at most one buffer's worth in a turn.
    #[must_use]
    pub fn read_buffer(mut self, bytes: usize) -> Self {
        self.read_buffer = bytes;
        self
    }

    /// Sets how long a stopping reactor waits for jobs of
    /// [`defer_to_thread`](super::Reactor::defer_to_thread): 5 s by default. Zero gives them up
    /// without a warning.
    #[must_use]
    pub fn job_grace(mut self, grace: Duration) -> Self {
        self.job_grace = grace;
        self
    }

    /// Sets when replies are sent: by default, as the loop's measurements suggest.
    #[must_use]
    pub fn answers(mut self, answers: Answers) -> Self {
        self.answers = answers;
        self
    }

    /// Makes the loop poll for events for up to this long before it sleeps: 50 µs are a good start. Off by
    /// default.
    ///
    /// Waking a sleeping thread takes the system tens of microseconds, which a loop that polls saves:
    /// round trips of few connections take less time. A polling loop occupies its processor, which pays
    /// only if an event comes within that time, so each attempt without one doubles the number of sleeps
    /// until the next attempt, up to 1024, and each one with an event halves it. Timers are not delayed.
    /// Loops over io_uring or a driver of the program's, and loops inside tokio, ignore this option.
    #[must_use]
    pub fn spin(mut self, most: Duration) -> Self {
        self.spin = most;
        self
    }

    /// Sets whether the loop measures how long its calls into user code take, for
    /// [`Snapshot::calls`](super::Snapshot::calls): the calls that [`stall_after`](LoopOptions::stall_after)
    /// watches. Each costs two readings of the clock. Off by default, when calls cost nothing extra.
    #[must_use]
    pub fn time_calls(mut self, on: bool) -> Self {
        self.switches.set(Switch::TimeCalls, on);
        self
    }

    /// Sets whether a [stall](LoopOptions::stall_after) is logged with a backtrace of the loop's thread: true
    /// by default. Only on Linux with glibc, with the feature `backtrace`.
    ///
    /// The loop's thread is interrupted with SIGURG for that, with `SA_RESTART`. System calls that
    /// a signal interrupts nevertheless (`nanosleep`, `poll`, reads with a timeout: signal(7)) fail
    /// with `EINTR` in code that does not retry them. A program that handles SIGURG itself gets no
    /// backtraces.
    #[must_use]
    pub fn stall_backtraces(mut self, on: bool) -> Self {
        self.switches.set(Switch::StallBacktraces, on);
        self
    }
}

/// The system's interface by which a loop waits and moves bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverChoice {
    /// The best one: at present [`Epoll`](Self::Epoll), since [`Uring`](Self::Uring) is slower for
    /// some loads.
    #[default]
    Auto,
    /// Readiness: epoll on Linux, elsewhere its counterpart.
    Epoll,
    /// io_uring, on Linux from 6.1 on: a small message needs no system call. A process whose loops use
    /// it can't continue them in a forked child. Feature `uring`.
    ///
    /// Where the system has no io_uring, forbids it, or fails the self-test of the process, the
    /// loop logs a warning and takes [`Epoll`](Self::Epoll).
    Uring,
}

/// When the replies to a batch of events are sent. Events form a batch when one wait of the driver
/// returns bytes for several connections.
///
/// A reply that is sent immediately wakes a sleeping client, and while the next reply is prepared,
/// that client falls asleep again: on one machine a wake-up can cost more than the reply. Replies
/// that are sent together wake it once. Output written at any other time, and output of 16 KiB or
/// more, is not held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answers {
    /// Sends each reply before the next event is delivered.
    AtOnce,
    /// Sends replies together: at the end of the batch, or when there are 32.
    Together,
    /// Follows the loop's measurements of the time per reply. Quick replies are sent immediately,
    /// because the client stays awake between them, and so are slow ones; the others are sent
    /// together, as many as are prepared in 500 µs.
    #[default]
    Measured,
}

/// How long each stage of a drain may take. A [`Duration`] converts into a `Drain` with that first
/// stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    pub(super) finish: Duration,
    pub(super) close: Duration,
    pub(super) patience: Duration,
    /// The number of groups that are asked one after the other, and the time for all of them.
    pub(super) pace: (u32, Duration),
}

impl Drain {
    /// A drain in which connections may [finish](crate::Protocol::draining) on their own until
    /// `finish` has passed. Then unfinished ones are closed.
    pub fn within(finish: Duration) -> Drain {
        Drain {
            finish,
            close: Duration::from_millis(500),
            patience: Duration::from_secs(1),
            pace: (1, Duration::ZERO),
        }
    }

    /// Spreads the drain: connections are asked to finish in this many groups, one after the other
    /// in the time `over`, at slightly random moments, so that clients do not reconnect all at the
    /// same time. The first group is asked immediately. The time to finish begins after `over`.
    #[must_use]
    pub fn paced(mut self, groups: u32, over: Duration) -> Self {
        self.pace = (groups.max(1), over);
        self
    }

    /// Sets how long unfinished connections may flush written bytes once they are closed: 500 ms by
    /// default. Then they are aborted.
    #[must_use]
    pub fn close(mut self, close: Duration) -> Self {
        self.close = close;
        self
    }

    /// Sets how long the first stage waits for a silent peer: one that has not answered the end of our
    /// stream, a GOAWAY of HTTP/2 or the Close of a WebSocket. 1 s by default, and at least 1 ms. A
    /// new client is not silent: its handshake and its first request may take until the end of the
    /// stage.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

impl From<Duration> for Drain {
    fn from(finish: Duration) -> Drain {
        Drain::within(finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_options_match_the_documentation() {
        let options = LoopOptions::default();
        assert_eq!(options.driver, DriverChoice::Auto);
        assert_eq!(options.tuning.read_buffer, 256 * 1024);
        assert_eq!(options.shutdown_grace, Duration::from_millis(500));
        assert_eq!(options.tuning.job_grace, Duration::from_secs(5));
        assert!(!options.switches.has(Switch::Signals));
    }
}
