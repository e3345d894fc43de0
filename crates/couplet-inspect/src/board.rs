//! The board: the present state of all loops, as views and messages. Lives in the inspector's
//! thread, and asks the loops when a reader needs their state.
//!
//! Contract: 179, 183, 184a, 184b.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet_core::backlog;
use couplet_core::defer::{Deferred, DeferredLock, Resolver};
use couplet_core::hooks::SortedMap;
use couplet_core::hooks::inspector::InspectedLoop;
use couplet_core::hooks::present_time;
use couplet_core::reactor::Snapshot;
use couplet_core::{ConnectionId, Reactor, Remote, Result};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::activity::{Activity, Pace, Time};
use crate::clock::{Clock, spell_out};
use crate::flags::{Facts, Flag, History, flags};
use crate::inspector::{Options, SharedInspector};
use crate::recording::{self, Header, LoopRecords, Marks};
use crate::rows::{LoopName, Rows, VIEWS, named};
use crate::view::{Version, View};

/// How long loops may take to answer. A slower loop is shown with its last answer and its
/// backtrace.
const PATIENCE: Duration = Duration::from_millis(40);

/// Readers that come within this time get the same state.
const FRESH: Duration = Duration::from_millis(100);

thread_local! {
    /// The board of this thread, for the answers of loops.
    static BOARD: RefCell<Option<Rc<Board>>> = const { RefCell::new(None) };
}

pub(crate) struct Board {
    reactor: Reactor,
    inspector: Arc<SharedInspector>,
    clock: Clock,
    started: f64,
    /// One reader at a time asks the loops.
    asking: DeferredLock,
    state: RefCell<BoardState>,
}

struct BoardState {
    version: u64,
    /// When the views were made.
    made_at: Option<Instant>,
    views: SortedMap<&'static str, View>,
    loops: SortedMap<u32, Watched>,
    /// Fires when every loop has answered.
    answered: Option<Resolver<()>>,
    /// Fires when a thread has got the backtraces; `None` if none is asked for them.
    traced: Option<Resolver<()>>,
    marks: Marks,
}

impl BoardState {
    fn new() -> BoardState {
        let views = VIEWS.into_iter().map(|name| (name, View::default())).collect();
        let (loops, marks) = (SortedMap::new(), Marks::default());
        BoardState { version: 0, made_at: None, views, loops, answered: None, traced: None, marks }
    }

    /// The views in the order of the page: the program's own are the last.
    fn views(&self) -> impl Iterator<Item = (&'static str, &View)> {
        let known = VIEWS.into_iter().filter_map(|name| Some((name, self.views.get(name)?)));
        let all = self.views.iter().map(|(name, view)| (*name, view));
        known.chain(all.filter(|(name, _)| !VIEWS.contains(name)))
    }

    /// The red flags of all loops.
    fn flags(&self) -> Vec<&Flag> {
        let mut flags: Vec<&Flag> = self.loops.values().flat_map(|it| &it.flags).collect();
        flags.sort_by_key(|flag| flag.severity());
        flags
    }

    /// The time of the loops in the last minute.
    fn time(&self) -> Vec<Time> {
        let loops = self.loops.values();
        let mut times: Vec<_> =
            loops.map(|watched| watched.activity.time(watched.number)).collect();
        times.sort_by_key(|time| time.r#loop);
        times
    }

    /// The loops.
    fn loops(&self, now: Instant) -> Vec<LoopRow<'_>> {
        let mut watched: Vec<&Watched> = self.loops.values().collect();
        watched.sort_by_key(|watched| watched.number);
        watched.into_iter().map(|watched| watched.row(now)).collect()
    }
}

/// A loop, as the board knows it.
struct Watched {
    inspected: Arc<InspectedLoop>,
    /// The loop's place in the list of loops.
    number: usize,
    /// When it was asked, until it answers.
    asked_at: Option<Instant>,
    /// The loop was dropped, and its events are kept for a recording.
    has_ended: bool,
    /// The loop's last answer.
    snapshot: Snapshot,
    activity: Activity,
    doing: Option<Doing>,
    history: History,
    flags: Vec<Flag>,
}

/// The call of a loop that does not answer.
#[derive(Serialize)]
struct Doing {
    what: String,
    /// The row of the connection whose callback it is.
    row: Option<String>,
    r#for: f64,
    backtrace: Vec<String>,
    /// How many of them are frames of a guest: they are the first.
    #[serde(skip)]
    guest: usize,
}

impl Doing {
    fn held(&self) -> Duration {
        Duration::try_from_secs_f64(self.r#for).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct LoopRow<'a> {
    id: usize,
    name: String,
    serial: u32,
    thread: &'a str,
    state: &'static str,
    /// The part of the last second that the loop did not wait.
    busy: f64,
    /// Per second.
    turns: f64,
    events: f64,
    connections: usize,
    ports: usize,
    connectors: usize,
    calls: usize,
    tasks: usize,
    jobs: usize,
    watches: usize,
    ended: BTreeMap<&'static str, u64>,
    #[serde(flatten)]
    counters: BTreeMap<&'static str, u64>,
    notes: &'a [String],
    doing: &'a Option<Doing>,
}

#[derive(Serialize)]
struct Program<'a> {
    name: &'a str,
    version: &'a str,
    pid: u32,
    started: f64,
    now: f64,
    /// Whether connections can be closed and paused.
    actions: bool,
    /// Whether the levels of the log can be set.
    sets_log: bool,
}

/// The state of the program, with something about each view.
#[derive(Serialize)]
struct Message<'a, V: Serialize> {
    program: Program<'a>,
    flags: Vec<&'a Flag>,
    loops: Vec<LoopRow<'a>>,
    time: Vec<Time>,
    /// The number of rows in each view.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<BTreeMap<&'a str, usize>>,
    #[serde(serialize_with = "in_order")]
    views: Vec<(&'a str, V)>,
}

impl Board {
    /// The board of this thread.
    pub(crate) fn new(reactor: &Reactor, inspector: Arc<SharedInspector>) -> Rc<Board> {
        let clock = Clock::new(reactor);
        let board = Rc::new(Board {
            reactor: reactor.clone(),
            inspector,
            clock,
            started: clock.unix(reactor.now()),
            asking: DeferredLock::new(),
            state: RefCell::new(BoardState::new()),
        });
        BOARD.set(Some(board.clone()));
        board
    }

    /// The board of the inspector's thread, in that thread.
    pub(crate) fn of_this_thread() -> Option<Rc<Board>> {
        BOARD.with_borrow(Clone::clone)
    }

    pub(crate) fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// Asks all loops, and updates the views. A loop that does not answer in time keeps its rows.
    pub(crate) async fn refresh(&self) -> Result<()> {
        self.refresh_unless(FRESH).await
    }

    /// The same, even if the last reader came just now: the loops may have ended since.
    pub(crate) async fn refresh_now(&self) -> Result<()> {
        self.refresh_unless(Duration::ZERO).await
    }

    /// Updates the views, unless they are younger than this.
    async fn refresh_unless(&self, fresh: Duration) -> Result<()> {
        let _permit = self.asking.acquire().await?;
        let now = self.reactor.now();
        let made_at = self.state.borrow().made_at;
        if made_at.is_some_and(|at| now.saturating_duration_since(at) < fresh) {
            return Ok(());
        }
        self.measure(now).await;
        self.update();
        Ok(())
    }

    /// Asks all loops, and raises their flags, but makes no rows.
    pub(crate) async fn watch(&self) -> Result<()> {
        let _permit = self.asking.acquire().await?;
        self.measure(self.reactor.now()).await;
        let now = self.reactor.now();
        let BoardState { loops, marks, .. } = &mut *self.state.borrow_mut();
        for watched in loops.values_mut() {
            watched.raise_flags(now, self.clock, marks);
        }
        Ok(())
    }

    async fn measure(&self, now: Instant) {
        self.meet_loops();
        if let Some(answered) = self.ask_loops(now) {
            // The state of a loop that needs longer is shown without its answer.
            let _ = answered.add_timeout(&self.reactor, PATIENCE).await;
        }
        self.look();
        if let Some(traced) = self.trace() {
            // Later readers see a backtrace that takes longer.
            let _ = traced.add_timeout(&self.reactor, PATIENCE).await;
        }
    }

    /// The flags that are up.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        self.state.borrow().flags().into_iter().cloned().collect()
    }

    /// Adds new loops, and removes ended ones.
    fn meet_loops(&self) {
        let loops = self.inspector.loops();
        let mut state = self.state.borrow_mut();
        state.loops.retain(|serial, _| loops.iter().any(|inspected| inspected.serial == *serial));
        for (number, inspected) in loops.into_iter().enumerate() {
            let watched = state.loops.get_or_insert_with(inspected.serial, || Watched {
                inspected,
                number,
                asked_at: None,
                has_ended: false,
                snapshot: Snapshot::default(),
                activity: Activity::new(),
                doing: None,
                history: History::default(),
                flags: Vec::new(),
            });
            watched.number = number;
        }
    }

    /// Asks each loop that has answered the last question. The Deferred fires when all loops that
    /// were asked have answered.
    fn ask_loops(&self, now: Instant) -> Option<Deferred<()>> {
        let mut state = self.state.borrow_mut();
        let mut is_one_asked = false;
        for (serial, watched) in state.loops.iter_mut() {
            if watched.asked_at.is_some() {
                continue;
            }
            watched.has_ended = !ask(*serial, &watched.inspected, &self.reactor);
            if !watched.has_ended {
                watched.asked_at = Some(now);
                is_one_asked = true;
            }
        }
        if !is_one_asked {
            return None;
        }
        let (answered, resolver) = Deferred::new();
        // The one before has timed out.
        state.answered = Some(resolver);
        Some(answered)
    }

    /// A loop has answered, or has ended without an answer.
    fn answered(&self, serial: u32, snapshot: Option<Snapshot>) {
        let mut state = self.state.borrow_mut();
        if let Some(watched) = state.loops.get_mut(&serial) {
            (watched.asked_at, watched.doing) = (None, None);
            match snapshot {
                Some(snapshot) => watched.snapshot = snapshot,
                None => watched.has_ended = true,
            }
        }
        let is_complete = state.loops.values().all(|watched| watched.asked_at.is_none());
        let resolver = state.answered.take_if(|_| is_complete);
        drop(state);
        if let Some(resolver) = resolver {
            resolver.callback(());
        }
    }

    /// Reads the events of all loops, and notes the calls of those that do not answer.
    fn look(&self) {
        let now = self.reactor.now();
        for watched in self.state.borrow_mut().loops.values_mut() {
            let Watched { inspected, activity, asked_at, .. } = watched;
            activity.read(&inspected.ring, now);
            let Some(asked_at) = asked_at else { continue };
            let doing = activity.doing(inspected.serial, &inspected.ring, now);
            let (what, held) = doing.unwrap_or_else(|| {
                let unknown = "something else than a call into the program".to_owned();
                (unknown, now.saturating_duration_since(*asked_at))
            });
            let frames = self.inspector.options.frames.as_ref();
            let mut backtrace = frames.map(|frames| frames()).unwrap_or_default();
            let guest = backtrace.len();
            if let Some(mut before) = watched.doing.take() {
                backtrace.extend(before.backtrace.drain(before.guest..));
            }
            let row = activity.connection().and_then(|slot| {
                let begins = format!("{}.{slot}.", inspected.serial);
                let mut ids = watched.snapshot.connections.iter().map(|it| it.id.to_string());
                ids.find(|id| id.starts_with(&begins))
            });
            watched.doing = Some(Doing { what, row, r#for: held.as_secs_f64(), backtrace, guest });
        }
    }

    /// Gets the backtraces of the loops that do not answer, in a thread, as the names of a large
    /// program take time. The Deferred fires when all are read.
    fn trace(&self) -> Option<Deferred<()>> {
        let mut state = self.state.borrow_mut();
        let hung = state.loops.values().filter(|watched| watched.doing.is_some());
        let hung: Vec<_> = hung.map(|watched| watched.inspected.clone()).collect();
        if hung.is_empty() || state.traced.is_some() {
            return None;
        }
        let (traced, resolver) = Deferred::new();
        state.traced = Some(resolver);
        drop(state);
        let trace = |it: &Arc<InspectedLoop>| (it.serial, it.backtrace().unwrap_or_default());
        let job = self.reactor.defer_to_thread(move || Ok(hung.iter().map(trace).collect()));
        let note = async move {
            let backtraces = job.await.unwrap_or_default();
            if let Some(board) = Board::of_this_thread() {
                board.traced(backtraces);
            }
            Ok(())
        };
        self.reactor.spawn(note).detach();
        Some(traced)
    }

    /// Stores the backtraces.
    fn traced(&self, backtraces: Vec<(u32, String)>) {
        let mut state = self.state.borrow_mut();
        let resolver = state.traced.take();
        for (serial, text) in backtraces {
            // A loop that has answered by now is in no call.
            let watched = state.loops.get_mut(&serial);
            if let Some(doing) = watched.and_then(|watched| watched.doing.as_mut()) {
                doing.backtrace.truncate(doing.guest);
                doing.backtrace.extend(text.lines().map(str::to_owned));
            }
        }
        drop(state);
        if let Some(resolver) = resolver {
            resolver.callback(());
        }
    }

    /// Updates the rows to a new version.
    fn update(&self) {
        let now = self.reactor.now();
        let mut state = self.state.borrow_mut();
        let BoardState { version, views, loops, made_at, marks, .. } = &mut *state;
        *version += 1;
        *made_at = Some(now);
        for watched in loops.values_mut() {
            let (serial, number) = (watched.inspected.serial, watched.number);
            let of = LoopName { number, serial, clock: self.clock };
            let version = Version { number: *version, now };
            Rows { of, version, views }.add(&watched.snapshot);
            watched.raise_flags(now, self.clock, marks);
        }
        for view in views.values_mut() {
            view.end_version(*version);
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inspector.options
    }

    /// The present version of the views.
    pub(crate) fn version(&self) -> u64 {
        self.state.borrow().version
    }

    /// Everything as one object of JSON, for people and scripts: times in sentences are spelt out.
    pub(crate) fn everything(&self) -> String {
        let state = self.state.borrow();
        self.readable(&self.about(&state, None, state.views().collect()))
    }

    /// The rows of a view, or `loops`, as an array of JSON.
    pub(crate) fn rows(&self, name: &str) -> Option<String> {
        let state = self.state.borrow();
        Some(match name {
            "loops" => self.readable(&state.loops(self.reactor.now())),
            "time" => self.readable(&state.time()),
            "flags" => self.readable(&state.flags()),
            _ => self.readable(state.views.get(name)?),
        })
    }

    /// The message to a page that has seen this version: the changed rows of some views, or of all,
    /// and the number of rows in each.
    pub(crate) fn message(&self, wanted: Option<&[String]>, seen: u64) -> String {
        let state = self.state.borrow();
        let counts = state.views().map(|(name, view)| (name, view.len())).collect();
        let is_wanted = |name| wanted.is_none_or(|views| views.iter().any(|view| view == name));
        let views = state.views().filter(|(name, _)| is_wanted(*name));
        let changes = views.map(|(name, view)| (name, view.changes(seen))).collect();
        to_json(&self.about(&state, Some(counts), changes))
    }

    /// The events of all loops, and the present state: see [`Recording`](crate::Recording). `last`:
    /// only the events of this time until now.
    pub(crate) fn recording(&self, last: Option<Duration>) -> Vec<u8> {
        let text = RawValue::from_string(self.everything().trim_end().to_owned());
        let (mut loops, mut records, mut contents) = (Vec::new(), Vec::new(), Vec::new());
        let state = self.state.borrow();
        for watched in state.loops.values() {
            let it = &watched.inspected;
            // The turn's time would belong to earlier ticks: the clock of a young ring would be wrong.
            let now = present_time(&self.reactor);
            let rings = (&*it.ring, &*it.frames);
            let read = LoopRecords::read(watched.number, it.serial, it.thread(), rings);
            let (header, own, kept) = read.until(now, last, self.clock);
            loops.push(header);
            records.push(own);
            contents.push(kept);
        }
        // Our own state is JSON.
        let (text, marks) = (text.unwrap_or_default(), state.marks.list());
        recording::bytes(
            &Header { made: self.now(), loops, marks, state: text },
            &records,
            &contents,
        )
    }

    /// A connection with the ID of its row, and its loop.
    pub(crate) fn connection(&self, id: &str) -> Option<(Arc<InspectedLoop>, ConnectionId)> {
        let state = self.state.borrow();
        state.loops.values().find_map(|watched| {
            let mut connections = watched.snapshot.connections.iter();
            let found = connections.find(|connection| connection.id.to_string() == id)?;
            Some((watched.inspected.clone(), found.id))
        })
    }

    fn now(&self) -> f64 {
        self.clock.unix(self.reactor.now())
    }

    /// The program and its loops, with something about each view.
    fn about<'a, V: Serialize>(
        &'a self,
        state: &'a BoardState,
        counts: Option<BTreeMap<&'a str, usize>>,
        views: Vec<(&'a str, V)>,
    ) -> Message<'a, V> {
        let options = &self.inspector.options;
        let program = Program {
            name: &options.name,
            version: &options.version,
            pid: std::process::id(),
            started: self.started,
            now: self.now(),
            actions: options.has_actions,
            sets_log: options.has_actions && options.set_log.is_some(),
        };
        let (flags, loops, time) = (state.flags(), state.loops(self.reactor.now()), state.time());
        Message { program, flags, loops, time, counts, views }
    }

    /// JSON for people and scripts, with a newline: times in sentences are spelt out.
    fn readable(&self, value: &impl Serialize) -> String {
        spell_out(&format!("{}\n", to_json(value)), self.now())
    }
}

impl Watched {
    /// Raises and lowers the flags. Raised ones leave a mark.
    fn raise_flags(&mut self, now: Instant, clock: Clock, marks: &mut Marks) {
        let Watched { number, snapshot, activity, doing, history, .. } = self;
        let second = Activity::seconds_at(&self.inspected.ring, now);
        let held = doing.as_ref().map(|doing| (&*doing.what, doing.held()));
        let logs = if *number == 0 { backlog::all() } else { Vec::new() };
        let facts = Facts { number: *number, snapshot, activity, held, now, second, logs: &logs };
        let raised = flags(&facts, history, clock);
        for flag in &raised {
            if self.flags.iter().all(|before| before.id() != flag.id()) {
                marks.add(flag.mark());
            }
        }
        self.flags = raised;
    }

    fn row(&self, now: Instant) -> LoopRow<'_> {
        let snapshot = &self.snapshot;
        let Pace { busy, turns, events } = self.activity.pace(&self.inspected.ring, now);
        LoopRow {
            id: self.number,
            name: format!("loop {}", self.number),
            serial: self.inspected.serial,
            thread: self.inspected.thread(),
            state: match (self.has_ended, self.asked_at) {
                (true, _) => "ended",
                (false, Some(_)) => "hung",
                (false, None) => "running",
            },
            busy: (busy * 1e4).round() / 1e4,
            turns,
            events,
            connections: snapshot.connections.len(),
            ports: snapshot.ports.len() + snapshot.datagrams.len(),
            connectors: snapshot.connectors.len(),
            calls: snapshot.pending_calls,
            tasks: snapshot.tasks,
            jobs: snapshot.jobs,
            watches: snapshot.watches,
            ended: snapshot.ended.reasons().filter(|(_, count)| *count > 0).collect(),
            counters: named(snapshot.counters.iter()),
            notes: &snapshot.notes,
            doing: &self.doing,
        }
    }
}

/// A question to a loop. Dropping it passes its answer to the board; a loop that ends has given none.
struct Question {
    serial: u32,
    inspector: Remote,
    answer: Option<Snapshot>,
}

impl Question {
    fn answer(mut self, snapshot: Snapshot) {
        self.answer = Some(snapshot);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let (serial, answer) = (self.serial, self.answer.take());
        // The inspector may have ended.
        let _ = self.inspector.call(move |_| {
            if let Some(board) = Board::of_this_thread() {
                board.answered(serial, answer);
            }
        });
    }
}

/// Asks a loop for a snapshot. False if the loop has ended.
fn ask(serial: u32, inspected: &InspectedLoop, reactor: &Reactor) -> bool {
    let question = Question { serial, inspector: reactor.remote(), answer: None };
    let asked = move |reactor: &Reactor| {
        let answer = reactor.snapshot().add_callback(move |snapshot| {
            question.answer(snapshot);
            Ok(())
        });
        answer.detach();
    };
    inspected.remote.call(asked).is_ok()
}

/// Writes pairs as an object that keeps their order.
fn in_order<V: Serialize, S: Serializer>(
    pairs: &[(&str, V)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// Serializes rows or their parts. Only maps with other keys than texts could fail; rows have none.
fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
