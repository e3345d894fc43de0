//! Options of open sockets, and the groups of datagram ports.
//!
//! Contract: 64, 64d, 160c.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{InterfaceIndexOrAddress, SockRef};

use super::probes;

use crate::driver::{Group, Interface, Membership, SocketKind, SocketOption};

/// Sets an option of a socket of this kind; ignores one that it does not have. On a dual-stack socket
/// the options of IP are set for both families.
pub(super) fn set(socket: &SockRef<'_>, kind: SocketKind, option: SocketOption) -> io::Result<()> {
    if !option.applies_to(kind) {
        return Ok(());
    }
    match option {
        SocketOption::NoDelay(on) => socket.set_tcp_nodelay(on),
        #[cfg(target_os = "linux")]
        SocketOption::Acknowledge => socket.set_tcp_quickack(true),
        #[cfg(not(target_os = "linux"))]
        SocketOption::Acknowledge => Ok(()),
        SocketOption::KeepAlive(silence) => probes::set(socket, silence),
        SocketOption::ReceiveBuffer(bytes) => socket.set_recv_buffer_size(bytes),
        SocketOption::SendBuffer(bytes) => socket.set_send_buffer_size(bytes),
        SocketOption::Ttl(n) => in_each_family(
            socket,
            || socket.set_unicast_hops_v6(n.into()),
            || socket.set_ttl_v4(n.into()),
        ),
        SocketOption::Tos(tos) => {
            in_each_family(socket, || set_tclass(socket, tos), || socket.set_tos_v4(tos.into()))
        }
        SocketOption::Broadcast(on) => socket.set_broadcast(on),
        SocketOption::MulticastTtl(n) => in_each_family(
            socket,
            || socket.set_multicast_hops_v6(n.into()),
            || socket.set_multicast_ttl_v4(n.into()),
        ),
        SocketOption::MulticastLoop(on) => in_each_family(
            socket,
            || socket.set_multicast_loop_v6(on),
            || socket.set_multicast_loop_v4(on),
        ),
        SocketOption::MulticastInterface(Interface::Address(address)) => {
            socket.set_multicast_if_v4(&address)
        }
        SocketOption::MulticastInterface(Interface::Any) => in_each_family(
            socket,
            || socket.set_multicast_if_v6(0),
            || socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED),
        ),
        SocketOption::MulticastInterface(Interface::Number(number)) => in_each_family(
            socket,
            || socket.set_multicast_if_v6(number),
            || set_interface_v4(socket, number),
        ),
        // The driver's own.
        SocketOption::ResetUnlessClosed(_) | SocketOption::EndsWhenRead => Ok(()),
    }
}

/// Sets an option of IP for each family of the socket.
fn in_each_family(
    socket: &SockRef<'_>,
    v6: impl FnOnce() -> io::Result<()>,
    v4: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let is_v6 = socket.local_addr()?.is_ipv6();
    let has_v4 = !is_v6 || !socket.only_v6()?;
    if is_v6 {
        v6()?;
    }
    if has_v4 { v4() } else { Ok(()) }
}

/// Joins or leaves a group.
pub(super) fn set_membership(
    socket: &SockRef<'_>,
    group: &Group,
    change: Membership,
) -> io::Result<()> {
    let Group { address, source, interface } = *group;
    match (address, source, interface) {
        (IpAddr::V4(_), Some(IpAddr::V4(_)), Interface::Number(number)) => {
            set_source_member(socket, group, number, change)
        }
        (IpAddr::V4(address), Some(IpAddr::V4(source)), interface) => {
            let own = address_of(interface);
            match change {
                Membership::Join => socket.join_ssm_v4(&source, &address, &own),
                Membership::Leave => socket.leave_ssm_v4(&source, &address, &own),
            }
        }
        (IpAddr::V4(address), None, interface) => {
            let own = match interface {
                Interface::Number(number) => InterfaceIndexOrAddress::Index(number),
                interface => InterfaceIndexOrAddress::Address(address_of(interface)),
            };
            match change {
                Membership::Join => socket.join_multicast_v4_n(&address, &own),
                Membership::Leave => socket.leave_multicast_v4_n(&address, &own),
            }
        }
        (IpAddr::V6(address), source, Interface::Any | Interface::Number(_)) => {
            let number = if let Interface::Number(number) = interface { number } else { 0 };
            match (source, change) {
                (Some(_), _) => set_source_member(socket, group, number, change),
                (None, Membership::Join) => socket.join_multicast_v6(&address, number),
                (None, Membership::Leave) => socket.leave_multicast_v6(&address, number),
            }
        }
        (IpAddr::V6(_), _, Interface::Address(_)) | (IpAddr::V4(_), Some(IpAddr::V6(_)), _) => {
            let text = "cannot join or leave: the group, its source and its interface must be of one family";
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

/// The address of an IPv4 interface; the wildcard means any interface.
fn address_of(interface: Interface) -> Ipv4Addr {
    match interface {
        Interface::Address(address) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(target_os = "linux")]
fn set_source_member(
    socket: &SockRef<'_>,
    group: &Group,
    number: u32,
    change: Membership,
) -> io::Result<()> {
    let source = group.source.ok_or(io::ErrorKind::InvalidInput)?;
    let socket = std::os::fd::AsFd::as_fd(&**socket);
    let joins = change == Membership::Join;
    couplet_os::datagrams::set_source_member(socket, (group.address, source), number, joins)
}

#[cfg(target_os = "linux")]
fn set_interface_v4(socket: &SockRef<'_>, number: u32) -> io::Result<()> {
    let socket = std::os::fd::AsFd::as_fd(&**socket);
    couplet_os::datagrams::set_multicast_interface_v4(socket, number)
}

#[cfg(not(target_os = "linux"))]
fn set_source_member(_: &SockRef<'_>, _: &Group, _: u32, _: Membership) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn set_interface_v4(_: &SockRef<'_>, _: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn set_tclass(socket: &SockRef<'_>, tos: u8) -> io::Result<()> {
    socket.set_tclass_v6(tos.into())
}

#[cfg(not(unix))]
fn set_tclass(_: &SockRef<'_>, _: u8) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};

    use socket2::{Domain, Socket, Type};

    use super::*;

    /// An IPv4 port, an IPv6 port of both families, and an IPv6-only port.
    fn ports() -> [(Socket, &'static str); 3] {
        let port = |domain, ip: IpAddr, only_v6: bool| {
            let socket = Socket::new(domain, Type::DGRAM, None).expect("a socket");
            if domain == Domain::IPV6 {
                socket.set_only_v6(only_v6).expect("an option");
            }
            socket.bind(&SocketAddr::new(ip, 0).into()).expect("a free port");
            socket
        };
        let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into());
        [
            (port(Domain::IPV4, v4, false), "4"),
            (port(Domain::IPV6, v6, false), "6 and 4"),
            (port(Domain::IPV6, v6, true), "6"),
        ]
    }

    #[test]
    fn an_option_is_set_and_set_again_for_each_family_of_the_port() {
        use SocketOption::{Broadcast, MulticastLoop, MulticastTtl, Tos, Ttl};
        type Get = fn(&SockRef<'_>) -> io::Result<u32>;
        let cases: [([SocketOption; 2], [u32; 2], Get, Get); 5] = [
            ([Ttl(7), Ttl(9)], [7, 9], |socket| socket.unicast_hops_v6(), |socket| socket.ttl_v4()),
            (
                [Tos(0b1010_0001), Tos(4)],
                [0b1010_0001, 4],
                |socket| socket.tclass_v6(),
                |socket| socket.tos_v4(),
            ),
            (
                [MulticastTtl(7), MulticastTtl(0)],
                [7, 0],
                |socket| socket.multicast_hops_v6(),
                |socket| socket.multicast_ttl_v4(),
            ),
            (
                [MulticastLoop(false), MulticastLoop(true)],
                [0, 1],
                |socket| socket.multicast_loop_v6().map(u32::from),
                |socket| socket.multicast_loop_v4().map(u32::from),
            ),
            (
                [Broadcast(true), Broadcast(false)],
                [1, 0],
                |socket| socket.broadcast().map(u32::from),
                |socket| socket.broadcast().map(u32::from),
            ),
        ];
        for (port, families) in ports() {
            for (options, values, get_v6, get_v4) in &cases {
                for (option, value) in options.iter().zip(values) {
                    let socket = SockRef::from(&port);
                    set(&socket, SocketKind::Udp, *option).expect("an option");
                    let kind = option.kind().expect("it has a value");
                    assert_eq!(kind.read(&socket).expect("an option"), *option, "{families}");
                    if families.contains('6') {
                        assert_eq!(get_v6(&socket).expect("6"), *value, "{option:?}: {families}");
                    }
                    if families.contains('4') {
                        assert_eq!(get_v4(&socket).expect("4"), *value, "{option:?}: {families}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_interface_of_multicasts_is_set_and_left_to_the_system_again() {
        let lo = Interface::Number(
            rustix::net::netdevice::name_to_index(&ports()[0].0, "lo").expect("lo"),
        );
        for (port, families) in ports() {
            let socket = SockRef::from(&port);
            for (interface, number) in [(lo, true), (Interface::Any, false)] {
                let option = SocketOption::MulticastInterface(interface);
                set(&socket, SocketKind::Udp, option).expect("an option");
                if families.contains('6') {
                    let set = socket.multicast_if_v6().expect("6") != 0;
                    assert_eq!(set, number, "{families}");
                }
            }
            if families.contains('4') {
                let address = Interface::Address(Ipv4Addr::LOCALHOST);
                for (interface, expected) in
                    [(address, Ipv4Addr::LOCALHOST), (Interface::Any, Ipv4Addr::UNSPECIFIED)]
                {
                    let option = SocketOption::MulticastInterface(interface);
                    set(&socket, SocketKind::Udp, option).expect("an option");
                    assert_eq!(socket.multicast_if_v4().expect("4"), expected, "{families}");
                }
            }
        }
    }

    #[test]
    fn a_group_its_source_and_its_interface_are_of_one_family() {
        let [four, six] = [IpAddr::from([232, 1, 1, 1]), "ff3e::7".parse().expect("an address")];
        let local: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        for group in [
            Group::new(four).source(local[1]),
            Group::new(four).source(local[1]).interface(1),
            Group::new(six).interface(Ipv4Addr::LOCALHOST),
            Group::new(six).source(local[1]).interface(Ipv4Addr::LOCALHOST),
        ] {
            for (port, _) in ports() {
                for change in [Membership::Join, Membership::Leave] {
                    let socket = SockRef::from(&port);
                    let error = set_membership(&socket, &group, change).expect_err("two families");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
                }
            }
        }
    }

    /// Uses only the loopback interface, which each system has.
    #[test]
    fn a_group_that_was_left_can_be_joined_again_and_not_left_twice() {
        let [v4, ..] = ports();
        let groups = [
            Group::new([239, 1, 1, 1]).interface(Ipv4Addr::LOCALHOST),
            Group::new([239, 1, 1, 2]).interface(1),
            Group::new([232, 1, 1, 1]).source([127, 0, 0, 1]).interface(Ipv4Addr::LOCALHOST),
            Group::new([232, 1, 1, 2]).source([127, 0, 0, 1]).interface(1),
        ];
        for group in groups {
            let (join, leave) = (Membership::Join, Membership::Leave);
            let is_ok = |change| set_membership(&SockRef::from(&v4.0), &group, change).is_ok();
            let done = [join, join, leave, leave, join, leave].map(is_ok);
            assert_eq!(done, [true, false, true, false, true, true], "{group:?}");
        }
    }
}
