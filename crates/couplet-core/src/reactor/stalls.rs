//! Reports the loop's current call to the stall detector. User code is wrapped when it enters the
//! loop, so that calls in a loop without the detector cost nothing extra. Callbacks of Deferreds
//! count as part of the call that fires them.

use std::any::{Any, TypeId};
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::options::LoopOptions;
use super::records::Records;
use super::tasks::Task;
use crate::address::Address;
use crate::connector::Connector;
use crate::driver::{StallGuard, Stalls, UserCall};
use crate::error::Reason;
use crate::factory::{AnyFactory, Ends, ErasedFactory, Newcomer, Seat};
use crate::layers::Layer;
use crate::protocol::{HandOver, Protocol};
use crate::recorder::{Reactor, Source};
use crate::switches::Switch;
use crate::transport::{Producer, Tell, Transport};

impl Records {
    /// Starts the detector, if the options request it and the world runs in real time.
    pub(super) fn watch_stalls(&self, options: &LoopOptions) {
        if let Some(after) = options.stall_after
            && self.world.is_real_time()
        {
            // A new reactor has no detector yet.
            let _ = self
                .stalls
                .set(Stalls::watch(after, options.switches.has(Switch::StallBacktraces)));
        }
    }

    /// Reports the loop as doing `kind` until the result is dropped.
    pub(super) fn hold(&self, kind: &'static str) -> Option<StallGuard> {
        self.hold_for(|| UserCall::kind(kind))
    }

    pub(super) fn hold_for(&self, doing: impl FnOnce() -> UserCall) -> Option<StallGuard> {
        self.stalls.get().map(|stalls| stalls.hold(doing()))
    }

    /// Wraps a user's closure, to be reported when it runs.
    pub(super) fn monitor_call(
        &self,
        doing: impl FnOnce() -> UserCall,
        call: Box<dyn FnOnce()>,
    ) -> Box<dyn FnOnce()> {
        let Some(stalls) = self.stalls.get() else { return call };
        let (stalls, doing) = (stalls.clone(), doing());
        Box::new(move || {
            let _hold = stalls.hold(doing);
            call();
        })
    }

    pub(super) fn monitor_tell(&self, place: Source, tell: Box<dyn Tell>) -> Box<dyn Tell> {
        match self.stalls.get() {
            None => tell,
            Some(stalls) => Box::new(Monitored {
                inner: tell,
                stalls: stalls.clone(),
                doing: UserCall::at("tell", place),
            }),
        }
    }
}

impl Reactor {
    /// Wraps a factory, so that its calls are reported.
    pub(super) fn monitor_factory(&self, erased: ErasedFactory) -> ErasedFactory {
        let Some(stalls) = self.records().stalls.get() else { return erased };
        let (stalls, of) = (stalls.clone(), Some((**erased.factory).type_name()));
        let doing = UserCall { of, ..UserCall::at("factory", erased.place) };
        erased.wrap_with(|inner| Box::new(Monitored { inner, stalls, doing }))
    }
}

#[cold]
pub(super) fn monitor_producer(
    stalls: &Stalls,
    of: &'static str,
    inner: Box<dyn Producer>,
) -> Box<dyn Producer> {
    let (stalls, doing) = (stalls.clone(), UserCall::by("producer", of));
    Box::new(Monitored { inner, stalls, doing })
}

/// Wraps a task, in a loop with a detector.
pub(super) fn monitor_task(
    stalls: &Stalls,
    name: Option<Box<str>>,
    place: Source,
    task: impl Task + 'static,
) -> impl Task + 'static {
    let doing = UserCall { name: name.map(Arc::from), ..UserCall::at("task", place) };
    Monitored { inner: Box::new(task), stalls: stalls.clone(), doing }
}

/// Wraps a protocol, in a loop with a detector.
pub(super) fn monitor_protocol(stalls: &Stalls, inner: Box<dyn Protocol>) -> Box<dyn Protocol> {
    let doing = UserCall::by("protocol", name_of(&*inner));
    Box::new(Monitored { inner, stalls: stalls.clone(), doing })
}

/// The protocol's type name, looking into the box that a factory of several protocol types builds.
fn name_of(protocol: &dyn Protocol) -> &'static str {
    match (protocol as &dyn Any).downcast_ref::<Box<dyn Protocol>>() {
        Some(inner) => name_of(&**inner),
        None => protocol.type_name(),
    }
}

/// A user's object whose calls are reported.
struct Monitored<T: ?Sized> {
    inner: Box<T>,
    stalls: Stalls,
    doing: UserCall,
}

impl<T: ?Sized> Monitored<T> {
    fn call<R>(&mut self, kind: &'static str, call: impl FnOnce(&mut T) -> R) -> R {
        let _hold = self.stalls.hold(UserCall { kind, ..self.doing.clone() });
        call(&mut self.inner)
    }

    fn end(self, end: impl FnOnce(Box<T>)) {
        let Monitored { inner, stalls, doing } = self;
        let _hold = stalls.hold(doing);
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
        let _hold = self.stalls.hold(self.doing.clone());
        self.inner.poll(cx)
    }

    fn finish(&self) {
        let _hold = self.stalls.hold(self.doing.clone());
        self.inner.finish();
    }

    fn cancel(&self) {
        let _hold = self.stalls.hold(self.doing.clone());
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

    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        self.call("descriptor_received", |inner| inner.descriptor_received(transport, descriptor));
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

    fn handshake_completed(&mut self, transport: &Transport) {
        self.call("handshake_completed", |inner| inner.handshake_completed(transport));
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        if (*self.inner).type_id() == wanted {
            return Some(&mut *self.inner as &mut dyn Any);
        }
        self.inner.find(wanted)
    }

    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        let next = self.call("upgraded", |inner| inner.upgraded(next, unread));
        monitor_protocol(&self.stalls, next)
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        self.call("hand_over", |inner| inner.hand_over())
    }
}
