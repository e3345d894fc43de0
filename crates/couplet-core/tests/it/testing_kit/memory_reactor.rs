//! `MemoryReactor`: the test replaces the network for code that listens and connects.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::{Notes, failing, s, saying};
use couplet::protocols::ReconnectingClientFactory;
use couplet::testing::{Manner, MemoryReactor, failure_of, no_result_yet, success_of};
use couplet::{ConnectError, ConnectOptions, Deferred, Protocol, Transport};
use couplet_testkit_loops::doubles::on_made;

use crate::pace::TestLoop;
use couplet_testkit_loops::doubles::{Quiet, on_data};

fn hello() -> Notes {
    saying("hello")
}

fn refused() -> io::Error {
    ErrorKind::ConnectionRefused.into()
}

#[test]
fn a_connect_that_is_cancelled_after_the_test_has_completed_it_resets_the_far_end() {
    // Between two turns, and in one.
    for is_in_turn in [false, true] {
        let mut memory = MemoryReactor::new();
        let connecting = memory.reactor().connect("tcp:127.0.0.1:10000", hello);
        let attempt = memory.connecting().remove(0);
        let far: Rc<RefCell<Option<_>>> = Rc::default();
        let slot = far.clone();
        let end = move || {
            *slot.borrow_mut() = Some(attempt.complete());
            connecting.cancel();
        };
        if is_in_turn {
            memory.reactor().call_soon(end);
        } else {
            end();
        }
        memory.settle();
        let wire = far.take().expect("the far end");
        assert!(wire.saw_reset() && wire.is_closed(), "{wire:?}");
        assert_eq!(wire.take(), b"", "no protocol was built");
    }
}

/// As the system does: a UNIX socket is reset only if something is unread.
#[test]
fn an_aborted_unix_connection_ends_unless_it_leaves_something_unread() {
    let mut memory = MemoryReactor::new();
    let aborts = || on_data(|transport, _| transport.abort_connection());
    let ports = ["unix:a", "tcp:80"].map(|at| memory.reactor().listen(at, aborts).expect("free"));
    memory.settle();
    for (port, is_reset) in ports.iter().zip([false, true]) {
        let to = match port.host().port() {
            Some(number) => std::net::SocketAddr::from(([127, 0, 0, 1], number)).into(),
            None => port.host(),
        };
        let wire = memory.network().connect(to).expect("it listens");
        memory.settle();
        wire.push(b"x");
        memory.settle();
        assert_eq!((wire.saw_fin(), wire.saw_reset()), (!is_reset, is_reset), "{}", port.host());
    }
}

#[test]
fn a_connect_is_recorded_and_waits_for_the_test() {
    let mut memory = MemoryReactor::new();
    let notes = hello();
    let ours = notes.clone();
    let endpoint = "tcp:poetry.example:10000:timeout=5:bindAddress=127.0.0.2";
    let connecting = memory.reactor().connect(endpoint, move || ours.clone());
    let attempts = memory.connecting();
    assert_eq!(attempts.len(), 1);
    assert_eq!((attempts[0].remote_host(), attempts[0].remote_port()), ("poetry.example", 10000));
    let options = ConnectOptions::default().timeout(s(5));
    assert_eq!(*attempts[0].options(), options.bind(([127, 0, 0, 2], 0).into()));
    memory.advance(s(4));
    no_result_yet(&connecting);
    let wire = attempts[0].complete();
    wire.push(b"good day");
    assert!(notes.take().is_empty(), "the turn delivers it");
    memory.settle();
    assert_eq!(notes.take(), ["made", "good day"]);
    assert_eq!(wire.take(), b"hello");
    let connection = success_of(connecting);
    assert_eq!(connection.transport().peer(), attempts[0].address());
    assert_eq!(connection.transport().host().ip(), Some([127, 0, 0, 2].into()));
    assert!(memory.connecting().is_empty() && !attempts[0].is_waiting());
    wire.fin();
    memory.settle();
    assert_eq!(notes.take(), ["read_closed", "lost: connection closed by the peer"]);
    assert_eq!(memory.elapsed(), s(4));
}

#[test]
fn a_connect_fails_with_the_error_that_the_test_chose() {
    let mut memory = MemoryReactor::default();
    let connect = |memory: &MemoryReactor| memory.reactor().connect("tcp:[::1]:1", Notes::default);
    let connecting = connect(&memory);
    memory.connecting()[0].fail(refused());
    memory.settle();
    let failure = failure_of(connecting);
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::Refused(_))), "{failure}");
    let connecting = connect(&memory);
    memory.connecting()[0].fail(io::Error::other("the cable was cut"));
    memory.settle();
    assert_eq!(failure_of(connecting).to_string(), "the cable was cut");
}

#[test]
fn an_attempt_that_is_over_can_be_neither_completed_nor_failed() {
    let mut memory = MemoryReactor::new();
    let over = "the connect to tcp:10.0.0.1:7 is no longer pending";
    let connect =
        |memory: &MemoryReactor| memory.reactor().connect("tcp:10.0.0.1:7", Notes::default);
    let timing_out = connect(&memory);
    let attempt = memory.connecting().remove(0);
    memory.advance(s(30));
    assert!(matches!(failure_of(timing_out).downcast_ref(), Some(ConnectError::TimedOut(_))));
    assert_eq!(failing(|| attempt.complete()), over);
    assert_eq!(failing(|| attempt.fail(refused())), over);
    let cancelled = connect(&memory);
    let attempt = memory.connecting().remove(0);
    cancelled.cancel();
    assert!(failure_of(cancelled).is_cancelled());
    memory.settle();
    assert!(!attempt.is_waiting() && memory.connecting().is_empty());
    // A completed attempt has ended too, even before the reactor turns.
    let connecting = connect(&memory);
    let attempt = memory.connecting().remove(0);
    attempt.complete();
    assert_eq!(failing(|| attempt.complete()), over);
    drop(connecting);
}

#[test]
fn each_name_has_its_own_address() {
    let mut memory = MemoryReactor::new();
    for name in ["a.example", "b.example", "a.example", "127.0.0.1", "localhost"] {
        memory.reactor().connect((name, 1), Notes::default).detach();
    }
    let found: Vec<IpAddr> = memory.connecting().iter().filter_map(|a| a.address().ip()).collect();
    let found: Vec<String> = found.iter().map(IpAddr::to_string).collect();
    assert_eq!(found, ["198.18.0.1", "198.18.0.2", "198.18.0.1", "127.0.0.1", "127.0.0.1"]);
}

#[test]
fn a_name_has_the_addresses_that_the_test_gives_it_and_they_are_tried_in_turn() {
    let mut memory = MemoryReactor::new();
    let addresses = vec![[10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
    memory.network().set_name("poetry.example", s(2), Ok(addresses));
    memory.network().set_name("prose.example", s(0), Err(ErrorKind::NotFound));
    let connecting = memory.reactor().connect("tcp:poetry.example:1", Notes::default);
    let unknown = memory.reactor().connect("tcp:prose.example:1", Notes::default);
    assert!(memory.connecting().is_empty(), "the lookup is pending");
    assert!(matches!(
        failure_of(unknown).downcast_ref(),
        Some(ConnectError::NameLookup { name, .. }) if name == "prose.example"
    ));
    memory.advance(s(2));
    let tried = |memory: &mut MemoryReactor| -> Vec<String> {
        memory
            .connecting()
            .iter()
            .map(|attempt| attempt.address().ip().expect("TCP").to_string())
            .collect()
    };
    assert_eq!(tried(&mut memory), ["10.0.0.1"]);
    memory.advance(Duration::from_millis(250));
    assert_eq!(tried(&mut memory), ["10.0.0.1", "10.0.0.2"]);
    memory.connecting()[0].fail(refused());
    assert_eq!(tried(&mut memory), ["10.0.0.2", "10.0.0.3"]);
    let late = memory.connecting().remove(0);
    memory.connecting()[1].complete();
    memory.settle();
    assert_eq!(success_of(connecting).transport().peer().to_string(), "tcp:10.0.0.3:1");
    assert!(!late.is_waiting(), "the other attempts are abandoned");
}

#[test]
fn c180_a_connector_names_the_last_address_that_failed() {
    let mut memory = MemoryReactor::new();
    let addresses = (1..=4).map(|last| [10, 0, 0, last].into()).collect();
    memory.network().set_name("poetry.example", s(0), Ok(addresses));
    let connecting = memory.reactor().connect("tcp:poetry.example:1", Notes::default);
    let why = |memory: &mut MemoryReactor| {
        let snapshot = memory.reactor().snapshot();
        memory.settle();
        let snapshot = success_of(snapshot);
        snapshot.connectors[0].why.at(snapshot.at.expect("of a loop")).to_string()
    };
    memory.settle();
    let fails = ", fails in 30.0 s";
    assert_eq!(why(&mut memory), format!("waits for an answer of tcp:10.0.0.1:1{fails}"));
    for failed in 1..=3 {
        memory.connecting()[0].fail(refused());
        memory.settle();
        let why = why(&mut memory);
        let next = format!("waits for an answer of tcp:10.0.0.{}:1, after tcp:10.0.0.", failed + 1);
        assert!(why.starts_with(&format!("{next}{failed}:1: ")) && why.ends_with(fails), "{why}");
    }
    let wire = memory.connecting()[0].complete();
    memory.settle();
    let connection = success_of(connecting);
    let id = connection.transport().id();
    assert_eq!(why(&mut memory), format!("has connection {id}"));
    drop(wire);
}

#[test]
fn a_client_that_tries_again_is_seen_again() {
    let mut memory = MemoryReactor::new();
    let factory = ReconnectingClientFactory::new(hello);
    memory.reactor().connect(("poetry.example", 1), factory).detach();
    memory.connecting()[0].fail(refused());
    assert!(memory.connecting().is_empty(), "it waits before the retry");
    memory.advance(s(60));
    let wire = memory.connecting()[0].complete();
    memory.settle();
    assert_eq!(wire.take(), b"hello");
}

#[test]
fn a_port_is_recorded_and_the_test_connects_to_it() {
    let mut memory = MemoryReactor::new();
    let notes = hello();
    let ours = notes.clone();
    let listen = |endpoint: &str| {
        let ours = ours.clone();
        memory.reactor().listen(endpoint, move || ours.clone()).expect("a free port")
    };
    let port = listen("tcp:80:interface=10.0.0.1");
    listen("tcp:81");
    listen("tcp:82:interface=0.0.0.0");
    let hosts: Vec<String> = memory.listening().iter().map(|port| port.host.to_string()).collect();
    assert_eq!(hosts, ["tcp:10.0.0.1:80", "tcp:[::]:81", "tcp:0.0.0.0:82"]);
    for number in [80, 81, 82] {
        let wire = memory.connect(number);
        assert_eq!(wire.take(), b"hello", "`connect` has settled");
        wire.push(b"good day");
        memory.settle();
        wire.close();
        memory.settle();
        let end = "lost: connection closed by the peer";
        assert_eq!(notes.take(), ["made", "good day", "read_closed", end]);
    }
    assert_eq!(memory.listening()[0].counters.accepted, 1);
    port.stop_listening().expect("the port listens").detach();
    assert_eq!(memory.listening().len(), 2);
    let text = failing(|| memory.connect(80));
    assert_eq!(text, "nothing listens on port 80; listening: [tcp:[::]:81, tcp:0.0.0.0:82]");
}

#[test]
fn a_connect_to_a_port_on_all_interfaces_is_of_the_family_of_the_port() {
    let mut memory = MemoryReactor::new();
    let told = Rc::<RefCell<Vec<String>>>::default();
    for (number, interface) in [(81, "0.0.0.0"), (82, "[::]")] {
        let tells = told.clone();
        let endpoint = format!("tcp:{number}:interface={interface}");
        let server = move || {
            let tells = tells.clone();
            on_made(move |transport| tells.borrow_mut().push(transport.host().to_string()))
        };
        memory.reactor().listen(endpoint, server).expect("a free port");
        memory.connect(number);
    }
    assert_eq!(told.take(), ["tcp:127.0.0.1:81", "tcp:[::1]:82"]);
}

#[test]
fn a_program_that_serves_and_connects_has_the_test_at_both_far_ends() {
    /// Opens a connection for each connection that it accepts.
    struct Relay(Deferred<couplet::Connection<Notes>>);
    impl Protocol for Relay {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {
            assert!(!self.0.has_fired());
        }
    }
    let mut memory = MemoryReactor::new();
    let reactor = memory.reactor();
    let relay = move || Relay(reactor.connect("tcp:poetry.example:1", hello));
    memory.reactor().listen("tcp:10000", relay).expect("a free port");
    let reader = memory.connect(10000);
    reader.push(b"x");
    let poet = memory.connecting()[0].complete();
    memory.settle();
    assert_eq!((poet.take(), reader.is_closed()), (b"hello".to_vec(), false));
}

#[test]
fn clients_in_the_queue_of_a_port_that_closes_are_reset() {
    for manner in [Manner::Readiness, Manner::Completion] {
        let mut rig = TestLoop::on(manner, 0);
        let port = rig.listen(|| Quiet);
        port.pause_producing();
        let wire = rig.client(port.host());
        drop(port.stop_listening());
        rig.settle();
        assert!(wire.saw_reset());
    }
}
