//! Options of a live datagram port.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use socket2::{InterfaceIndexOrAddress, SockRef};

use super::calls::DatagramSocket;
use crate::driver::{DatagramOption, Group, Interface};

/// Sets an option. On a dual-stack socket most options are set for both families.
pub(super) fn set(inner: &DatagramSocket, option: &DatagramOption) -> io::Result<()> {
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
    inner: &DatagramSocket,
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

/// The address of an IPv4 interface; the wildcard stands for any interface.
fn address_of(interface: Interface) -> Ipv4Addr {
    match interface {
        Interface::Address(address) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

#[cfg(target_os = "linux")]
fn set_source_member(
    inner: &DatagramSocket,
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
fn set_interface_v4(inner: &DatagramSocket, number: u32) -> io::Result<()> {
    let socket = std::os::fd::AsFd::as_fd(inner);
    couplet_os::datagrams::set_multicast_interface_v4(socket, number)
}

#[cfg(not(target_os = "linux"))]
fn set_source_member(_: &DatagramSocket, _: &Group, _: u32, _: Membership) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn set_interface_v4(_: &DatagramSocket, _: u32) -> io::Result<()> {
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
