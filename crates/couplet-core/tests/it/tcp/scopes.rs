//! Row 145a: the scope and the flow of an IPv6 address.
#![cfg(target_os = "linux")]

use std::io::Write;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use couplet::testing::failure_of;
use couplet::{Address, ConnectError, ConnectOptions, Connector, hooks};

use crate::needed::has_ipv6;
use crate::suite::kit::{Kit, Rig};
use crate::suite::recorder::{A, Script};

/// A link-local address of this machine, and the number of its interface.
fn link_local() -> Option<(Ipv6Addr, u32)> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ip = Ipv6Addr::from_bits(u128::from_str_radix(fields[0], 16).ok()?);
        let flags = u32::from_str_radix(fields[4], 16).ok()?;
        // Neither tentative nor a duplicate.
        let is_usable = ip.is_unicast_link_local() && flags & 0x48 == 0;
        is_usable.then_some((ip, u32::from_str_radix(fields[1], 16).ok()?))
    })
}

/// Listens on an address and connects to it. Returns the accepted end and the client.
fn joined(rig: &mut Rig, at: SocketAddrV6, connects: impl Fn(&Rig, &Address, &A)) -> (A, A) {
    let (server, client) = (rig.end(), rig.end());
    let port =
        rig.reactor.listen(SocketAddr::V6(at), server.once(Script::new())).expect("a free port");
    connects(rig, &port.host(), &client);
    rig.until("connection_made", || server.is_made() && client.is_made());
    (server, client)
}

/// Connects to the address unchanged.
fn connect(rig: &Rig, to: &Address, client: &A) -> Connector {
    hooks::connector(&rig.reactor, to, ConnectOptions::default(), client.once(Script::new()))
}

#[test]
fn c145a_a_link_local_address_keeps_its_scope_both_ways() {
    let Some((ip, scope)) = link_local() else {
        // Not with `eprintln`, which the harness captures when a test passes. Some CI machines have
        // no such address either.
        let _ = writeln!(std::io::stderr(), "skipped: no interface has a link-local address");
        return;
    };
    let mut rig = Kit::mio().rig();
    let at = SocketAddrV6::new(ip, 0, 0, scope);
    let by_address = |rig: &Rig, to: &Address, client: &A| drop(connect(rig, to, client));
    let by_string = |rig: &Rig, to: &Address, client: &A| {
        // As the address prints, with its scope.
        rig.reactor.connect(to.to_string(), client.once(Script::new())).detach();
    };
    for by in [&by_address as &dyn Fn(&Rig, &Address, &A), &by_string] {
        let (server, client) = joined(&mut rig, at, by);
        let (server, client) = (server.transport(), client.transport());
        assert_eq!(client.peer(), server.host());
        assert_eq!(client.host(), server.peer());
        for address in [client.peer(), client.host(), server.peer(), server.host()] {
            let Some(SocketAddr::V6(v6)) = address.socket_addr() else { panic!("{address}") };
            assert_eq!((*v6.ip(), v6.scope_id()), (ip, scope));
        }
    }
    // The scope names the interface; without it the system has no route.
    let (a, unscoped) = (rig.end(), SocketAddrV6::new(ip, 1, 0, 0));
    let connecting = rig
        .reactor
        .connect((SocketAddr::from(unscoped), ConnectOptions::default()), a.once(Script::new()));
    rig.until("the failure", || connecting.has_fired());
    let failure = failure_of(connecting);
    let error: &ConnectError = failure.downcast_ref().expect("an error of the connect");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::INVAL.raw_os_error()), "{error:?}");
}

#[test]
fn c145a_an_address_is_connected_to_with_its_scope_and_flow() {
    if !has_ipv6() {
        return;
    }
    let mut rig = Kit::mio().rig();
    let at = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let with_all = |to: &Address| {
        let number = to.port().expect("a number");
        SocketAddr::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, number, 7, 1))
    };
    let (server, client) = joined(&mut rig, at, |rig, to, client| {
        let connector = connect(rig, &with_all(to).into(), client);
        assert_eq!(connector.to_string(), format!("tcp:[::1%1]:{}", to.port().unwrap()));
        assert_eq!(connector.remote_host(), "::1%1");
    });
    let to = with_all(server.transport().host());
    assert_eq!(client.transport().peer().socket_addr(), Some(to));
}
