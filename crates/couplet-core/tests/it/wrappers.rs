//! Protocols that wrap another, framers among them: each passes every call on. All but the framers
//! stay around the next protocol of an upgrade.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use couplet::layers::ProxyReader;
use couplet::protocols::{
    IntReceiver, LimitConnections, LimitMessages, LineOnlyReceiver, LineProtocol, LineReceiver,
    LineTransport, NetstringReceiver, Policy, StringProtocol, StringTransport,
};
use couplet::{Address, Port, Protocol, ProtocolExtension, Reason, Transport};
use couplet_core::hooks::is_real_time;

use crate::suite::kit::{Kit, Rig, s, watched};
use crate::suite::recorder::{Log, Script};

/// Logs every call of its trait.
#[derive(Clone, Default)]
struct Inner {
    log: Log,
    transport: Rc<RefCell<Option<Transport>>>,
}

impl Inner {
    fn receive(&self, data: &[u8]) {
        self.log.note(format!("received {}", String::from_utf8_lossy(data)));
    }
}

/// The calls that all kinds of protocol have.
macro_rules! log_calls {
    ($transport:ty) => {
        fn connection_made(&mut self, transport: &$transport) {
            let transport: &Transport = transport;
            *self.transport.borrow_mut() = Some(transport.clone());
            self.log.note("connection_made");
        }

        fn connection_lost(&mut self, _: &$transport, _: &Reason) {
            self.log.note("connection_lost");
        }

        fn read_closed(&mut self, transport: &$transport) {
            self.log.note("read_closed");
            transport.lose_write_connection();
        }

        fn write_closed(&mut self, _: &$transport) {
            self.log.note("write_closed");
        }

        fn draining(&mut self, _: &$transport) {
            self.log.note("draining");
        }

        fn reading_resumed(&mut self, _: &$transport) {
            self.log.note("reading_resumed");
        }
    };
}

/// The calls that a protocol has in its extension.
macro_rules! log_special_calls {
    ($transport:ty) => {
        fn descriptor_received(&mut self, _: &$transport, _: OwnedFd) {
            self.log.note("descriptor_received");
        }

        fn handshake_completed(&mut self, _: &$transport) {
            self.log.note("handshake_completed");
        }
    };
}

impl Protocol for Inner {
    log_calls!(Transport);

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.receive(data);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Inner {
    log_special_calls!(Transport);

    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        self.log.note("upgraded");
        unread.extend_from_slice(b"held");
        next
    }
}

impl LineProtocol for Inner {
    log_calls!(LineTransport);
    log_special_calls!(LineTransport);

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        self.receive(line);
    }
}

impl StringProtocol for Inner {
    log_calls!(StringTransport);
    log_special_calls!(StringTransport);

    fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
        self.receive(string);
    }
}

fn once<P: Protocol>(protocol: P) -> impl FnMut(&Address) -> Option<P> {
    let mut protocol = Some(protocol);
    move |_| protocol.take()
}

fn boxed(protocol: impl Protocol) -> Box<dyn Protocol> {
    Box::new(protocol)
}

fn limited<P>(protocol: P) -> LimitMessages<P> {
    LimitMessages::new(protocol)
}

/// Listens with a wrapper around the protocol.
type Listen = fn(&Rig, Inner) -> Port;

const WRAPPERS: [(&str, Listen); 5] = [
    ("nothing", |rig, inner| rig.listen_with(once(inner))),
    ("a box", |rig, inner| rig.listen_with(once(boxed(inner)))),
    ("a policy", |rig, inner| rig.listen_with(LimitConnections::new(1).wrap(once(inner)))),
    ("a limit of messages", |rig, inner| rig.listen_with(once(limited(inner)))),
    ("all of them", |rig, inner| {
        let inner = boxed(limited(boxed(limited(inner))));
        rig.listen_with(LimitConnections::new(1).wrap(once(inner)))
    }),
];

/// A framer, with a limit of messages inside it, and the bytes of a message and of the beginning of
/// another.
const FRAMERS: [(&str, Listen, &str, &str); 4] = [
    ("lines", |rig, inner| rig.listen_with(once(LineReceiver::new(limited(inner)))), "a\r\n", "b"),
    (
        "lines only",
        |rig, inner| rig.listen_with(once(LineOnlyReceiver::new(limited(inner)))),
        "a\r\n",
        "b",
    ),
    (
        "netstrings",
        |rig, inner| rig.listen_with(once(NetstringReceiver::new(limited(inner)))),
        "1:a,",
        "2:b",
    ),
    (
        "strings with a length",
        |rig, inner| rig.listen_with(once(IntReceiver::<u8, _>::new(limited(inner)))),
        "\u{1}a",
        "\u{2}b",
    ),
];

/// Asserts the calls of a connection from its beginning to its end, every call of the trait among
/// them. The peer sends a message, and the bytes that a framer holds at the upgrade; a protocol
/// without a framer leaves `held` unread.
fn assert_life(kit: Kit, wrapper: &str, listen: Listen, message: &str, held: &str) {
    let (mut rig, inner) = (kit.rig(), Inner::default());
    let (log, client) = (inner.log.clone(), rig.end());
    let port = listen(&rig, inner.clone());
    rig.connect_with(port.host(), client.once(Script::new().aware()));
    rig.until("connection_made", || log.has("connection_made") && client.is_made());
    let near = inner.transport.borrow().clone().expect("it was made");
    let far = client.transport();
    let tell = || near.connection::<Inner>().tell(|inner, _| inner.log.note("told"));

    let (_reader, writer) = std::io::pipe().expect("a pipe");
    far.send_descriptor(writer.into()).expect("a UNIX socket");
    far.write(format!("{message}{held}"));
    rig.until("a message", || log.has("received a"));
    near.pause_producing();
    rig.turn();
    near.resume_producing();
    rig.until("a resume", || log.has("reading_resumed"));
    tell();
    rig.until("a tell", || log.has("told"));
    port.drain(s(10)).detach();
    rig.until("the question of the drain", || log.has("draining"));

    near.upgrade(inner.clone());
    rig.until("the held bytes", || log.count("received") == 2);
    near.start_layer(ProxyReader::new(rig.reactor.now())).expect("it may still write");
    far.write("PROXY UNKNOWN\r\n");
    rig.until("the layer", || log.has("handshake_completed"));
    tell();
    rig.until("a tell to the next", || log.count("told") == 2);
    far.lose_connection();
    rig.until("the end", || log.has("connection_lost"));

    let is_framed = !held.is_empty();
    let left = if is_framed { held } else { "held" };
    let before = ["connection_made", "descriptor_received", "received a", "reading_resumed"];
    let left = format!("received {left}");
    let next = ["connection_made", &left, "draining", "handshake_completed", "told"];
    let mut expected = [&before[..], &["told", "draining"]].concat();
    expected.extend((!is_framed).then_some("upgraded"));
    expected.extend(next);
    expected.extend(["read_closed", "write_closed", "connection_lost"]);
    assert_eq!(log.entries(), expected, "in {wrapper}");
}

/// The drivers do not matter; a UNIX socket passes descriptors.
fn each_loop() -> [Kit; 2] {
    let kit = Kit::mio().unix();
    let watched = kit.options(watched);
    // A loop in other time has no stall detector.
    assert!(is_real_time(&watched.rig().reactor));
    [kit, watched]
}

#[test]
fn a_protocol_that_wraps_another_passes_every_call_on_and_outlasts_an_upgrade() {
    for kit in each_loop() {
        for (wrapper, listen) in WRAPPERS {
            assert_life(kit, wrapper, listen, "a", "");
        }
    }
}

#[test]
fn a_framer_passes_every_call_on_and_leaves_its_bytes_to_an_upgrade() {
    for kit in each_loop() {
        for (framer, listen, message, held) in FRAMERS {
            assert_life(kit, framer, listen, message, held);
        }
    }
}
