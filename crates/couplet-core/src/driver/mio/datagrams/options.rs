//! Options of a live datagram port.
//!
//! Contract: 160c.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{InterfaceIndexOrAddress, SockRef};

use super::calls::PortSocket;
use crate::driver::{DatagramOption, Group, Interface};

/// Sets an option. On a dual-stack socket most options are set for both families.
pub(super) fn set(inner: &PortSocket, option: &DatagramOption) -> io::Result<()> {
    let socket = SockRef::from(inner);
    let is_v6 = socket.local_addr()?.is_ipv6();
    let has_v4 = !is_v6 || !socket.only_v6()?;
    let both = |v6: &dyn Fn() -> io::Result<()>, v4: &dyn Fn() -> io::Result<()>| {
        if is_v6 {
            v6()?;
        }
        if has_v4 { v4() } else { Ok(()) }
    };
    match *option {
        DatagramOption::Broadcast(on) => socket.set_broadcast(on),
        DatagramOption::Ttl(n) => {
            both(&|| socket.set_unicast_hops_v6(n.into()), &|| socket.set_ttl_v4(n.into()))
        }
        DatagramOption::Tos(tos) => {
            both(&|| set_tclass(&socket, tos), &|| socket.set_tos_v4(tos.into()))
        }
        DatagramOption::MulticastTtl(n) => {
            both(&|| socket.set_multicast_hops_v6(n.into()), &|| {
                socket.set_multicast_ttl_v4(n.into())
            })
        }
        DatagramOption::MulticastLoop(on) => {
            both(&|| socket.set_multicast_loop_v6(on), &|| socket.set_multicast_loop_v4(on))
        }
        DatagramOption::MulticastInterface(interface) => match interface {
            Interface::Address(address) => socket.set_multicast_if_v4(&address),
            Interface::Any => both(&|| socket.set_multicast_if_v6(0), &|| {
                socket.set_multicast_if_v4(&Ipv4Addr::UNSPECIFIED)
            }),
            Interface::Number(number) => {
                both(&|| socket.set_multicast_if_v6(number), &|| set_interface_v4(inner, number))
            }
        },
        DatagramOption::Join(group) => set_member(inner, &socket, &group, Membership::Join),
        DatagramOption::Leave(group) => set_member(inner, &socket, &group, Membership::Leave),
    }
}

/// A change of a group's members.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Membership {
    Join,
    Leave,
}

fn set_member(
    inner: &PortSocket,
    socket: &SockRef<'_>,
    group: &Group,
    change: Membership,
) -> io::Result<()> {
    let Group { address, source, interface } = *group;
    match (address, source, interface) {
        (IpAddr::V4(_), Some(IpAddr::V4(_)), Interface::Number(number)) => {
            set_source_member(inner, group, number, change)
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
                (Some(_), _) => set_source_member(inner, group, number, change),
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
    inner: &PortSocket,
    group: &Group,
    number: u32,
    change: Membership,
) -> io::Result<()> {
    let source = group.source.ok_or(io::ErrorKind::InvalidInput)?;
    let socket = std::os::fd::AsFd::as_fd(inner);
    let joins = change == Membership::Join;
    couplet_os::datagrams::set_source_member(socket, (group.address, source), number, joins)
}

#[cfg(target_os = "linux")]
fn set_interface_v4(inner: &PortSocket, number: u32) -> io::Result<()> {
    let socket = std::os::fd::AsFd::as_fd(inner);
    couplet_os::datagrams::set_multicast_interface_v4(socket, number)
}

#[cfg(not(target_os = "linux"))]
fn set_source_member(_: &PortSocket, _: &Group, _: u32, _: Membership) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn set_interface_v4(_: &PortSocket, _: u32) -> io::Result<()> {
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
    fn ports() -> [(PortSocket, &'static str); 3] {
        let port = |domain, ip: IpAddr, only_v6: bool| {
            let socket = Socket::new(domain, Type::DGRAM, None).expect("a socket");
            if domain == Domain::IPV6 {
                socket.set_only_v6(only_v6).expect("an option");
            }
            socket.bind(&SocketAddr::new(ip, 0).into()).expect("a free port");
            PortSocket::from_socket(socket).expect("a port")
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
        use DatagramOption::{Broadcast, MulticastLoop, MulticastTtl, Tos, Ttl};
        type Get = fn(&SockRef<'_>) -> io::Result<u32>;
        let cases: [([DatagramOption; 2], [u32; 2], Get, Get); 5] = [
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
                    set(&port, option).expect("an option");
                    let socket = SockRef::from(&port);
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
                set(&port, &DatagramOption::MulticastInterface(interface)).expect("an option");
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
                    set(&port, &DatagramOption::MulticastInterface(interface)).expect("an option");
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
                for option in [DatagramOption::Join(group), DatagramOption::Leave(group)] {
                    let error = set(&port, &option).expect_err("two families");
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
            let [join, leave] = [DatagramOption::Join(group), DatagramOption::Leave(group)];
            let is_ok = |option| set(&v4.0, option).is_ok();
            let done = [&join, &join, &leave, &leave, &join, &leave].map(is_ok);
            assert_eq!(done, [true, false, true, false, true, true], "{group:?}");
        }
    }
}
