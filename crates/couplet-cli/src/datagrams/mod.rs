//! The commands over UDP: `udp:` addresses, and what `couplet echo`, `forward` and `connect` do there.

mod connect;
mod echo;
mod forward;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use couplet::endpoints::ServerEndpoint;
use couplet::{
    Datagram, DatagramOptions, DatagramProtocol, DatagramTransport, Failure, Loop, LoopOptions,
};

use crate::cli::Threads;
use crate::endpoint::{Peer, to_connect, to_listen};
use crate::exit::Exit;
use crate::server;

pub(crate) use connect::run as connect;
pub(crate) use echo::run as echo;
pub(crate) use forward::run as forward;

/// Where to listen: for connections, or for datagrams.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    Streams(Arc<dyn ServerEndpoint>),
    Udp(SocketAddr),
}

/// Where to connect, or to send.
#[derive(Clone, Debug)]
pub(crate) enum Remote {
    Streams(Peer),
    Udp(Far),
}

/// Where to send datagrams.
#[derive(Clone, Debug)]
pub(crate) enum Far {
    Address(SocketAddr),
    Name(String, u16),
}

impl Far {
    /// Its first address, which is the one that the system prefers.
    fn address(&self) -> Result<SocketAddr, Failure> {
        match self {
            Far::Address(address) => Ok(*address),
            Far::Name(name, port) => {
                let mut l = Loop::new()?;
                let found = l.run_until(l.reactor().resolve(name))?;
                Ok(SocketAddr::new(found[0], *port))
            }
        }
    }
}

/// What a HOST to send to may be.
const NAMED: &str = "a name or an IP address";

type Error = Box<dyn std::error::Error + Send + Sync>;

/// An endpoint, or `udp:PORT`, which is on all interfaces, or `udp:HOST:PORT`.
pub(crate) fn local(typed: &str) -> Result<Local, Error> {
    match typed.strip_prefix("udp:") {
        None => Ok(Local::Streams(to_listen(typed)?)),
        Some(rest) => Ok(Local::Udp(address(rest, Ipv6Addr::UNSPECIFIED.into())?)),
    }
}

/// An endpoint, or `udp:PORT`, which is on this machine, or `udp:HOST:PORT`, where HOST may be a name.
pub(crate) fn remote(typed: &str) -> Result<Remote, Error> {
    let Some(rest) = typed.strip_prefix("udp:") else {
        return Ok(Remote::Streams(to_connect(typed)?));
    };
    let (host, port) = split(rest).ok_or_else(|| wrong(rest, NAMED))?;
    if port == 0 {
        return Err("port 0 is no address to send to".into());
    }
    Ok(Remote::Udp(match ip(host, Ipv4Addr::LOCALHOST.into()) {
        Some(ip) => Far::Address(SocketAddr::new(ip, port)),
        None if !host.contains(|c: char| ":[]/".contains(c) || c.is_whitespace()) => {
            Far::Name(host.to_owned(), port)
        }
        None => Err(wrong(rest, NAMED))?,
    }))
}

fn address(typed: &str, default: IpAddr) -> Result<SocketAddr, Error> {
    let address = split(typed).and_then(|(host, port)| Some((ip(host, default)?, port)));
    Ok(address.ok_or_else(|| wrong(typed, "an IP address"))?.into())
}

/// The host, empty if there is none, and the port.
fn split(typed: &str) -> Option<(&str, u16)> {
    let (host, port) = typed.rsplit_once(':').unwrap_or(("", typed));
    Some((host, port.parse().ok()?))
}

fn ip(host: &str, default: IpAddr) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match (host, bare) {
        ("", _) => Some(default),
        ("localhost", _) => Some(Ipv4Addr::LOCALHOST.into()),
        (_, Some(v6)) => v6.parse().ok().map(IpAddr::V6),
        (v4, None) => v4.parse().ok().map(IpAddr::V4),
    }
}

fn wrong(typed: &str, host: &str) -> Error {
    format!("'udp:{typed}' is not udp:PORT or udp:HOST:PORT, with {host} as HOST").into()
}

/// Has what `protocol` makes receive the datagrams of these addresses, in so many threads.
fn run<P: DatagramProtocol>(
    addresses: &[SocketAddr],
    threads: Threads,
    protocol: impl Fn() -> P + Send + Sync,
) -> Result<(), Exit> {
    if threads.number != 1 {
        return run_many(addresses, threads, protocol);
    }
    server::run_loop(LoopOptions::default(), |reactor| {
        let listen = |address: &SocketAddr| Ok(reactor.listen_udp(*address, protocol())?.host());
        addresses.iter().map(listen).collect()
    })
}

/// The same, with a port of each loop at each address: the system distributes the datagrams, those of one
/// client to one of them.
fn run_many<P: DatagramProtocol>(
    addresses: &[SocketAddr],
    threads: Threads,
    protocol: impl Fn() -> P + Send + Sync,
) -> Result<(), Exit> {
    for address in addresses.iter().filter(|address| address.port() != 0) {
        // Another program that shares its port would take a part of the datagrams.
        Loop::new()
            .map_err(Failure::from)?
            .reactor()
            .listen_udp(*address, |_: &DatagramTransport, _: &Datagram<'_>| {})
            .map_err(Failure::from)?;
    }
    // With the numbers that port 0 became.
    let bound = Mutex::new(addresses.to_vec());
    server::run_loops(server::cluster(threads, LoopOptions::default()), |reactor| {
        let listen = |address: &mut SocketAddr| {
            let options = DatagramOptions::default().reuse_port(true);
            let host = reactor.listen_udp_with(*address, options, protocol())?.host();
            *address = host.socket_addr().unwrap_or(*address);
            Ok(host)
        };
        bound.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().map(listen).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_datagrams_is_a_port_with_or_without_a_host() {
        for (typed, here, there) in [
            ("udp:9000", "[::]:9000", "127.0.0.1:9000"),
            ("udp::9000", "[::]:9000", "127.0.0.1:9000"),
            ("udp:127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("udp:localhost:9000", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("udp:[::1]:9000", "[::1]:9000", "[::1]:9000"),
        ] {
            let Ok(Local::Udp(local)) = local(typed) else { panic!("{typed}") };
            let Ok(Remote::Udp(Far::Address(remote))) = remote(typed) else { panic!("{typed}") };
            assert_eq!((local.to_string(), remote.to_string()), (here.into(), there.into()));
        }
        for typed in ["udp:", "udp:a", "udp:70000", "udp:::1:9", "udp:[127.0.0.1]:9", "udp:a b:9"] {
            assert!(local(typed).is_err() && remote(typed).is_err(), "{typed}");
        }
        let Ok(Remote::Udp(Far::Name(name, 53))) = remote("udp:ns.example:53") else { panic!() };
        assert_eq!(name, "ns.example");
        assert!(local("udp:ns.example:53").is_err(), "one listens at an address");
        assert!(local("udp:0").is_ok() && remote("udp:0").is_err());
        assert!(matches!(local("7"), Ok(Local::Streams(_))));
        assert!(matches!(remote("7"), Ok(Remote::Streams(_))));
    }
}
