//! Rows 32, 32a and 34: the system's errors for a failed connect and a failed listen.
#![cfg(target_os = "linux")]

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use couplet::endpoints::TcpClient;
use couplet::testing::failure_of;
use couplet::{Address, ConnectError, ConnectOptions, ListenError, hooks};
use rustix::io::Errno;

use crate::suite::kit::{Kit, LOOPBACK, own_address};
use crate::suite::recorder::Script;

/// An address that no machine has, since it is reserved for documentation.
const UNASSIGNED: &str = "192.0.2.1:0";

/// The error of a failed connect.
fn failed(to: SocketAddr, options: ConnectOptions) -> ConnectError {
    let mut rig = Kit::mio().rig();
    let a = rig.end();
    let factory = move || a.plays(Script::new());
    let host = to.ip().to_string();
    let connecting =
        rig.reactor.connect(TcpClient::new(&host, to.port()).options(options), factory);
    rig.until("the failure", || connecting.has_fired());
    let failure = rig.l.run_until(connecting).expect_err("nothing listens there");
    failure.downcast_ref::<ConnectError>().unwrap_or_else(|| panic!("{failure:?}")).clone()
}

/// A port without a listener, at an address that no other test uses: so it stays free.
fn closed() -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = SocketAddr::from(([127, high, low, 3], 0));
    let listener = TcpListener::bind(host).expect("a free port");
    listener.local_addr().expect("a bound address")
}

#[test]
fn c32_a_failed_connect_reports_the_system_error() {
    let refused = failed(closed(), ConnectOptions::default());
    assert!(matches!(refused, ConnectError::Refused(_)), "{refused:?}");
    assert_eq!(refused.raw_os_error(), Some(Errno::CONNREFUSED.raw_os_error()));
    // TCP has no route to the broadcast address.
    let everybody = SocketAddr::from(([255, 255, 255, 255], 1));
    let no_route = failed(everybody, ConnectOptions::default());
    assert!(matches!(no_route, ConnectError::NoRoute(_)), "{no_route:?}");
    assert_eq!(no_route.raw_os_error(), Some(Errno::NETUNREACH.raw_os_error()));
    let options = ConnectOptions::default().prepare(|_| Err(Errno::ISNAM.into()));
    let other = failed(closed(), options);
    assert!(matches!(other, ConnectError::System(_)), "{other:?}");
    assert_eq!(other.raw_os_error(), Some(Errno::ISNAM.raw_os_error()));
}

#[test]
fn c32_errors_of_one_kind_keep_their_own_numbers() {
    for errno in [Errno::NETUNREACH, Errno::HOSTUNREACH] {
        let error = ConnectError::from(io::Error::from(errno));
        assert!(matches!(error, ConnectError::NoRoute(_)), "{error:?}");
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        let address = Address::from(LOOPBACK);
        let both = vec![(address.clone(), ConnectError::Shutdown), (address, error)];
        assert_eq!(ConnectError::AllFailed(both).raw_os_error(), Some(errno.raw_os_error()));
    }
    assert_eq!(ConnectError::Stopped.raw_os_error(), None);
    assert_eq!(ConnectError::from(io::Error::from(ErrorKind::NotFound)).raw_os_error(), None);
}

#[test]
fn c32a_a_local_address_that_cannot_be_had_is_not_an_error_of_the_peer() {
    let taken = TcpListener::bind(LOOPBACK).expect("a free port");
    let taken = taken.local_addr().map(|address| (address, taken)).expect("a bound address");
    let unassigned = UNASSIGNED.parse().expect("an address");
    let cases = [
        (
            taken.0,
            Errno::ADDRINUSE,
            "(another socket has it; with port 0 the system picks a free one)",
        ),
        (unassigned, Errno::ADDRNOTAVAIL, "(no interface of this machine has that address)"),
    ];
    for (from, errno, way_out) in cases {
        // A port listens there, but is not contacted.
        let error = failed(taken.0, ConnectOptions::default().bind(from));
        let ConnectError::LocalBind { address, source } = &error else { panic!("{error:?}") };
        assert_eq!(address.socket_addr(), Some(from));
        assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
        assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot connect from tcp:{from}: ")), "{text}");
        assert!(text.ends_with(way_out), "{text}");
    }
    let address = Address::from(LOOPBACK);
    let denied = ConnectError::LocalBind { address, source: Arc::new(Errno::ACCESS.into()) };
    assert_eq!(
        denied.to_string(),
        "cannot connect from tcp:127.0.0.1:0: permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)"
    );
}

#[test]
fn c32a_a_second_connection_between_the_same_ends_is_an_error_of_the_local_address() {
    let mut rig = Kit::mio().rig();
    let (server, first, second) = (rig.end(), rig.end(), rig.end());
    let port = rig.listen(&server, Script::new());
    // With address reuse, the system detects the conflict only when it connects.
    let from = own_address(32, 0);
    let from_port = |from| {
        let options = ConnectOptions::default().bind(from);
        options.prepare(|socket| socket.set_reuse_address(true))
    };
    hooks::connector(&rig.reactor, port.host(), from_port(from), first.once(Script::new()));
    rig.until("connection_made", || first.is_made());
    let from = first.transport().host().socket_addr().expect("an address");
    let factory = move || second.plays(Script::new());
    let connecting = rig.reactor.connect((port.host(), from_port(from)), factory);
    rig.until("the failure", || connecting.has_fired());
    let failure = failure_of(connecting);
    let Some(ConnectError::LocalBind { address, .. }) = failure.downcast_ref() else {
        panic!("{failure:?}")
    };
    assert_eq!(address.socket_addr(), Some(from));
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
        let port = rig.reactor.listen(address, move || a.plays(Script::new()));
        let error = port.expect_err("the port cannot be opened");
        let error: &ListenError = error.downcast_ref().expect("the error of a port");
        assert_eq!(error.address.socket_addr(), Some(address));
        assert_eq!(error.source.kind(), kind);
        assert!(error.raw_os_error().is_some(), "the error keeps its number");
        assert!(error.to_string().starts_with(&format!("cannot listen on tcp:{address}: ")));
    }
}

/// A client bound to the port that it connects to opens the connection from both ends.
#[test]
fn a_connect_that_meets_itself_is_refused() {
    let closed = closed();
    let error = failed(closed, ConnectOptions::default().bind(closed));
    assert!(matches!(error, ConnectError::Refused(_)), "{error:?}");
}
