//! A, the end under test: a protocol that logs each callback and plays a script in it, with a
//! similar producer and factory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

pub use crate::doubles::Echo;
use crate::doubles::Quiet;
use couplet::{
    Address, Connection, ConnectionLost, Connector, Deferred, DelayedCall, Factory, Failure,
    Producer, ProducerKind, Protocol, ProtocolExtension, Reason, Transport,
};

/// The events of a test in order; cheap to clone.
#[derive(Clone, Default)]
pub struct Log(Rc<RefCell<Vec<String>>>);

impl Log {
    pub fn note(&self, entry: impl Into<String>) {
        self.0.borrow_mut().push(entry.into());
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    /// Returns the entries and clears the log.
    pub fn take(&self) -> Vec<String> {
        self.0.take()
    }

    /// Removes the last entry if it is data; returns its length, or 0.
    fn take_data(&self) -> usize {
        let mut entries = self.0.borrow_mut();
        let last = entries.last().and_then(|last| last.strip_prefix("data(")?.strip_suffix(')'));
        let len = last.and_then(|len| len.parse().ok());
        if len.is_some() {
            entries.pop();
        }
        len.unwrap_or(0)
    }

    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// The number of entries with this prefix.
    pub fn count(&self, prefix: &str) -> usize {
        let entries = self.0.borrow();
        entries.iter().filter(|e| e.starts_with(prefix)).count()
    }

    pub fn has(&self, prefix: &str) -> bool {
        self.count(prefix) > 0
    }

    /// The last entry but `n`.
    pub fn last_but(&self, n: usize) -> String {
        let entries = self.0.borrow();
        let entry = entries.iter().nth_back(n);
        entry.unwrap_or_else(|| panic!("too few entries: {entries:?}")).clone()
    }

    /// The index of the first entry with this prefix.
    pub fn position(&self, prefix: &str) -> usize {
        let entries = self.0.borrow();
        let position = entries.iter().position(|e| e.starts_with(prefix));
        position.unwrap_or_else(|| panic!("no {prefix} in {entries:?}"))
    }

    /// Logs `name: ok` or `name: failed` when `deferred` fires.
    pub fn watch<T: 'static>(&self, name: &'static str, deferred: Deferred<T>) {
        let log = self.clone();
        deferred
            .add_both(move |result| {
                let outcome = if result.is_ok() { "ok" } else { "failed" };
                log.note(format!("{name}: {outcome}"));
                Ok(())
            })
            .detach();
    }

    /// As [`watch`](Self::watch); a failure is logged with the reason of the lost connection.
    pub fn watch_loss<T: 'static>(&self, name: &'static str, deferred: Deferred<T>) {
        let log = self.clone();
        deferred
            .add_both(move |result| {
                let lost = |failure: Failure| {
                    let lost: &ConnectionLost = failure.downcast_ref().expect("a ConnectionLost");
                    text(&lost.0)
                };
                log.note(format!("{name}: {}", result.map_or_else(lost, |_| "ok".to_owned())));
                Ok(())
            })
            .detach();
    }
}

/// The callbacks of a protocol, for its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Made,
    Data,
    #[cfg(unix)]
    Descriptor,
    Resumed,
    ReadClosed,
    WriteClosed,
    Draining,
    Lost,
}

impl On {
    /// How its entry in A's log begins.
    pub fn entry(self) -> &'static str {
        match self {
            On::Made => "made",
            On::Data => "data",
            #[cfg(unix)]
            On::Descriptor => "descriptor",
            On::Resumed => "resumed",
            On::ReadClosed => "read_closed",
            On::WriteClosed => "write_closed",
            On::Draining => "draining",
            On::Lost => "lost",
        }
    }
}

type Act = Box<dyn FnMut(&A, &Transport)>;

/// A's actions in its callbacks.
#[derive(Default)]
pub struct Script {
    acts: Vec<(On, Act)>,
    aware: bool,
}

impl Script {
    pub fn new() -> Script {
        Script::default()
    }

    /// Makes A's `read_closed` keep the connection open; otherwise it calls the trait's default.
    pub fn aware(mut self) -> Script {
        self.aware = true;
        self
    }

    /// Plays `act` in every such callback.
    pub fn on(self, on: On, mut act: impl FnMut(&Transport) + 'static) -> Script {
        self.on_a(on, move |_, transport| act(transport))
    }

    /// As [`on`](Self::on), for an act that needs A.
    pub fn on_a(mut self, on: On, act: impl FnMut(&A, &Transport) + 'static) -> Script {
        self.acts.push((on, Box::new(act)));
        self
    }

    /// Plays `act` in the first such callback only.
    pub fn once(self, on: On, act: impl FnOnce(&Transport) + 'static) -> Script {
        self.once_a(on, move |_, transport| act(transport))
    }

    /// As [`once`](Self::once), for an act that needs A.
    pub fn once_a(self, on: On, act: impl FnOnce(&A, &Transport) + 'static) -> Script {
        let mut act = Some(act);
        self.on_a(on, move |a, transport| {
            if let Some(act) = act.take() {
                act(a, transport);
            }
        })
    }
}

/// The test's handle to the end under test: its log, the bytes it received, its transport.
#[derive(Clone, Default)]
pub struct A {
    pub log: Log,
    seen: Rc<Seen>,
}

#[derive(Default)]
struct Seen {
    transport: RefCell<Option<Transport>>,
    received: RefCell<Vec<u8>>,
    #[cfg(unix)]
    descriptors: RefCell<Vec<std::os::fd::OwnedFd>>,
    reason: RefCell<Option<Reason>>,
    depth: Cell<u32>,
    nested: Cell<bool>,
    /// Whether consecutive pieces of data are logged as one entry.
    joins: Cell<bool>,
}

/// Guards one level of nesting in the user code of a connection.
struct Inside(Rc<Seen>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.depth.set(self.0.depth.get() - 1);
    }
}

impl A {
    /// A protocol that plays the script and logs here.
    pub fn plays(&self, script: Script) -> Recorder {
        Recorder { a: self.clone(), script }
    }

    /// A factory whose only protocol plays the script and logs here.
    pub fn once(&self, script: Script) -> impl FnMut(&Address) -> Option<Recorder> + use<> {
        let mut protocol = Some(self.plays(script));
        move |_| protocol.take()
    }

    /// As [`once`](Self::once), and the factory logs here too.
    pub fn maker(&self, script: Script) -> Maker {
        Maker::new(&self.log, self.once(script))
    }

    /// A factory that logs here, and so do its protocols, as many as are needed.
    pub fn makes_many(&self) -> Maker {
        self.makes(Script::new)
    }

    /// As [`makes_many`](Self::makes_many), with these scripts.
    pub fn makes(&self, mut script: impl FnMut() -> Script + 'static) -> Maker {
        let end = self.clone();
        Maker::new(&self.log, move |_| Some(end.plays(script())))
    }

    /// Logs consecutive pieces of data as one entry.
    pub fn join_data(&self) {
        self.seen.joins.set(true);
    }

    pub fn transport(&self) -> Transport {
        let transport = self.seen.transport.borrow().clone();
        transport.expect("the connection was made")
    }

    pub fn connection(&self) -> Connection<Recorder> {
        self.transport().connection()
    }

    /// Runs `act` in the turn, as a callback of A.
    pub fn tell(&self, act: impl FnOnce(&Transport) + 'static) -> bool {
        self.connection().tell(|me, transport| {
            let _inside = me.a.enter();
            act(transport);
        })
    }

    pub fn ask<T: 'static>(&self, act: impl FnOnce(&Transport) -> T + 'static) -> Deferred<T> {
        self.connection().ask(|me, transport| {
            let _inside = me.a.enter();
            act(transport)
        })
    }

    pub fn call_later(
        &self,
        delay: Duration,
        act: impl FnOnce(&Transport) + 'static,
    ) -> DelayedCall {
        self.connection().call_later(delay, |me, transport| {
            let _inside = me.a.enter();
            act(transport);
        })
    }

    pub fn is_made(&self) -> bool {
        self.seen.transport.borrow().is_some()
    }

    pub fn is_lost(&self) -> bool {
        self.seen.reason.borrow().is_some()
    }

    /// The reason for the loss.
    pub fn reason(&self) -> Reason {
        let reason = self.seen.reason.borrow().clone();
        reason.unwrap_or_else(|| panic!("not lost: {:?}", self.log.entries()))
    }

    /// The bytes of every `data_received`.
    pub fn received(&self) -> Vec<u8> {
        self.seen.received.borrow().clone()
    }

    pub fn received_len(&self) -> usize {
        self.seen.received.borrow().len()
    }

    /// The descriptors that A has received since the last call.
    #[cfg(unix)]
    pub fn take_descriptors(&self) -> Vec<std::os::fd::OwnedFd> {
        self.seen.descriptors.take()
    }

    /// Whether a callback ran inside another.
    pub fn was_nested(&self) -> bool {
        self.seen.nested.get()
    }

    /// A producer for `transport` that logs each call here and plays `act` in it.
    pub fn source(
        &self,
        transport: &Transport,
        act: impl FnMut(Call, &Transport) + 'static,
    ) -> Source {
        Source { a: self.clone(), transport: transport.clone(), act: Box::new(act) }
    }

    /// Registers a [`source`](Self::source) as the first producer of A.
    #[track_caller]
    pub fn produces(&self, kind: ProducerKind, act: impl FnMut(Call, &Transport) + 'static) {
        self.producer(kind, act)(&self.transport());
    }

    /// As [`produces`](Self::produces), when the returned function is called.
    pub fn producer<F: FnMut(Call, &Transport) + 'static>(
        &self,
        kind: ProducerKind,
        act: F,
    ) -> impl FnOnce(&Transport) + use<F> {
        let source = self.source(&self.transport(), act);
        move |transport| {
            transport.register_producer(source, kind).expect("the first producer");
        }
    }

    fn enter(&self) -> Inside {
        let depth = self.seen.depth.get();
        self.seen.nested.set(self.seen.nested.get() || depth > 0);
        self.seen.depth.set(depth + 1);
        Inside(self.seen.clone())
    }
}

/// The protocol of A.
pub struct Recorder {
    pub a: A,
    script: Script,
}

impl Recorder {
    fn play(&mut self, on: On, entry: impl Into<String>, transport: &Transport) {
        let _inside = self.a.enter();
        self.a.log.note(entry);
        let acts = self.script.acts.iter_mut();
        for (_, act) in acts.filter(|(when, _)| *when == on) {
            act(&self.a, transport);
        }
    }
}

impl Protocol for Recorder {
    fn connection_made(&mut self, transport: &Transport) {
        *self.a.seen.transport.borrow_mut() = Some(transport.clone());
        self.play(On::Made, On::Made.entry(), transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.a.seen.received.borrow_mut().extend_from_slice(data);
        let before = if self.a.seen.joins.get() { self.a.log.take_data() } else { 0 };
        self.play(On::Data, format!("data({})", before + data.len()), transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        *self.a.seen.reason.borrow_mut() = Some(reason.clone());
        let entry = format!("lost({})", text(reason));
        self.play(On::Lost, entry, transport);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.play(On::ReadClosed, On::ReadClosed.entry(), transport);
        if !self.script.aware {
            Quiet.read_closed(transport);
        }
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.play(On::WriteClosed, On::WriteClosed.entry(), transport);
    }

    fn draining(&mut self, transport: &Transport) {
        self.play(On::Draining, On::Draining.entry(), transport);
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.play(On::Resumed, On::Resumed.entry(), transport);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Recorder {
    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, got: std::os::fd::OwnedFd) {
        self.a.seen.descriptors.borrow_mut().push(got);
        self.play(On::Descriptor, On::Descriptor.entry(), transport);
    }
}

/// The variant of a reason, and the contents that are the same on every driver.
pub fn text(reason: &Reason) -> String {
    match reason {
        Reason::Lost(_) => "Lost".into(),
        Reason::Failed(failure) => format!("Failed({failure})"),
        Reason::Panicked(text) => format!("Panicked({text})"),
        other => format!("{other:?}"),
    }
}

/// An error of the test.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

/// The calls of a producer, for its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Resume,
    Pause,
    Stop,
}

type CallAct = Box<dyn FnMut(Call, &Transport)>;

/// A producer that logs to A.
pub struct Source {
    a: A,
    transport: Transport,
    act: CallAct,
}

impl Source {
    fn play(&mut self, call: Call, entry: &str) {
        let _inside = self.a.enter();
        self.a.log.note(entry);
        (self.act)(call, &self.transport);
    }
}

impl Producer for Source {
    fn resume_producing(&mut self) {
        self.play(Call::Resume, "resume");
    }

    fn pause_producing(&mut self) {
        self.play(Call::Pause, "pause");
    }

    fn stop_producing(&mut self) {
        self.play(Call::Stop, "stop");
    }
}

/// Builds a protocol for each connection of a factory; `None` rejects it.
type Scripts = Box<dyn FnMut(&Address) -> Option<Recorder>>;
type OnConnector = Box<dyn FnMut(&Connector)>;

/// A factory that logs each call.
pub struct Maker {
    log: Log,
    build: Scripts,
    on_started: OnConnector,
    on_failed: OnConnector,
    on_lost: OnConnector,
}

impl Maker {
    pub fn new(log: &Log, build: impl FnMut(&Address) -> Option<Recorder> + 'static) -> Maker {
        Maker {
            log: log.clone(),
            build: Box::new(build),
            on_started: Box::new(|_| {}),
            on_failed: Box::new(|_| {}),
            on_lost: Box::new(|_| {}),
        }
    }

    /// Played in `started_connecting`.
    pub fn on_started(mut self, act: impl FnMut(&Connector) + 'static) -> Maker {
        self.on_started = Box::new(act);
        self
    }

    /// Played in `client_connection_failed`.
    pub fn on_failed(mut self, act: impl FnMut(&Connector) + 'static) -> Maker {
        self.on_failed = Box::new(act);
        self
    }

    /// Played in `client_connection_lost`.
    pub fn on_lost(mut self, act: impl FnMut(&Connector) + 'static) -> Maker {
        self.on_lost = Box::new(act);
        self
    }
}

impl Factory for Maker {
    type Protocol = Recorder;

    fn do_start(&mut self) {
        self.log.note("do_start");
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.log.note("started_connecting");
        (self.on_started)(connector);
    }

    fn build_protocol(&mut self, peer: &Address) -> Option<Recorder> {
        self.log.note(format!("build({peer})"));
        (self.build)(peer)
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.log.note(format!("client_connection_failed({})", text(reason)));
        (self.on_failed)(connector);
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.log.note(format!("client_connection_lost({})", text(reason)));
        (self.on_lost)(connector);
    }

    fn do_stop(&mut self) {
        self.log.note("do_stop");
    }
}
