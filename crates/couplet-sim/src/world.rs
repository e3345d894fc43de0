//! [`Sim`]: the hosts' programs, and the event loop that advances time and turns them.
//!
//! Contract: 119d.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use couplet_core::defer::{Reporter, Result, Unhandled, set_reporter};
use couplet_core::driver::{Driver, Signal};
use couplet_core::hooks::simulator::{self, LayerReport};
use couplet_core::reactor::{Loop, LoopOptions, Reactor, Snapshot};
use couplet_defer::panics::capture_panics;

use super::driver::SimDriver;
use super::kernel::stream::Buffers;
use super::kernel::{Extent, Kernel, WorldAction, lookup_name};
use super::limits::Limits;
use super::random::nanos;
use super::recording::Recorder;
use super::restarts::{Moving, TakeOver};
use super::running::Running;
use super::trace::{Legend, TraceEvent};
use super::trapped::{self, Source};
use super::{Broken, Fault, Host, Link, Planned, Weather, witness};

/// Virtual time that [`Sim::finish`] allows programs to end.
const END: Duration = Duration::from_secs(120);
/// Virtual time that [`Sim::finish`] allows the network to become quiet: longer than any system
/// timeout.
const QUIET: Duration = Duration::from_secs(3600);

/// A world of hosts in virtual time.
///
/// See the [module](super) for an example.
pub struct Sim {
    pub(super) kernel: Rc<RefCell<Kernel>>,
    pub(super) programs: Vec<HostProgram>,
    weather: Weather,
    /// Indexes of the drawn faults to keep; `None` keeps all.
    keep: Option<Vec<usize>>,
    /// Every fault drawn; `keep` indexes into it.
    drawn: Vec<Planned>,
    draws: u64,
    /// Indexes of the kernel's faults added by hand.
    by_hand: Vec<usize>,
    limits: Limits,
    killed: bool,
    /// Failures left unhandled while loops turned.
    unhandled: Rc<RefCell<Vec<String>>>,
    /// Panics of user code do not fail the world.
    may_panic: bool,
    /// Programs that stop themselves may leave resources for the shutdown to cut off.
    may_leak: bool,
    pub(super) recorder: Option<Recorder>,
}

type ProgramFn = Rc<dyn Fn(&Reactor) -> Result<()>>;

#[derive(PartialEq, Eq)]
enum HostStage {
    /// Not started before the world runs.
    Added,
    /// About to start for the first time.
    Starting,
    /// Was started, with success or without. A fault may restart it.
    Started,
}

#[derive(Clone)]
enum HostKind {
    /// Without a program.
    Bare,
    Plain(ProgramFn),
    /// In a tokio runtime.
    #[cfg(feature = "sim-tokio")]
    WithTokio(ProgramFn),
}

pub(super) struct HostProgram {
    kind: HostKind,
    pub(super) running: Option<Running>,
    stage: HostStage,
    pub(super) take_over: Option<TakeOver>,
    /// The connections for its successor, while it is being replaced.
    pub(super) moving: Option<Moving>,
}

impl HostProgram {
    fn new(kind: HostKind, stage: HostStage) -> HostProgram {
        HostProgram { kind, running: None, stage, take_over: None, moving: None }
    }
}

impl Sim {
    /// An empty world. The same seed makes the same choices.
    pub fn new(seed: u64) -> Sim {
        Sim::with_weather(seed, Weather::Calm, None)
    }

    pub(super) fn with_weather(seed: u64, weather: Weather, keep: Option<Vec<usize>>) -> Sim {
        let mut kernel = Kernel::new(seed);
        kernel.link = weather.link(seed);
        Sim {
            kernel: Rc::new(RefCell::new(kernel)),
            programs: Vec::new(),
            weather,
            keep,
            drawn: Vec::new(),
            draws: 0,
            by_hand: Vec::new(),
            limits: Limits::default(),
            killed: false,
            unhandled: Rc::default(),
            may_panic: false,
            may_leak: false,
            recorder: None,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.kernel.borrow().seed
    }

    /// Shuffles orders that a program must not rely on, by this seed and the world's: the order of
    /// timed calls with the same deadline, and of tasks woken in one turn. To find ordering bugs,
    /// try many seeds. Without shuffling, these run in the order of the requests (contract 88), so
    /// that a seed of the world is one interleaving.
    ///
    /// Affects programs that start after this call.
    ///
    /// ```
    /// use couplet::sim::Sim;
    /// use std::time::Duration;
    ///
    /// let first_of = |seed: u64| {
    ///     let mut sim = Sim::new(1);
    ///     sim.shuffle(seed);
    ///     let notes = sim.notes();
    ///     sim.host("alone", move |reactor| {
    ///         for name in ["red", "green", "blue"] {
    ///             let notes = notes.clone();
    ///             reactor.call_later(Duration::from_secs(1), move || notes.note(name));
    ///         }
    ///         Ok(())
    ///     });
    ///     sim.keep_trace();
    ///     sim.run_for(Duration::from_secs(2)).expect("nothing breaks");
    ///     let trace = sim.trace();
    ///     ["red", "green", "blue"].into_iter().min_by_key(|name| trace.find(name))
    /// };
    /// assert_eq!(first_of(5), first_of(5));
    /// assert!((0..100).any(|seed| first_of(seed) != first_of(5)));
    /// ```
    pub fn shuffle(&mut self, seed: u64) {
        self.kernel.borrow_mut().shuffled = Some(seed);
    }

    // Hosts.

    /// Adds a host that runs this program, starting the next time the world runs, and again after
    /// each crash. All hosts can resolve its name. A program that fails on its first start breaks
    /// the world; a failed restart after a fault is retried every second.
    pub fn host(&mut self, name: &str, program: impl Fn(&Reactor) -> Result<()> + 'static) -> Host {
        self.add_host(name, HostKind::Plain(Rc::new(program)))
    }

    fn add_host(&mut self, name: &str, kind: HostKind) -> Host {
        let host = Host(self.kernel.borrow_mut().add_host(name));
        self.programs.push(HostProgram::new(kind, HostStage::Added));
        host
    }

    /// Like [`host`](Self::host), for a program that uses tokio: `tokio::spawn`, `tokio::time` and
    /// `tokio::sync` work, in virtual time. tokio's sockets do not; use Couplet's connections.
    ///
    /// tokio's tasks run, and its timers fire, at whole milliseconds. A crash drops them with the
    /// program. tokio's random choices (the order in a `tokio::select!` that is not `biased`, the
    /// receiver of a `watch` that is woken first) come from the seed if the program is built with
    /// `--cfg tokio_unstable`, in `RUSTFLAGS` or as `build.rustflags` in `.cargo/config.toml`.
    /// Otherwise tokio takes no seed, and its choices depend on the number of runtimes created in
    /// the process.
    ///
    /// # Panics
    ///
    /// The world panics if it runs inside another tokio runtime.
    #[cfg(feature = "sim-tokio")]
    pub fn host_with_tokio(
        &mut self,
        name: &str,
        program: impl Fn(&Reactor) -> Result<()> + 'static,
    ) -> Host {
        self.add_host(name, HostKind::WithTokio(Rc::new(program)))
    }

    /// Adds a host without a program, for [`socket`](Self::socket)s and
    /// [`datagrams`](Self::datagrams) controlled by the test, or for a [`driver`](Self::driver).
    pub fn bare_host(&mut self, name: &str) -> Host {
        self.add_host(name, HostKind::Bare)
    }

    /// The hosts, in the order of their creation.
    pub fn hosts(&self) -> Vec<Host> {
        (0..self.programs.len() as u32).map(Host).collect()
    }

    /// The name of a host.
    pub fn name(&self, host: Host) -> String {
        self.kernel.borrow().hosts[host.0 as usize].name.clone()
    }

    /// The IPv4 address of a host.
    pub fn address(&self, host: Host) -> IpAddr {
        self.kernel.borrow().hosts[host.0 as usize].v4.into()
    }

    /// The IPv6 address of a host.
    pub fn address_v6(&self, host: Host) -> IpAddr {
        self.kernel.borrow().hosts[host.0 as usize].v6.into()
    }

    /// Changes the addresses that a name resolves to on all hosts; lookups return them in this
    /// order. Connects to an unassigned address get no answer. A name without addresses exists but
    /// resolves to nothing. [`Fault::SlowNames`] delays the answer.
    pub fn set_name(&mut self, name: &str, addresses: &[IpAddr]) {
        self.kernel.borrow_mut().names.insert(lookup_name(name), addresses.to_vec());
    }

    /// The host's time of day. The seed sets hosts' clocks up to a quarter of an hour apart, and
    /// [faults](Fault) change them.
    pub fn wall_clock(&self, host: Host) -> SystemTime {
        let kernel = self.kernel.borrow();
        kernel.hosts[host.0 as usize].wall_clock(kernel.now)
    }

    /// Whether the host's program is running.
    pub fn is_running(&self, host: Host) -> bool {
        self.kernel.borrow().hosts[host.0 as usize].is_running()
    }

    /// Sends a signal to a host's program.
    pub fn signal(&mut self, host: Host, signal: Signal) {
        self.kernel.borrow_mut().signal(host.0, signal);
    }

    /// A snapshot of a host's loop, if its program is running.
    pub fn snapshot(&mut self, host: Host) -> Option<Snapshot> {
        let running = self.programs[host.0 as usize].running.as_mut();
        running.map(|running| running.l_mut().snapshot())
    }

    // The network.

    /// Sets the link between all hosts without a [specific link](Self::set_link).
    pub fn set_default_link(&mut self, link: Link) {
        self.kernel.borrow_mut().link = link;
    }

    /// Sets the link between two hosts, in both directions.
    pub fn set_link(&mut self, a: Host, b: Host, link: Link) {
        self.kernel.borrow_mut().set_link(a, b, link);
    }

    /// Limits a host's sending rate, in bytes per second. `None`, the default, sets no limit.
    pub fn set_bandwidth(&mut self, host: Host, bytes: Option<u64>) {
        self.kernel.borrow_mut().set_bandwidth(host.0, bytes);
    }

    /// Sets the socket buffer sizes of new connections, in bytes and for each direction: `send`
    /// holds bytes until they are acknowledged, `receive` until they are read. The default is 128
    /// KiB each.
    pub fn set_buffers(&mut self, send: usize, receive: usize) {
        let buffers = Buffers { send: send.max(1), receive: receive.max(1) };
        self.kernel.borrow_mut().buffers = buffers;
    }

    /// Lets callbacks panic from now on: a panic ends its own connection or is logged, as in any
    /// loop. By default every panic breaks the world.
    pub fn allow_panics(&mut self) {
        self.may_panic = true;
    }

    /// Lets programs stop themselves with ports, connections, timed calls and tasks still open, for
    /// the shutdown to cut off. By default each of these breaks the world.
    pub fn allow_leaks(&mut self) {
        self.may_leak = true;
    }

    // Limits.

    /// Limits the total number of events in this world; after that the world is given up, and
    /// breaks. 100 million by default, `None` for no limit. A program can keep the shipped loop
    /// busy forever.
    pub fn set_event_limit(&mut self, events: Option<u64>) {
        self.limits.events = events;
    }

    /// Limits the total real time that this world may run; after that the world is given up, and
    /// breaks. 5 minutes by default, `None` for no limit. The limit is checked between events: a
    /// callback that never returns is not interrupted.
    pub fn set_real_time_limit(&mut self, time: Option<Duration>) {
        self.limits.real_time = time;
    }

    /// Whether the world was given up at one of its limits.
    pub(super) fn was_given_up(&self) -> bool {
        self.limits.reached
    }

    // Faults.

    /// Plans a fault at `at`, counted from the start of the world, for the duration `lasts`.
    pub fn fault(&mut self, at: Duration, lasts: Duration, fault: Fault) {
        let mut kernel = self.kernel.borrow_mut();
        self.by_hand.push(kernel.faults.len());
        kernel.plan(Planned { at, lasts, fault });
    }

    /// Draws the weather's faults for the hosts added so far. All of them begin and end within this
    /// time, counted from now. [`Weather::Calm`] draws none.
    pub fn draw_faults(&mut self, within: Duration) {
        let hosts = self.programs.len() as u32;
        self.draw_faults_for(within, &(0..hosts).map(Host).collect::<Vec<_>>());
    }

    /// Like [`draw_faults`](Self::draw_faults), for some of the hosts; the others take part only as
    /// the other side of a partition.
    pub fn draw_faults_for(&mut self, within: Duration, hosts: &[Host]) {
        self.draws += 1;
        let now = self.elapsed();
        let all = self.programs.len() as u32;
        let mut drawn = self.weather.draw(self.seed(), hosts, all, within, self.draws);
        for planned in &mut drawn {
            planned.at += now;
        }
        for planned in drawn {
            let index = self.drawn.len();
            let kept = self.keep.as_ref().is_none_or(|keep| keep.contains(&index));
            self.drawn.push(planned.clone());
            if kept {
                self.kernel.borrow_mut().plan(planned);
            }
        }
    }

    /// The faults of this world, future ones included.
    pub fn faults(&self) -> Vec<Planned> {
        self.kernel.borrow().faults.clone()
    }

    /// Number of faults added by hand.
    pub(super) fn by_hand(&self) -> usize {
        self.by_hand.len()
    }

    /// Number of faults drawn by the weather, kept or not.
    pub(super) fn drawn(&self) -> usize {
        self.drawn.len()
    }

    /// Whether a crash or a kill has ended a program.
    pub(super) fn has_killed(&self) -> bool {
        self.killed
    }

    /// The weather.
    pub fn weather(&self) -> Weather {
        self.weather
    }

    // Time.

    /// Virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.kernel.borrow().now)
    }

    /// Number of events so far: packets, acknowledgements, turns, answers, faults.
    pub fn events(&self) -> u64 {
        self.kernel.borrow().events
    }

    /// Lets this much virtual time pass.
    ///
    /// # Errors
    ///
    /// [`Broken`] if an invariant is violated or a limit is reached; time stands still from then
    /// on.
    pub fn run_for(&mut self, time: Duration) -> Result<()> {
        self.run_until(time, |_| false).map(|_| ())
    }

    /// Lets time pass until `done` returns true, but at most this long. `done` is called after each
    /// event. Returns whether it returned true.
    ///
    /// # Errors
    ///
    /// [`Broken`] if an invariant is violated or a limit is reached
    /// ([`set_event_limit`](Self::set_event_limit)); time stands still from then on.
    pub fn run_until(&mut self, at_most: Duration, done: impl FnMut(&Sim) -> bool) -> Result<bool> {
        let _world = trapped::enter(Source::World(self.kernel.clone(), None));
        self.limits.begin();
        let outcome = self.advance(at_most, done);
        self.limits.end();
        outcome
    }

    fn advance(&mut self, at_most: Duration, mut done: impl FnMut(&Sim) -> bool) -> Result<bool> {
        let end = self.kernel.borrow().now.saturating_add(nanos(at_most));
        let _reporter = self.capture_unhandled();
        let _silence = couplet_defer::events::print_nothing();
        self.start_programs();
        // Apply requests recorded by handles outside any turn.
        self.after_event();
        loop {
            self.check()?;
            if done(self) {
                return Ok(true);
            }
            let next = self.kernel.borrow().next_at();
            if next.is_none_or(|at| at > end) {
                // An unlimited run stops at the last event instead of jumping to the end of time.
                if end < u64::MAX {
                    self.kernel.borrow_mut().now = end;
                }
                return Ok(false);
            }
            if let Some(bound) = self.limits.check(self.events()) {
                let seed = self.seed();
                let text = format!("the world of seed {seed} did not end within {bound}");
                self.kernel.borrow_mut().violate(text);
                continue;
            }
            self.step();
        }
    }

    /// Ends all programs with SIGTERM, waits until the network is quiet, and checks that nothing is
    /// left.
    ///
    /// # Errors
    ///
    /// [`Broken`] if a program does not end, or anything is left.
    pub fn finish(&mut self) -> Result<()> {
        // Ends lasting faults; hosts that are down stay down.
        self.kernel.borrow_mut().end_all_faults();
        (0..self.programs.len() as u32).for_each(|host| self.abandon_restart(host));
        for host in self.hosts() {
            self.signal(host, Signal::Terminate);
        }
        if !self.run_until(END, |sim| sim.kernel.borrow().running == 0)? {
            let runs = self.hosts().into_iter().find(|host| self.is_running(*host));
            let name = runs.map(|host| self.name(host)).unwrap_or_default();
            return self.fail(format!("the program of {name} does not end"));
        }
        self.run_until(QUIET, |sim| !sim.kernel.borrow().has_connections())?;
        let left = self.kernel.borrow().held_connections();
        if left.is_empty() { Ok(()) } else { self.fail(left.join("; ")) }
    }

    // Results.

    /// Breaks this world with this message.
    ///
    /// # Errors
    ///
    /// Always returns [`Broken`], for the scenario to return.
    pub fn fail(&mut self, text: impl Into<String>) -> Result<()> {
        self.kernel.borrow_mut().violate(text);
        self.check()
    }

    /// A handle with which programs write notes into the trace.
    pub fn notes(&self) -> Notes {
        Notes { kernel: self.kernel.clone() }
    }

    /// Keeps the whole trace from now on, for [`trace`](Self::trace).
    pub fn keep_trace(&mut self) {
        self.kernel.borrow_mut().trace.keep_all();
    }

    /// A hash of every event so far, in order.
    pub fn hash(&self) -> u64 {
        self.kernel.borrow().trace.hash()
    }

    /// The trace, one line per record: the last 200 records, or all since
    /// [`keep_trace`](Self::keep_trace).
    pub fn trace(&self) -> String {
        self.trace_lines().join("\n") + "\n"
    }

    pub(super) fn trace_lines(&self) -> Vec<String> {
        let kernel = self.kernel.borrow();
        let hosts: Vec<String> = kernel.hosts.iter().map(|host| host.name.clone()).collect();
        let faults: Vec<String> =
            kernel.faults.iter().map(|planned| planned.fault.describe(&hosts)).collect();
        let legend = Legend { hosts: &hosts, faults: &faults };
        let (before, kept) = kernel.trace.records();
        let dropped = (before > 0).then(|| format!("... {before} lines before these"));
        dropped
            .into_iter()
            .chain(kept.iter().map(|record| legend.line(record).to_string()))
            .collect()
    }

    /// Descriptions of this world's faults.
    pub(super) fn describe_faults(&self) -> Vec<String> {
        let kernel = self.kernel.borrow();
        let hosts: Vec<String> = kernel.hosts.iter().map(|host| host.name.clone()).collect();
        let described = kernel.faults.iter().enumerate().map(|(n, planned)| {
            let by_hand = if self.by_hand.contains(&n) { " (by hand)" } else { "" };
            planned.describe(&hosts) + by_hand
        });
        described.collect()
    }

    /// When each of this world's faults begins.
    pub(super) fn fault_times(&self) -> Vec<Duration> {
        self.kernel.borrow().faults.iter().map(|planned| planned.at).collect()
    }

    // Events.

    fn check(&self) -> Result<()> {
        let kernel = self.kernel.borrow();
        match &kernel.broken {
            None => Ok(()),
            Some(text) => {
                let at = Duration::from_nanos(kernel.now);
                Err(Broken { text: text.clone(), at }.into())
            }
        }
    }

    fn start_programs(&mut self) {
        for host in 0..self.programs.len() as u32 {
            let stage = &mut self.programs[host as usize].stage;
            if *stage == HostStage::Added {
                *stage = HostStage::Starting;
                self.start_program(host);
            }
        }
    }

    fn step(&mut self) {
        let due = self.kernel.borrow_mut().step();
        match due {
            WorldAction::Nothing => {}
            WorldAction::Turn(host) => self.turn(host),
            WorldAction::Job(host, ticket, job) => {
                let here = self.as_host(host);
                job();
                drop(here);
                self.kernel.borrow_mut().job_done(host, ticket);
            }
            WorldAction::DropProgram(host, jobs) => {
                self.drop_program(host);
                drop(jobs);
            }
            WorldAction::StartProgram(host) => self.start_program(host),
            WorldAction::Restart(host) => self.restart(host),
        }
        self.after_event();
    }

    /// Schedules the loops that were woken, and reports unhandled failures and panics.
    fn after_event(&mut self) {
        #[cfg(unix)]
        self.register_children();
        let woken = self.kernel.borrow().woken_hosts.take();
        for host in woken {
            self.kernel.borrow_mut().schedule_turn(host);
        }
        let panics = capture_panics(Some(Vec::new())).unwrap_or_default();
        let panics = panics.into_iter().filter(|_| !self.may_panic);
        let panics = panics.map(|text| format!("user code panicked: {text}"));
        for text in self.unhandled.take().into_iter().chain(panics) {
            self.kernel.borrow_mut().violate(text);
        }
    }

    /// Registers the programs of newly started child processes.
    #[cfg(unix)]
    fn register_children(&mut self) {
        let new_children = std::mem::take(&mut self.kernel.borrow_mut().new_children);
        for host in new_children {
            let main = self.main_of(host);
            let kind = main.map_or(HostKind::Bare, |main| HostKind::Plain(Rc::new(main)));
            self.programs.push(HostProgram::new(kind, HostStage::Starting));
        }
    }

    fn turn(&mut self, host: u32) {
        // Taken out of the list, so that nothing is borrowed while user code runs.
        let Some(mut running) = self.programs[host as usize].running.take() else { return };
        let _here = self.as_host(host);
        let reactor = running.l().reactor();
        let _observing = self.recorder.as_ref().and_then(|it| it.observe(running.l()));
        let turned = with_tls_world(&self.kernel, &reactor, || running.turn());
        if let Some(text) = simulator::exceeded_bound(running.l()) {
            let name = self.name(Host(host));
            self.kernel.borrow_mut().violate(format!("{name}: {text}"));
        }
        match turned {
            Ok(true) => {
                let next = running.next_turn();
                self.programs[host as usize].running = Some(running);
                let mut kernel = self.kernel.borrow_mut();
                if kernel.hosts[host as usize].has_notices() {
                    kernel.schedule_turn(host);
                } else if let Some(next) = next {
                    let busy_until = kernel.hosts[host as usize].busy_until;
                    let at = kernel.time_of(host, next).max(busy_until);
                    kernel.schedule_turn_at(host, at);
                }
            }
            Ok(false) => {
                self.finish_program(host, running, Ok(()));
                self.start_successor(host);
            }
            Err(error) => self.finish_program(host, running, Err(error.into())),
        }
    }

    /// The loop of a program, with a ring if the world is recorded.
    fn new_loop(&self, host: u32, driver: SimDriver) -> Loop {
        let options = LoopOptions::default().signals(true);
        let Some(recorder) = &self.recorder else { return Loop::with_driver(driver, options) };
        let kernel = self.kernel.clone();
        let clock = move || kernel.borrow().now;
        recorder.new_loop(self.name(Host(host)), driver, &options, clock)
    }

    pub(super) fn start_program(&mut self, host: u32) {
        let program = match self.programs[host as usize].kind.clone() {
            HostKind::Bare => return,
            HostKind::Plain(program) => program,
            #[cfg(feature = "sim-tokio")]
            HostKind::WithTokio(program) => program,
        };
        let _here = self.as_host(host);
        let driver = SimDriver::new(&self.kernel, host);
        let mut l = self.new_loop(host, driver);
        let kernel = self.kernel.clone();
        let wrap = move |key, protocol| witness::watch(&kernel, host, key, protocol);
        let kernel = self.kernel.clone();
        let observe = move |key, above: LayerReport<'_>| {
            let mut kernel = kernel.borrow_mut();
            if let Some(end) = kernel.hosts[host as usize].end_of(key) {
                kernel.note_above(end, above);
            }
        };
        simulator::observe(&mut l, wrap, observe);
        let mut running = Running::new(l);
        #[cfg(feature = "sim-tokio")]
        if matches!(self.programs[host as usize].kind, HostKind::WithTokio(_)) {
            let seed = self.kernel.borrow_mut().hosts[host as usize].entropy.next();
            running.add_tokio(seed).expect("a runtime without threads and sockets");
        }
        {
            let mut kernel = self.kernel.borrow_mut();
            kernel.mark_running(host);
            kernel.note(host, TraceEvent::Starts);
        }
        let reactor = running.l().reactor();
        let _observing = self.recorder.as_ref().and_then(|it| it.observe(running.l()));
        match with_tls_world(&self.kernel, &reactor, || running.begin(&*program)) {
            Ok(()) => {
                self.continue_connections(host, &reactor);
                self.programs[host as usize].stage = HostStage::Started;
                self.programs[host as usize].running = Some(running);
                self.kernel.borrow_mut().schedule_turn(host);
            }
            Err(failure) => {
                let stage = &mut self.programs[host as usize].stage;
                let restarts = std::mem::replace(stage, HostStage::Started) == HostStage::Started;
                let name = self.name(Host(host));
                let text = format!("the program of {name} does not start: {failure:#}");
                self.finish_program(host, running, Err(failure));
                let mut kernel = self.kernel.borrow_mut();
                #[cfg(unix)]
                let is_process = kernel.child_outcome(host).is_some();
                #[cfg(not(unix))]
                let is_process = false;
                match (is_process, restarts) {
                    // The parent gets the child's exit code.
                    (true, _) => {}
                    (false, true) => kernel.start_later(host),
                    (false, false) => kernel.violate(text),
                }
            }
        }
        self.after_event();
    }

    /// Handles the end of a program: checks that nothing is left open and, if the program stopped
    /// itself, that the shutdown had nothing to cut off.
    fn finish_program(&mut self, host: u32, mut running: Running, outcome: Result<()>) {
        #[cfg(unix)]
        self.note_exit(host, outcome.is_ok());
        let how = outcome.map_or_else(|failure| format!("{failure:#}"), |()| "well".to_owned());
        let cut_off = simulator::cut_off(running.l());
        let may_leak = self.may_leak || self.programs[host as usize].moving.is_some();
        if let Some(left) = cut_off.filter(|_| !may_leak) {
            let name = self.name(Host(host));
            let text = format!("{name} stopped itself and left behind:{left}");
            self.kernel.borrow_mut().violate(text);
        }
        let snapshot = running.l_mut().snapshot();
        if !snapshot.is_empty() {
            let name = self.name(Host(host));
            let text = format!("{name} ended but still holds {snapshot}");
            self.kernel.borrow_mut().violate(text);
        }
        // Checked before the drop too: anything that the drop closes was left open.
        let left = self.kernel.borrow().leftovers_of(host);
        running.close();
        let mut kernel = self.kernel.borrow_mut();
        for text in left.into_iter().chain(kernel.leftovers_of(host)) {
            kernel.violate(text);
        }
        kernel.note(host, TraceEvent::Ends(how));
        let jobs = kernel.close_all(host, Extent::Program);
        drop(kernel);
        drop(jobs);
    }

    /// Drops a crashed or killed program, ignoring the failures and panics that its drop causes.
    fn drop_program(&mut self, host: u32) {
        if !self.kernel.borrow().hosts[host as usize].is_powered() {
            drop(self.programs[host as usize].moving.take());
        }
        let Some(running) = self.programs[host as usize].running.take() else { return };
        let _here = self.as_host(host);
        self.killed = true;
        let _ignored = FailureCapture::new(|_| {});
        running.close();
    }

    /// Answers this thread's requests for time and entropy as this host, until the result is
    /// dropped.
    pub(super) fn as_host(&self, host: u32) -> impl Sized + use<> {
        trapped::enter(Source::World(self.kernel.clone(), Some(host)))
    }

    fn capture_unhandled(&self) -> FailureCapture {
        let captured = self.unhandled.clone();
        FailureCapture::new(move |unhandled| captured.borrow_mut().push(unhandled.to_string()))
    }

    /// A driver for the caller's own loop on a bare host; it reads at most `read_buffer` bytes at a
    /// time. The driver's `wait` runs the world, so a world with such a driver has no other, and no
    /// programs.
    pub fn driver(&self, host: Host, read_buffer: usize) -> Box<dyn Driver> {
        Box::new(SimDriver::standalone(&self.kernel, host.0, read_buffer.max(1)))
    }

    /// This host's IPv4 address with this port.
    pub fn at(&self, host: Host, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(host), port)
    }
}

/// Captures this thread's unhandled failures and panics; restores the previous reporters on drop.
struct FailureCapture {
    reporter: Option<Reporter>,
    panics: Option<Vec<String>>,
}

impl FailureCapture {
    fn new(reporter: impl Fn(&Unhandled) + 'static) -> FailureCapture {
        let reporter = Some(set_reporter(reporter));
        FailureCapture { reporter, panics: capture_panics(Some(Vec::new())) }
    }
}

impl Drop for FailureCapture {
    fn drop(&mut self) {
        capture_panics(self.panics.take());
        if let Some(before) = self.reporter.take() {
            before.set();
        }
    }
}

impl Drop for Sim {
    /// Drops the remaining programs like a crash, ignoring the failures this causes.
    fn drop(&mut self) {
        let _ignored = FailureCapture::new(|_| {});
        for host in &mut self.programs {
            if let Some(running) = host.running.take() {
                running.close();
            }
        }
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed())
            .field("hosts", &self.programs.len())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// Writes notes into the trace of a world. Cheap to clone.
#[derive(Clone)]
pub struct Notes {
    kernel: Rc<RefCell<Kernel>>,
}

impl Notes {
    /// Adds a line to the trace, at the current time.
    pub fn note(&self, text: impl Into<String>) {
        self.kernel.borrow_mut().note(None, TraceEvent::Note(text.into()));
    }

    /// Breaks the world, because an invariant of the test is violated.
    pub fn fail(&self, text: impl Into<String>) {
        self.kernel.borrow_mut().violate(text);
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notes")
    }
}

/// Runs this host's program with TLS randomness and time from the simulation.
fn with_tls_world<R>(kernel: &Rc<RefCell<Kernel>>, host: &Reactor, turn: impl FnOnce() -> R) -> R {
    let kernel = kernel.clone();
    let log_key = move |label: &str, client_random: &[u8], secret: &[u8]| {
        kernel.borrow_mut().log_key(label, client_random, secret);
    };
    simulator::in_tls_world(host, log_key, turn)
}
