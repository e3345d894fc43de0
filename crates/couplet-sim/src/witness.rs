//! Wraps every protocol of a world. Checks that its callbacks follow the contract, and that it
//! receives the bytes that its peer wrote. The bytes are compared above the layers if both ends
//! have the same layers; otherwise only byte counts are checked (`kernel/stream/ledger.rs`).

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::rc::Rc;

use couplet_core::driver::Key;
use couplet_core::hooks::simulator::bytes_sent;
use couplet_core::{HandOver, Protocol, ProtocolExtension, Reason, Transport};

use super::kernel::{EndId, Kernel, LastCallback};
use super::random::fold_bytes;
use super::trace::{Label, TraceEvent};

/// A protocol under observation.
struct Watched {
    inner: Box<dyn Protocol>,
    kernel: Rc<RefCell<Kernel>>,
    host: u32,
    end: EndId,
    label: Label,
    /// The boot of the host whose program owns the protocol.
    boot: u32,
    stage: WatchedStage,
    /// Bytes redelivered to this protocol by an upgrade: its predecessor has already received them.
    redelivered: usize,
}

/// The calls that a protocol has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WatchedStage {
    /// None, or it was replaced by an upgrade.
    New,
    /// `connection_made`.
    Made,
    /// The protocol has handed its connection over, and may be dropped.
    HandedOver,
    /// `connection_lost`.
    Lost,
}

/// Wraps the protocol of a connection of this host.
pub(super) fn watch(
    kernel: &Rc<RefCell<Kernel>>,
    host: u32,
    key: Key,
    inner: Box<dyn Protocol>,
) -> Box<dyn Protocol> {
    let held = kernel.borrow().hosts[host as usize].end_of(key);
    let Some(end) = held else { return inner };
    Box::new(Watched::new(kernel, host, end, inner))
}

impl Watched {
    fn new(
        kernel: &Rc<RefCell<Kernel>>,
        host: u32,
        end: EndId,
        inner: Box<dyn Protocol>,
    ) -> Watched {
        let label = kernel.borrow_mut().label(end);
        let boot = kernel.borrow().hosts[host as usize].boot;
        let kernel = kernel.clone();
        Watched { inner, kernel, host, end, label, boot, stage: WatchedStage::New, redelivered: 0 }
    }

    /// Checks the invariants, records the callback, then calls `call`.
    fn call(
        &mut self,
        what: TraceEvent,
        transport: &Transport,
        call: impl FnOnce(&mut dyn Protocol, &Transport),
    ) {
        self.begin_callback(&what, transport);
        let is_lost = self.stage == WatchedStage::Lost || matches!(what, TraceEvent::Lost(..));
        self.stage = if is_lost { WatchedStage::Lost } else { WatchedStage::Made };
        self.kernel.borrow_mut().note(self.host, what);
        // A panic unwinds into the loop, and ends the callback too.
        struct EndCallback<'a>(&'a RefCell<Kernel>, u32);
        impl Drop for EndCallback<'_> {
            fn drop(&mut self) {
                self.0.borrow_mut().hosts[self.1 as usize].callback.end();
            }
        }
        let _end = EndCallback(&self.kernel, self.host);
        call(&mut *self.inner, transport);
    }

    /// Checks the invariants at the beginning of a callback.
    fn begin_callback(&self, what: &TraceEvent, transport: &Transport) {
        let now = transport.reactor().now();
        let mut kernel = self.kernel.borrow_mut();
        let state = &mut kernel.hosts[self.host as usize];
        let last = std::mem::replace(&mut state.callback, LastCallback::Running(now));
        let nested = matches!(last, LastCallback::Running(_));
        let backwards = last.began().is_some_and(|began| began > now);
        let written = kernel.written(self.end);
        let counted = bytes_sent(transport);
        let is_made = matches!(what, TraceEvent::Made(_));
        let broken = if self.stage == WatchedStage::Lost {
            "a callback after connection_lost"
        } else if nested {
            "a callback inside another one"
        } else if is_made == (self.stage != WatchedStage::New) {
            "connection_made must come first, and only once"
        } else if backwards {
            "time went backwards"
        } else if !is_made && written.is_some_and(|written| written != counted) {
            "the count of bytes sent differs from the bytes that reached the driver"
        } else {
            return;
        };
        kernel.violate_at(self.host, self.label, &format!("{broken}, at {what:?}"));
    }

    fn violate(&self, text: &str) {
        self.kernel.borrow_mut().violate_at(self.host, self.label, text);
    }
}

impl Drop for Watched {
    /// A protocol that got `connection_made` must also have got `connection_lost`, unless a crash
    /// or a kill ended its program.
    fn drop(&mut self) {
        let Ok(mut kernel) = self.kernel.try_borrow_mut() else { return };
        let still_running = kernel.hosts[self.host as usize].boot == self.boot;
        if self.stage != WatchedStage::Made {
            return;
        }
        kernel.note_crash(self.end);
        if still_running {
            kernel.violate_at(self.host, self.label, "dropped without connection_lost");
        }
    }
}

impl Protocol for Watched {
    fn connection_made(&mut self, transport: &Transport) {
        self.call(TraceEvent::Made(self.label), transport, |inner, transport| {
            inner.connection_made(transport);
        });
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let redelivered = self.redelivered.min(data.len());
        self.redelivered -= redelivered;
        if !self.kernel.borrow_mut().check_received(self.end, &data[redelivered..]) {
            self.violate("the protocol received bytes that its peer did not write next");
        }
        let what = TraceEvent::Data(self.label, data.len(), fold_bytes(0, data));
        self.call(what, transport, |inner, transport| inner.data_received(transport, data));
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let what = TraceEvent::Lost(self.label, reason.to_string());
        self.call(what, transport, |inner, transport| inner.connection_lost(transport, reason));
    }

    fn read_closed(&mut self, transport: &Transport) {
        if !self.kernel.borrow_mut().has_received_all(self.end) {
            self.violate("the end of the stream was reported before all its bytes");
        }
        self.call(TraceEvent::ReadClosed(self.label), transport, |inner, t| inner.read_closed(t));
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.call(TraceEvent::WriteClosed(self.label), transport, |inner, t| inner.write_closed(t));
    }

    fn draining(&mut self, transport: &Transport) {
        self.call(TraceEvent::Draining(self.label), transport, |inner, t| inner.draining(t));
    }

    fn reading_resumed(&mut self, transport: &Transport) {
        self.call(TraceEvent::Resumed(self.label), transport, |inner, t| inner.reading_resumed(t));
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Watched {
    fn handshake_completed(&mut self, transport: &Transport) {
        self.call(TraceEvent::Secure(self.label), transport, |inner, t| {
            inner.handshake_completed(t)
        });
    }

    /// Not checked: the simulator passes no descriptors.
    #[cfg(unix)]
    fn descriptor_received(&mut self, transport: &Transport, descriptor: std::os::fd::OwnedFd) {
        self.inner.descriptor_received(transport, descriptor);
    }

    fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
        if (*self.inner).type_id() == wanted {
            return Some(&mut *self.inner as &mut dyn Any);
        }
        self.inner.find(wanted)
    }

    fn type_name(&mut self) -> &'static str {
        (*self.inner).type_name()
    }

    /// Wraps the next protocol in a new witness; this one need not see `connection_lost` any more.
    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        let inner = self.inner.upgraded(next, unread);
        self.stage = WatchedStage::New;
        Box::new(Watched {
            inner,
            kernel: self.kernel.clone(),
            label: self.label,
            redelivered: self.redelivered + unread.len(),
            ..*self
        })
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        let said = self.inner.hand_over();
        if said.is_some() {
            self.stage = WatchedStage::HandedOver;
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, Sim};
    use std::time::Duration;

    /// Keeps its transport and ignores everything else.
    struct Quiet(Rc<RefCell<Option<Transport>>>);
    impl Protocol for Quiet {
        fn connection_made(&mut self, transport: &Transport) {
            *self.0.borrow_mut() = Some(transport.clone());
        }
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    /// Makes a connection, runs `act`, which imitates a broken loop, and returns the reported
    /// violation.
    fn broken(act: impl FnOnce(&mut Watched, &Transport)) -> String {
        let mut sim = Sim::new(1);
        let client = sim.host("client", |_| Ok(()));
        let kept: Rc<RefCell<Option<Transport>>> = Rc::default();
        let keeps = kept.clone();
        sim.host("server", move |reactor| {
            let keeps = keeps.clone();
            reactor.listen("tcp:80", move || Quiet(keeps.clone())).map(drop)
        });
        sim.run_for(Duration::from_millis(10)).unwrap();
        let to = sim.at(Host(1), 80);
        let socket = sim.socket(client, to).unwrap();
        sim.run_for(Duration::from_millis(10)).unwrap();
        let (kernel, transport) = (&sim.kernel, kept.take().unwrap());
        let end = kernel.borrow().ends_of(1)[0];
        let inner = Box::new(Quiet(Rc::default()));
        let mut watched = Watched::new(kernel, 1, end, inner);
        watched.connection_made(&transport);
        assert_eq!(kernel.borrow().broken, None, "no violation yet");
        act(&mut watched, &transport);
        drop((watched, socket));
        let text = kernel.borrow().broken.clone();
        text.expect("the world is broken")
    }

    const PREFIX: &str = "server, connection client#1: ";

    #[test]
    fn a_callback_after_connection_lost_is_noticed() {
        let text = broken(|watched, transport| {
            watched.connection_lost(transport, &Reason::Aborted);
            watched.write_closed(transport);
        });
        assert!(text.starts_with(&format!("{PREFIX}a callback after connection_lost")), "{text}");
    }

    #[test]
    fn a_second_connection_lost_is_noticed() {
        let text = broken(|watched, transport| {
            watched.connection_lost(transport, &Reason::Aborted);
            watched.connection_lost(transport, &Reason::Aborted);
        });
        assert!(text.contains("a callback after connection_lost, at Lost"), "{text}");
    }

    #[test]
    fn a_second_connection_made_is_noticed() {
        let text = broken(Watched::connection_made);
        assert!(text.contains("connection_made must come first, and only once"), "{text}");
    }

    #[test]
    fn a_callback_inside_another_is_noticed() {
        /// Calls another protocol of its host from its own callback.
        struct Reenters(Watched);
        impl Protocol for Reenters {
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
            fn write_closed(&mut self, transport: &Transport) {
                self.0.write_closed(transport);
            }
        }
        let text = broken(|watched, transport| {
            let quiet = Box::new(Quiet(Rc::default()));
            let mut other = Watched::new(&watched.kernel, 1, watched.end, quiet);
            other.connection_made(transport);
            watched.inner = Box::new(Reenters(other));
            watched.write_closed(transport);
        });
        assert!(text.contains("a callback inside another one"), "{text}");
    }

    #[test]
    fn a_protocol_that_is_dropped_without_connection_lost_is_noticed() {
        assert_eq!(broken(|_, _| ()), format!("{PREFIX}dropped without connection_lost"));
    }

    #[test]
    fn bytes_that_the_peer_did_not_write_are_noticed() {
        let text = broken(|watched, transport| watched.data_received(transport, b"invented"));
        assert!(text.contains("received bytes that its peer did not write next"), "{text}");
    }

    #[test]
    fn an_end_of_the_stream_before_all_its_bytes_is_noticed() {
        let text = broken(|watched, transport| {
            let other = EndId { side: 1 - watched.end.side, ..watched.end };
            watched.kernel.borrow_mut().send(other, b"not read").unwrap();
            watched.read_closed(transport);
        });
        assert!(text.contains("end of the stream was reported before all its bytes"), "{text}");
    }

    #[test]
    fn bytes_that_the_loop_did_not_count_are_noticed() {
        let text = broken(|watched, transport| {
            watched.kernel.borrow_mut().send(watched.end, b"smuggled").unwrap();
            watched.write_closed(transport);
        });
        assert!(text.contains("the count of bytes sent differs"), "{text}");
    }

    #[test]
    fn a_clock_that_goes_backwards_is_noticed() {
        let text = broken(|watched, transport| {
            let ahead = transport.reactor().now() + Duration::from_secs(1);
            watched.kernel.borrow_mut().hosts[1].callback = LastCallback::Over(ahead);
            watched.write_closed(transport);
        });
        assert!(text.contains("time went backwards"), "{text}");
    }
}
