//! [`Inspector`]: its options, the loops that it looks at, and its thread.
//!
//! Contract: 182, 183, 184, 184b–184d.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use couplet_core::backlog::Backlog;
use couplet_core::hooks::inspector::{self as hooks, TableLimits};
use couplet_core::{Failure, LoopOptions, Reactor};

use crate::keeping::{self, FlagRecordings};
use crate::recording::Recording;
use crate::server::{Recorded, Source};
use crate::thread::{self, InspectorThread};

/// Ended loops that are kept for the [recording](Inspector::record_at_end) at the end.
const ENDED: u64 = 16;

/// [`LoopOptions`] with an inspector.
pub trait Inspect {
    /// Has the loops with these options inspected: by an [`Inspector`], or by a new one at this
    /// endpoint. All loops of a [`Cluster`](couplet_core::Cluster) are shown side by side.
    ///
    /// An inspected loop keeps the source locations of timed calls, tasks and jobs. A loop over
    /// [another driver](couplet_core::Loop::with_driver) has the times of that driver's clock.
    #[must_use]
    fn inspect(self, by: impl Into<Inspector>) -> Self;
}

impl Inspect for LoopOptions {
    fn inspect(self, by: impl Into<Inspector>) -> LoopOptions {
        hooks::inspect(self, by.into().0)
    }
}

/// Shows the loops of a program. Cheap to clone.
///
/// The inspector's thread starts with the first loop, and ends with the last. If the endpoint can't
/// be opened, the first loop is not created, and the error says why.
///
/// ```
/// use couplet::inspect::{Inspect, Inspector};
/// use couplet::{Loop, LoopOptions};
///
/// let inspector = Inspector::at("tcp:0:interface=127.0.0.1").program("poems", "1.0");
/// let l = Loop::with_options(LoopOptions::default().inspect(&inspector))?;
/// println!("look at {}", inspector.url().expect("it has a loop"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Inspector(Arc<SharedInspector>);

/// The state of an inspector that its loops, its thread and its owner share.
pub(crate) struct SharedInspector {
    pub(crate) options: Options,
    state: Mutex<InspectorState>,
}

/// The settings of an inspector.
#[derive(Clone)]
pub(crate) struct Options {
    /// `None`: without a page.
    pub(crate) endpoint: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) is_public: bool,
    pub(crate) name: String,
    pub(crate) version: String,
    ring_size: usize,
    histories: usize,
    pub(crate) page_timeout: Duration,
    pub(crate) has_actions: bool,
    pub(crate) set_log: Option<SetLog>,
    pub(crate) frames: Option<Frames>,
    logged_connections: usize,
    tables: TableLimits,
    /// The most bytes of each chunk, and the memory for them.
    contents: (usize, usize),
    announce: Arc<dyn Fn(&str) + Send + Sync>,
    at_end: Option<PathBuf>,
    pub(crate) flag_recordings: FlagRecordings,
}

/// Sets the levels of the log, or returns a problem in words.
pub(crate) type SetLog = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Returns the frames of a hanging loop in a guest's language.
pub(crate) type Frames = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

#[derive(Default)]
struct InspectorState {
    loops: Vec<Kept>,
    thread: Option<InspectorThread>,
    /// How many loops have ended.
    ends: u64,
}

struct Kept {
    inspected: Arc<hooks::InspectedLoop>,
    /// How many loops had ended when this one had, if it has.
    ended: Option<u64>,
}

impl Inspector {
    /// An inspector that listens at this endpoint: `8099`, which is port 8099 on the loopback
    /// interface, `tcp:8099:interface=::1`, `unix:/run/app/inspect.sock`.
    ///
    /// A UNIX socket is accessible only to the user of the process, and needs no token.
    pub fn at(endpoint: impl Into<String>) -> Inspector {
        Inspector::with_endpoint(Some(endpoint.into()))
    }

    /// An inspector that serves no page: for [recordings](Self::recording) that the program makes.
    pub fn without_page() -> Inspector {
        Inspector::with_endpoint(None)
    }

    fn with_endpoint(endpoint: Option<String>) -> Inspector {
        Inspector::new(Options {
            endpoint,
            token: None,
            is_public: false,
            name: "couplet".to_owned(),
            version: String::new(),
            ring_size: 16 * 1024 * 1024,
            histories: 16,
            page_timeout: Duration::from_secs(20),
            has_actions: false,
            set_log: None,
            frames: None,
            logged_connections: 65_536,
            tables: TableLimits::default(),
            contents: (0, 16 * 1024 * 1024),
            announce: Arc::new(|url| {
                // The program may have no log, or one that others read.
                Backlog::stderr().push(format!("inspector: {url}\n"));
            }),
            at_end: None,
            flag_recordings: FlagRecordings::default(),
        })
    }

    fn new(options: Options) -> Inspector {
        Inspector(Arc::new(SharedInspector { options, state: Mutex::default() }))
    }

    fn with(self, change: impl FnOnce(&mut Options)) -> Inspector {
        let mut options = self.0.options.clone();
        change(&mut options);
        Inspector::new(options)
    }

    /// Sets the token that requests must have, instead of a random one. An empty token lets everyone
    /// in who can connect.
    #[must_use]
    pub fn token(self, token: impl Into<String>) -> Inspector {
        self.with(|options| options.token = Some(token.into()))
    }

    /// Sets whether the endpoint may accept connections from other machines: false by default, when
    /// such an endpoint is an error. The page and the token travel unencrypted.
    #[must_use]
    pub fn public(self, on: bool) -> Inspector {
        self.with(|options| options.is_public = on)
    }

    /// Sets the name and the version of the program, as the page shows them.
    #[must_use]
    pub fn program(self, name: impl Into<String>, version: impl Into<String>) -> Inspector {
        self.with(|options| (options.name, options.version) = (name.into(), version.into()))
    }

    /// Sets the memory for the last events of each loop, in bytes: 16 MiB by default, which is a million
    /// events.
    #[must_use]
    pub fn ring_size(self, bytes: usize) -> Inspector {
        self.with(|options| options.ring_size = bytes)
    }

    /// Sets how many callbacks of each Deferred are kept in the loops' threads: 16 by default. With 0,
    /// the inspector shows neither Deferreds nor locks, and no reasons of tasks. Keeping them costs
    /// some hundred nanoseconds for each Deferred and each callback.
    #[must_use]
    pub fn histories(self, most: usize) -> Inspector {
        self.with(|options| options.histories = most)
    }

    /// Sets how long a page may take to read a message before it is cut: 20 s by default. Until then
    /// one message is buffered for it.
    #[must_use]
    pub fn page_timeout(self, most: Duration) -> Inspector {
        self.with(|options| options.page_timeout = most)
    }

    /// Sets whether the holders of the token may act: close, reset, pause and resume connections, and
    /// set the levels of the log. False by default: the inspector only looks.
    #[must_use]
    pub fn actions(self, on: bool) -> Inspector {
        self.with(|options| options.has_actions = on)
    }

    /// Sets the function that sets the levels of the program's log, for [`actions`](Self::actions).
    /// Called in the inspector's thread with a text such as `couplet=debug,info`, `set` returns a problem
    /// in words.
    #[must_use]
    pub fn set_log(
        self,
        set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Inspector {
        self.with(|options| options.set_log = Some(Arc::new(set)))
    }

    /// Sets a function that returns the frames of a hanging loop in another language than Rust, innermost
    /// first: they precede the frames of its backtrace. Called in the inspector's thread while a loop
    /// does not answer, `frames` must return soon: the page waits for it. For programs with one loop.
    #[must_use]
    pub fn frames(self, frames: impl Fn() -> Vec<String> + Send + Sync + 'static) -> Inspector {
        self.with(|options| options.frames = Some(Arc::new(frames)))
    }

    /// Sets of how many connections of each loop the addresses are kept for recordings: the last
    /// 65 536 by default, at least 1, each about 150 bytes.
    #[must_use]
    pub fn logged_connections(self, count: usize) -> Inspector {
        self.with(|options| options.logged_connections = count)
    }

    /// Sets the limits of the tables of each loop other than its connections, which recordings show
    /// as of an earlier time.
    #[must_use]
    pub fn tables(self, limits: TableLimits) -> Inspector {
        self.with(|options| options.tables = limits)
    }

    /// Keeps the first bytes of each chunk that a connection received or wrote, for
    /// [recordings](crate::Recording) and the page: 0 by default, which keeps none. The chunks are
    /// the bytes of the socket, ciphertext under TLS. A recording then has the secrets that its
    /// connections exchanged in plain text.
    #[must_use]
    pub fn contents(self, bytes: usize) -> Inspector {
        self.with(|options| options.contents.0 = bytes)
    }

    /// Sets the memory for the [contents](Self::contents) of each loop, in bytes: 16 MiB by default.
    /// The newest are kept, each at most a quarter of the memory.
    #[must_use]
    pub fn contents_size(self, bytes: usize) -> Inspector {
        self.with(|options| options.contents.1 = bytes)
    }

    /// Sets the function that gets the URL of the page when it opens, in the thread of the first loop.
    /// By default a line with the URL is printed on stderr.
    #[must_use]
    pub fn announce(self, announce: impl Fn(&str) + Send + Sync + 'static) -> Inspector {
        self.with(|options| options.announce = Arc::new(announce))
    }

    /// Writes a [`Recording`](crate::Recording) to this file when the last loop ends, in that loop's
    /// thread: after a signal too, and after a panic that unwinds. An error is logged. A loop that
    /// ends earlier keeps its events until then.
    #[must_use]
    pub fn record_at_end(self, file: impl Into<PathBuf>) -> Inspector {
        self.with(|options| options.at_end = Some(file.into()))
    }

    /// Writes a [`Recording`](crate::Recording) of the last minute into this folder when a red flag
    /// is raised, or a call was slow: `NAME-TIME-FLAG.rec`, with the name of the program, the time
    /// (UTC) and the flag. Errors are logged.
    ///
    /// The inspector then looks at the loops once a second, even without a reader: it reads their
    /// new events, and takes a snapshot of each, without making rows. While it writes, it needs as
    /// much memory again as the rings.
    #[must_use]
    pub fn record_flags(self, folder: impl Into<PathBuf>) -> Inspector {
        self.with(|options| options.flag_recordings.folder = Some(folder.into()))
    }

    /// Sets how many recordings of the program the folder of [`record_flags`](Self::record_flags)
    /// keeps, with the ones of earlier runs: 10 by default, at least 1. The oldest are removed.
    #[must_use]
    pub fn kept_recordings(self, count: usize) -> Inspector {
        self.with(|options| options.flag_recordings.kept = count.max(1))
    }

    /// Sets the shortest time between two recordings of [`record_flags`](Self::record_flags): a
    /// minute by default. Flags that are raised earlier are not recorded.
    #[must_use]
    pub fn recording_pause(self, pause: Duration) -> Inspector {
        self.with(|options| options.flag_recordings.pause = pause)
    }

    /// The last events of all loops and their state: the bytes of a [`Recording`](crate::Recording).
    ///
    /// Waits for the inspector's thread. In a loop's own thread that loop can't answer, and its
    /// state is missing: call this with [`Reactor::defer_to_thread`](couplet_core::Reactor).
    ///
    /// # Errors
    ///
    /// When no loop is inspected.
    pub fn recording(&self) -> io::Result<Vec<u8>> {
        hooks::Inspector::recording(&*self.0)
    }

    /// Closes the port, and ends the thread; the inspected loops continue. For programs that end
    /// without dropping their loops. A later loop opens the port again.
    pub fn close(&self) {
        let thread = self.0.state().thread.take();
        if let Some(thread) = thread {
            self.0.end(thread);
        }
        self.0.state().loops.clear();
    }

    /// Serves the page with the file of a [`Recording`] in this loop, and returns the URL. The port
    /// stays open as long as the loop. The rules for endpoints, tokens and [`public`](Self::public)
    /// apply as to a program's page; other options do not matter.
    ///
    /// ```
    /// use couplet::Loop;
    /// use couplet::inspect::Inspector;
    ///
    /// let l = Loop::new()?;
    /// let failure = Inspector::at("0").replay(&l.reactor(), "a poem").expect_err("no recording");
    /// assert!(failure.to_string().starts_with("cannot read the recording: "));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The file is no recording, or it is damaged. The endpoint can't be opened, or other machines
    /// could reach it.
    pub fn replay(
        &self,
        reactor: &Reactor,
        file: impl Into<Bytes>,
    ) -> couplet_core::Result<String> {
        let file = file.into();
        let recording = Recording::parse(&file)
            .map_err(|error| Failure::msg(format!("cannot read the recording: {error}")))?;
        let options = &self.0.options;
        let endpoint = options.endpoint.as_deref();
        let endpoint = endpoint.ok_or_else(|| Failure::msg("this inspector serves no page"))?;
        let source = Source::Recording(Rc::new(Recorded { recording, file }));
        let url = thread::open(reactor, endpoint, options, source)?;
        Ok(match url.contains('?') {
            true => format!("{url}&recording"),
            false if url.starts_with("http:") => format!("{url}?recording"),
            // A UNIX socket.
            false => url,
        })
    }

    /// The URL of the page, with its token, while a loop is inspected. For a UNIX socket: its
    /// endpoint.
    pub fn url(&self) -> Option<String> {
        hooks::Inspector::url(&*self.0)
    }
}

impl SharedInspector {
    fn state(&self) -> MutexGuard<'_, InspectorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inspected loops, in the order of their creation.
    pub(crate) fn loops(&self) -> Vec<Arc<hooks::InspectedLoop>> {
        self.state().loops.iter().map(|kept| kept.inspected.clone()).collect()
    }

    /// Writes the recording at the end, and ends the thread.
    fn end(&self, thread: InspectorThread) {
        // A loop that never ran has no events to record.
        let has_events = self.loops().iter().any(|it| it.ring.count() > 0);
        if let Some(file) = self.options.at_end.as_ref().filter(|_| has_events) {
            keeping::record_at_end(&thread.remote(), file);
        }
        thread.end();
    }
}

impl hooks::Inspector for SharedInspector {
    fn ring_size(&self) -> usize {
        self.options.ring_size
    }

    fn histories(&self) -> usize {
        self.options.histories
    }

    fn logged_connections(&self) -> usize {
        self.options.logged_connections
    }

    fn tables(&self) -> TableLimits {
        self.options.tables
    }

    fn contents(&self) -> (usize, usize) {
        self.options.contents
    }

    fn attach(self: Arc<Self>, inspected: hooks::InspectedLoop) -> io::Result<Box<dyn Any>> {
        let mut state = self.state();
        let mut opened = None;
        if state.thread.is_none() {
            let thread = InspectorThread::start(&self)?;
            opened = thread.url().map(str::to_owned);
            state.thread = Some(thread);
        }
        let inspected = Arc::new(inspected);
        state.loops.push(Kept { inspected: inspected.clone(), ended: None });
        drop(state);
        let attached = Attached { inspector: self, inspected };
        if let Some(url) = opened {
            // Unlocked, as it may wait for the reader of a full pipe, while the inspector answers.
            (attached.inspector.options.announce)(&url);
        }
        Ok(Box::new(attached))
    }

    fn url(&self) -> Option<String> {
        self.state().thread.as_ref()?.url().map(str::to_owned)
    }

    fn recording(&self) -> io::Result<Vec<u8>> {
        let thread = self.state().thread.as_ref().map(InspectorThread::remote);
        let ask = |remote| thread::recording(&remote);
        thread.and_then(ask).ok_or_else(|| io::Error::other("no loop is inspected"))
    }
}

impl InspectorState {
    /// A loop has ended. If `is_kept`, its events stay, unless ENDED loops have ended after it.
    fn loop_ended(&mut self, inspected: &Arc<hooks::InspectedLoop>, is_kept: bool) {
        self.ends += 1;
        if let Some(kept) = self.loops.iter_mut().find(|it| Arc::ptr_eq(&it.inspected, inspected)) {
            kept.ended = Some(self.ends);
        }
        let oldest = match is_kept {
            true => self.ends.saturating_sub(ENDED),
            false => self.ends,
        };
        self.loops.retain(|kept| kept.ended.is_none_or(|ended| ended > oldest));
    }
}

/// A loop that an inspector shows, until this is dropped.
struct Attached {
    inspector: Arc<SharedInspector>,
    inspected: Arc<hooks::InspectedLoop>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.inspector.state();
        state.loop_ended(&self.inspected, self.inspector.options.at_end.is_some());
        let is_last = state.loops.iter().all(|kept| kept.ended.is_some());
        let thread = state.thread.take_if(|_| is_last);
        drop(state);
        if let Some(thread) = thread {
            self.inspector.end(thread);
        }
        if is_last {
            self.inspector.state().loops.retain(|kept| kept.ended.is_none());
        }
    }
}

impl From<&Inspector> for Inspector {
    fn from(inspector: &Inspector) -> Inspector {
        inspector.clone()
    }
}

impl From<&str> for Inspector {
    fn from(endpoint: &str) -> Inspector {
        Inspector::at(endpoint)
    }
}

impl From<String> for Inspector {
    fn from(endpoint: String) -> Inspector {
        Inspector::at(endpoint)
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("endpoint", &self.0.options.endpoint)
            .finish_non_exhaustive()
    }
}
