//! Rows 32 and 34: the system's errors for a failed connect and a failed listen.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_types, reason = "a listener of the test's own that never accepts")]

use std::io::ErrorKind;
use std::net::TcpListener;

use couplet::{ConnectError, ConnectOptions, ListenError};

use crate::suite::kit::{Kit, LOOPBACK};
use crate::suite::recorder::Script;

/// An address that no machine has: it is reserved for documentation.
const UNASSIGNED: &str = "192.0.2.1:0";

#[test]
fn c32_a_failed_connect_reports_the_system_error() {
    let closed = {
        let listener = TcpListener::bind(LOOPBACK).expect("a free port");
        listener.local_addr().expect("a bound address")
    };
    let bind = ConnectOptions::default().bind(UNASSIGNED.parse().expect("an address"));
    for (options, is_bound) in [(ConnectOptions::default(), false), (bind, true)] {
        let mut rig = Kit::mio().rig();
        let a = rig.end();
        let factory = move || a.plays(Script::new());
        let host = closed.ip().to_string();
        let connecting = rig.reactor.connect_tcp_deferred(&host, closed.port(), options, factory);
        rig.until("the failure", || connecting.has_fired());
        let failure = rig.l.run_until(connecting).expect_err("nothing listens there");
        match failure.downcast_ref::<ConnectError>() {
            Some(ConnectError::Refused) if !is_bound => {}
            Some(ConnectError::System(error)) if is_bound => {
                assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
                assert!(error.raw_os_error().is_some(), "the error keeps its number");
            }
            _ => panic!("{failure:?}"),
        }
    }
}

#[test]
fn c34_a_port_that_cannot_be_opened_is_an_error_of_the_call_with_its_cause() {
    let taken = TcpListener::bind(LOOPBACK).expect("a free port");
    let taken = taken.local_addr().map(|address| (address, taken)).expect("a bound address");
    let unassigned = UNASSIGNED.parse().expect("an address");
    for (address, kind) in
        [(taken.0, ErrorKind::AddrInUse), (unassigned, ErrorKind::AddrNotAvailable)]
    {
        let rig = Kit::mio().rig();
        let a = rig.end();
        let port = rig.reactor.listen_tcp(address, move || a.plays(Script::new()));
        let error: ListenError = port.expect_err("the port cannot be opened");
        assert_eq!(error.address.socket_addr(), Some(address));
        assert_eq!(error.source.kind(), kind);
        assert!(error.to_string().starts_with(&format!("cannot listen on tcp:{address}: ")));
    }
}

/// A client that is bound to the port that it connects to opens the connection from both ends.
#[test]
fn a_connect_that_meets_itself_is_refused() {
    let closed = {
        let listener = TcpListener::bind(LOOPBACK).expect("a free port");
        listener.local_addr().expect("it has one")
    };
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let factory = move || a.plays(Script::new());
    let (host, options) = (closed.ip().to_string(), ConnectOptions::default().bind(closed));
    let connecting = rig.reactor.connect_tcp_deferred(&host, closed.port(), options, factory);
    rig.until("the failure", || connecting.has_fired());
    let failure = rig.l.run_until(connecting).expect_err("nobody listens there");
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::Refused)), "{failure:?}");
}
