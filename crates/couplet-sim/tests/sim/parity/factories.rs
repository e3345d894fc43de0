//! Scenes with connects and factories, and with the framers.

use std::rc::Rc;

use couplet::protocols::{
    IntReceiver, LineProtocol, LineReceiver, LineTransport, NetstringReceiver, StringProtocol,
    StringTransport,
};
use couplet::{Address, ConnectOptions, Connector, Factory, Protocol, Reason, Transport, hooks};

use super::{Scene, reason};
use crate::suite::recorder::{A, Log, On, Script};

fn quiet(_: &A) -> Script {
    Script::new()
}

/// A client factory that logs its calls. Builds a protocol only if `builds`.
struct LoggingFactory {
    side: super::Side,
    builds: bool,
}

impl Factory for LoggingFactory {
    type Protocol = crate::suite::recorder::Recorder;
    fn started_connecting(&mut self, _: &Connector) {
        self.side.log.note("started_connecting");
    }
    fn build_protocol(&mut self, _: &Address) -> Option<Self::Protocol> {
        self.side.log.note("build_protocol");
        self.builds.then(|| self.side.plays(&quiet))
    }
    fn client_connection_failed(&mut self, _: &Connector, why: &Reason) {
        self.side.log.note(format!("ended: failed: {}", reason(why)));
    }
    fn client_connection_lost(&mut self, _: &Connector, why: &Reason) {
        self.side.log.note(format!("ended: lost: {}", reason(why)));
    }
}

fn asks_with(builds: bool) -> super::Ask {
    Rc::new(move |side, to| {
        let factory = LoggingFactory { side: side.clone(), builds };
        hooks::connector(&side.reactor, to, ConnectOptions::default(), factory);
    })
}

#[test]
fn a_connect_where_nothing_listens() {
    let mut scene = Scene::of(quiet, quiet);
    let listens = scene.serve;
    scene.serve = Rc::new(move |side, address| {
        // A port that has just stopped listening.
        let to = listens(side, address);
        let port = side.reactor.listen(super::with_port(address, 0), || Deaf);
        let port = port.expect("a free port");
        let free = port.host().socket_addr().expect("a port has an address").port();
        port.stop_listening();
        super::with_port(to, free)
    });
    scene.ask = asks_with(true);
    scene.ends = 1;
    let trace = scene.play();
    assert_eq!(
        trace.client[0],
        ["started_connecting", "ended: failed: Failed(connection refused)"]
    );
}

pub(super) struct Deaf;
impl Protocol for Deaf {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn a_connection_that_the_server_turns_away() {
    let mut scene = Scene::of(quiet, quiet);
    scene.serve = Rc::new(|side, address| {
        let log = side.log.clone();
        let nobody = move |_: &Address| -> Option<Deaf> {
            log.note("turned away");
            None
        };
        let port = side.reactor.listen(address, nobody).expect("a free port");
        port.host().socket_addr().expect("a port has an address")
    });
    scene.ask = asks_with(true);
    scene.ends = 2;
    let trace = scene.play();
    assert_eq!(trace.client[0], ["made", "read_closed", "lost: Done(Peer)"]);
}

#[test]
fn a_connection_that_the_client_builds_no_protocol_for() {
    let mut scene = Scene::of(quiet, quiet);
    scene.ask = asks_with(false);
    scene.ends = 2;
    scene.play();
}

#[test]
fn a_client_factory_is_called_for_its_connection() {
    let ends = |_: &A| Script::new().once(On::Made, Transport::lose_connection);
    let mut scene = Scene::of(ends, quiet);
    scene.ask = asks_with(true);
    scene.ends = 3;
    let trace = scene.play();
    let log = trace.client.last().expect("the log");
    assert_eq!(*log, ["started_connecting", "build_protocol", "ended: lost: Done(Peer)"]);
}

/// Logs each message and echoes it.
struct Answers(Log);

impl LineProtocol for Answers {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.0.note(format!("line: {}", super::short(line)));
        transport.send_line(line);
    }
    fn connection_lost(&mut self, _: &LineTransport, why: &Reason) {
        self.0.note(format!("ended: {}", reason(why)));
    }
}

impl StringProtocol for Answers {
    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        self.0.note(format!("string: {}", super::short(string)));
        transport.send_string(string).expect("as short as the one received");
    }
    fn connection_lost(&mut self, _: &StringTransport, why: &Reason) {
        self.0.note(format!("ended: {}", reason(why)));
    }
}

/// A server with a framer, and a client that sends these bytes and shuts down its write side.
fn framed<P: Protocol>(
    server: impl Fn(Log) -> P + Clone + 'static,
    sends: impl Fn() -> Vec<u8> + 'static,
) -> Scene {
    let mut scene = Scene::of(quiet, move |_| {
        let bytes = sends();
        Script::new().aware().once(On::Made, move |transport| {
            transport.write(bytes);
            transport.lose_write_connection();
        })
    });
    scene.serve = Rc::new(move |side, address| {
        let (log, server) = (side.log.clone(), server.clone());
        let build = move || server(log.clone());
        let port = side.reactor.listen(address, build).expect("a free port");
        port.host().socket_addr().expect("a port has an address")
    });
    // The time of write_closed depends on the buffers.
    scene.without("write_closed")
}

#[test]
fn lines() {
    let sends = || (0..2000).map(|n| format!("line {n}\r\n")).collect::<String>().into_bytes();
    let trace = framed(|log| LineReceiver::new(Answers(log)), sends).play();
    assert_eq!(trace.server[0].len(), 2001);
}

#[test]
fn a_line_that_is_too_long() {
    let sends = || [b"short\r\n".to_vec(), vec![b'x'; 100_000]].concat();
    let trace = framed(|log| LineReceiver::new(Answers(log)), sends).play();
    assert_eq!(trace.server[0][0], "line: short");
    assert_eq!(trace.server[0].len(), 2, "{trace:?}");
}

#[test]
fn netstrings_and_a_malformed_one() {
    let sends = || {
        [b"5:hello,0:,".to_vec(), format!("50000:{},", "y".repeat(50_000)).into(), b"x".to_vec()]
            .concat()
    };
    let trace = framed(|log| NetstringReceiver::new(Answers(log)), sends).play();
    assert_eq!(trace.server[0].len(), 4, "{trace:?}");
}

#[test]
fn strings_with_a_two_byte_length() {
    let sends = || {
        let strings = (0..300_u16)
            .map(|n| [&(n * 7).to_be_bytes()[..], &vec![n as u8; n as usize * 7]].concat());
        strings.flatten().collect()
    };
    let trace = framed(|log| IntReceiver::<u16, _>::new(Answers(log)), sends).play();
    assert_eq!(trace.server[0].len(), 301);
}
