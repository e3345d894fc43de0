//! Reports the loop's current call to the stall detector, and measures its time. User code is
//! wrapped when it enters the loop, so that calls in a loop with neither cost nothing extra.
//! Callbacks of Deferreds count as part of the call that fires them.
//!
//! Contract: 97a.

use std::any::Any;
use std::cell::{Cell, RefCell};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::call_times::CallTimes;
use super::options::LoopOptions;
use super::records::Records;
use super::tasks::Task;
use crate::ProtocolExtension;
use crate::address::Address;
use crate::connector::Connector;
use crate::driver::recorded::RingWriter;
use crate::driver::{Key, StallGuard, Stalls, UserCall, World};
use crate::error::Reason;
use crate::factory::{AnyFactory, Ends, ErasedFactory, Newcomer, Seat};
use crate::layers::Layer;
use crate::protocol::{HandOver, Protocol};
use crate::recorder::{Reactor, Source};
use crate::switches::Switch;
use crate::transport::{Producer, Tell, Transport};

/// Observes the calls of a loop into user code.
#[derive(Clone)]
pub(super) struct CallMonitor(Rc<Observers>);

struct Observers {
    stalls: Option<Stalls>,
    timer: Option<CallTimer>,
    ring: Option<RingWriter>,
    /// How many calls are in progress, one inside the other.
    depth: Cell<u32>,
}

/// Measures the outermost calls.
struct CallTimer {
    world: Rc<dyn World>,
    /// The start of the outermost call.
    since: Cell<Instant>,
    times: RefCell<CallTimes>,
}

/// Ends an observed call when dropped.
pub(super) struct CallGuard {
    _stall: Option<StallGuard>,
    observers: Rc<Observers>,
    /// The number of its name in the ring.
    name: u32,
}

impl CallMonitor {
    /// The observers that the options request. The stall detector needs real time.
    fn of(
        world: &Rc<dyn World>,
        options: &LoopOptions,
        ring: Option<RingWriter>,
    ) -> Option<CallMonitor> {
        let after = options.stall_after.filter(|_| world.is_real_time());
        let backtraces = options.tuning.switches.has(Switch::StallBacktraces);
        let stalls = after.map(|after| Stalls::watch(after, backtraces));
        let timer = options.tuning.switches.has(Switch::TimeCalls).then(|| CallTimer {
            world: world.clone(),
            since: Cell::new(world.now()),
            times: RefCell::default(),
        });
        let observes = stalls.is_some() || timer.is_some() || ring.is_some();
        let depth = Cell::new(0);
        observes.then(|| CallMonitor(Rc::new(Observers { stalls, timer, ring, depth })))
    }

    /// Observes a call until the result is dropped. Calls may be nested.
    fn hold(&self, doing: UserCall) -> CallGuard {
        let Observers { stalls, timer, ring, depth } = &*self.0;
        let outer = depth.get();
        depth.set(outer + 1);
        if let Some(timer) = timer.as_ref().filter(|_| outer == 0) {
            timer.begin();
        }
        let name = ring.as_ref().map_or(0, |ring| ring.call(&doing, outer));
        let stall = stalls.as_ref().map(|stalls| stalls.hold(doing));
        CallGuard { _stall: stall, observers: self.0.clone(), name }
    }

    /// Whether each call of a protocol is observed separately. A ring gets the calls from the driver.
    pub(super) fn observes_protocols(&self) -> bool {
        self.0.stalls.is_some() || self.0.timer.is_some()
    }

    fn ring(&self) -> Option<&RingWriter> {
        self.0.ring.as_ref()
    }

    /// The times of the calls so far.
    pub(super) fn times(&self) -> CallTimes {
        self.0.timer.as_ref().map_or_else(CallTimes::default, |timer| *timer.times.borrow())
    }

    /// The loop is dropped.
    pub(super) fn end(&self) {
        if let Some(stalls) = &self.0.stalls {
            stalls.end();
        }
    }
}

impl CallTimer {
    fn begin(&self) {
        self.since.set(self.world.now());
    }

    fn end(&self) {
        let took = self.world.now().saturating_duration_since(self.since.get());
        self.times.borrow_mut().add(took);
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let Observers { timer, ring, depth, .. } = &*self.observers;
        let outer = depth.get() - 1;
        depth.set(outer);
        if let Some(ring) = ring {
            ring.returned(self.name, outer);
        }
        if let Some(timer) = timer.as_ref().filter(|_| outer == 0) {
            timer.end();
        }
    }
}

impl Records {
    /// Starts the observers of calls that the options request.
    pub(super) fn monitor_calls(&self, options: &LoopOptions, ring: Option<RingWriter>) {
        if let Some(monitor) = CallMonitor::of(&self.world, options, ring) {
            // A new reactor has none yet.
            let _ = self.monitor.set(monitor);
        }
    }

    /// Reports the loop as doing `kind` until the result is dropped.
    pub(super) fn hold(&self, kind: &'static str) -> Option<CallGuard> {
        self.hold_for(|| UserCall::kind(kind))
    }

    pub(super) fn hold_for(&self, doing: impl FnOnce() -> UserCall) -> Option<CallGuard> {
        self.monitor.get().map(|monitor| monitor.hold(doing()))
    }

    /// The ring of an inspected loop.
    pub(super) fn ring(&self) -> Option<&RingWriter> {
        self.monitor.get().and_then(CallMonitor::ring)
    }

    /// Wraps a user's closure, to be reported when it runs.
    pub(super) fn monitor_call(
        &self,
        doing: impl FnOnce() -> UserCall,
        call: Box<dyn FnOnce()>,
    ) -> Box<dyn FnOnce()> {
        let Some(monitor) = self.monitor.get() else { return call };
        let (monitor, doing) = (monitor.clone(), doing());
        Box::new(move || {
            let _hold = monitor.hold(doing);
            call();
        })
    }

    pub(super) fn monitor_tell(&self, place: Source, tell: Box<dyn Tell>) -> Box<dyn Tell> {
        match self.monitor.get() {
            None => tell,
            Some(monitor) => Box::new(Monitored {
                inner: tell,
                monitor: monitor.clone(),
                doing: UserCall::at("tell", place),
            }),
        }
    }
}

impl Reactor {
    /// Records a call into a guest's function until the result is dropped.
    pub(crate) fn enter_guest(
        &self,
        kind: &'static str,
        name: impl FnOnce() -> Arc<str>,
    ) -> Option<Box<dyn Any>> {
        let doing = || UserCall { name: Some(name()), ..UserCall::kind(kind) };
        Some(Box::new(self.records().hold_for(doing)?))
    }

    /// Renames the protocol of a connection in the ring, if the loop has one.
    pub(crate) fn name_protocol(&self, connection: Key, name: &'static str) {
        if let Some(ring) = self.records().ring() {
            ring.built(connection, name);
        }
    }

    /// Wraps a factory, so that its calls are reported.
    pub(super) fn monitor_factory(&self, erased: ErasedFactory) -> ErasedFactory {
        let Some(monitor) = self.records().monitor.get() else { return erased };
        let (monitor, of) = (monitor.clone(), Some((**erased.factory).type_name()));
        let doing = UserCall { of, ..UserCall::at("factory", erased.place) };
        erased.wrap_with(|inner| Box::new(Monitored { inner, monitor, doing }))
    }
}

#[cold]
pub(super) fn monitor_producer(
    monitor: &CallMonitor,
    of: &'static str,
    inner: Box<dyn Producer>,
) -> Box<dyn Producer> {
    let (monitor, doing) = (monitor.clone(), UserCall::by("producer", of));
    Box::new(Monitored { inner, monitor, doing })
}

/// Wraps a task, in a loop with observers.
pub(super) fn monitor_task(
    monitor: &CallMonitor,
    name: Option<Box<str>>,
    place: Source,
    task: impl Task + 'static,
) -> impl Task + 'static {
    let doing = UserCall { name: name.map(Arc::from), ..UserCall::at("task", place) };
    Monitored { inner: Box::new(task), monitor: monitor.clone(), doing }
}

/// Wraps a protocol, in a loop with observers.
pub(super) fn monitor_protocol(
    monitor: &CallMonitor,
    mut inner: Box<dyn Protocol>,
) -> Box<dyn Protocol> {
    let doing = UserCall::by("protocol", inner.type_name());
    Box::new(Monitored { inner, monitor: monitor.clone(), doing })
}

/// A user's object whose calls are reported.
struct Monitored<T: ?Sized> {
    inner: Box<T>,
    monitor: CallMonitor,
    doing: UserCall,
}

impl<T: ?Sized> Monitored<T> {
    fn call<R>(&mut self, kind: &'static str, call: impl FnOnce(&mut T) -> R) -> R {
        let _hold = self.monitor.hold(UserCall { kind, ..self.doing.clone() });
        call(&mut self.inner)
    }

    fn end(self, end: impl FnOnce(Box<T>)) {
        let Monitored { inner, monitor, doing } = self;
        let _hold = monitor.hold(doing);
        end(inner);
    }
}

impl Tell for Monitored<dyn Tell> {
    fn run(self: Box<Self>, protocol: &mut dyn Protocol, transport: &Transport) {
        self.end(|tell| tell.run(protocol, transport));
    }

    fn lost(self: Box<Self>, reason: &Reason) {
        self.end(|tell| tell.lost(reason));
    }
}

impl<T: Task> Task for Monitored<T> {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _hold = self.monitor.hold(self.doing.clone());
        self.inner.poll(cx)
    }

    fn finish(&self) {
        let _hold = self.monitor.hold(self.doing.clone());
        self.inner.finish();
    }

    fn cancel(&self) {
        let _hold = self.monitor.hold(self.doing.clone());
        self.inner.cancel();
    }
}

impl Producer for Monitored<dyn Producer> {
    fn resume_producing(&mut self) {
        self.call("resume_producing", |inner| inner.resume_producing());
    }

    fn pause_producing(&mut self) {
        self.call("pause_producing", |inner| inner.pause_producing());
    }

    fn stop_producing(&mut self) {
        self.call("stop_producing", |inner| inner.stop_producing());
    }
}

impl AnyFactory for Monitored<dyn AnyFactory> {
    fn attach(&mut self, reactor: &Reactor) {
        self.call("attach", |inner| inner.attach(reactor));
    }

    fn do_start(&mut self) {
        self.call("do_start", |inner| inner.do_start());
    }

    fn started_connecting(&mut self, connector: &Connector) {
        self.call("started_connecting", |inner| inner.started_connecting(connector));
    }

    fn layers(&mut self, ends: &Ends<'_>, layers: &mut Vec<Box<dyn Layer>>) -> bool {
        self.call("layers", |inner| inner.layers(ends, layers))
    }

    fn opening(&mut self, newcomer: &Newcomer<'_>) -> Option<Seat> {
        self.call("opening", |inner| inner.opening(newcomer))
    }

    fn build(&mut self, peer: &Address) -> Option<Box<dyn Protocol>> {
        self.call("build_protocol", |inner| inner.build(peer))
    }

    fn client_connection_failed(&mut self, connector: &Connector, reason: &Reason) {
        self.call("client_connection_failed", |inner| {
            inner.client_connection_failed(connector, reason);
        });
    }

    fn client_connection_lost(&mut self, connector: &Connector, reason: &Reason) {
        self.call("client_connection_lost", |inner| {
            inner.client_connection_lost(connector, reason);
        });
    }

    fn do_stop(&mut self) {
        self.call("do_stop", |inner| inner.do_stop());
    }
}

impl Protocol for Monitored<dyn Protocol> {
    fn connection_made(&mut self, transport: &Transport) {
        self.call("connection_made", |inner| inner.connection_made(transport));
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.call("data_received", |inner| inner.data_received(transport, data));
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.call("connection_lost", |inner| inner.connection_lost(transport, reason));
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.call("read_closed", |inner| inner.read_closed(transport));
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.call("write_closed", |inner| inner.write_closed(transport));
    }

    fn draining(&mut self, transport: &Transport) {
        self.call("draining", |inner| inner.draining(transport));
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.call("reading_resumed", |inner| inner.reading_resumed(transport));
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Monitored<dyn Protocol> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut *self.inner)
    }

    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        self.call("descriptor_received", |inner| inner.descriptor_received(transport, descriptor));
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        self.call("handshake_completed", |inner| inner.handshake_completed(transport));
    }

    fn type_name(&mut self) -> &'static str {
        self.inner.type_name()
    }

    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        let next = self.call("upgraded", |inner| inner.upgraded(next, unread));
        monitor_protocol(&self.monitor, next)
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        self.call("hand_over", |inner| inner.hand_over())
    }
}
