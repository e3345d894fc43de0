//! The commands over UDP: `udp:` addresses, and what `couplet echo`, `forward` and `connect` do there.

mod connect;
mod echo;
mod forward;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use couplet::endpoints::ServerEndpoint;
use couplet::{
    Datagram, DatagramOptions, DatagramProtocol, DatagramTransport, Failure, Loop, LoopOptions,
};

use crate::cli::Threads;
use crate::endpoint::{Peer, to_connect, to_listen};
use crate::exit::Exit;
use crate::{output, server, signalled_loop};

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
    Udp(SocketAddr),
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// An endpoint, or `udp:PORT`, which is on all interfaces, or `udp:HOST:PORT`.
pub(crate) fn local(typed: &str) -> Result<Local, Error> {
    match typed.strip_prefix("udp:") {
        None => Ok(Local::Streams(to_listen(typed)?)),
        Some(rest) => Ok(Local::Udp(address(rest, Ipv6Addr::UNSPECIFIED.into())?)),
    }
}

/// An endpoint, or `udp:PORT`, which is on this machine, or `udp:HOST:PORT`.
pub(crate) fn remote(typed: &str) -> Result<Remote, Error> {
    match typed.strip_prefix("udp:") {
        None => Ok(Remote::Streams(to_connect(typed)?)),
        Some(rest) => {
            let address = address(rest, Ipv4Addr::LOCALHOST.into())?;
            match address.port() {
                0 => Err("port 0 is no address to send to".into()),
                _ => Ok(Remote::Udp(address)),
            }
        }
    }
}

fn address(typed: &str, default: IpAddr) -> Result<SocketAddr, Error> {
    let wrong =
        || format!("'udp:{typed}' is not udp:PORT or udp:HOST:PORT, with an IP address as HOST");
    let (host, port) = match typed.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => ("", typed),
    };
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip = match (host, bare) {
        ("", _) => default,
        ("localhost", _) => Ipv4Addr::LOCALHOST.into(),
        (_, Some(v6)) => IpAddr::V6(v6.parse().map_err(|_| wrong())?),
        (v4, None) => IpAddr::V4(v4.parse().map_err(|_| wrong())?),
    };
    Ok(SocketAddr::new(ip, port))
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
    let l = signalled_loop(LoopOptions::default(), output::tell)?;
    let mut told = Ok(());
    l.run(|reactor| {
        let ports = addresses.iter().map(|address| reactor.listen_udp(*address, protocol()));
        told = ports.collect::<Result<Vec<_>, _>>()?.iter().try_for_each(|port| listening(port));
        if told.is_err() {
            reactor.stop();
        }
        Ok(())
    })?;
    told
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
            .listen_udp(*address, Nobody)
            .map_err(Failure::from)?;
    }
    let cluster = server::cluster(threads, LoopOptions::default());
    let count = cluster.members().count();
    // The addresses, with the numbers that port 0 became, and how many loops have them.
    let (bound, told) = (Mutex::new((addresses.to_vec(), 0)), OnceLock::new());
    cluster.run(|reactor| {
        let mut bound = bound.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ports = Vec::new();
        for address in &mut bound.0 {
            let options = DatagramOptions::default().reuse_port(true);
            let port = reactor.listen_udp_with(*address, options, protocol())?;
            *address = port.host().socket_addr().unwrap_or(*address);
            ports.push(port);
        }
        bound.1 += 1;
        if bound.1 == count {
            let told = told.get_or_init(|| ports.iter().try_for_each(|port| listening(port)));
            if told.is_err() {
                reactor.stop();
            }
        }
        Ok(())
    })?;
    told.into_inner().unwrap_or(Ok(()))
}

/// Receives nothing.
struct Nobody;

impl DatagramProtocol for Nobody {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
}

/// Prints that a port is listening. A server whose stdout is closed keeps running.
fn listening(port: &DatagramTransport) -> Result<(), Exit> {
    match output::print(format!("listening on {}\n", port.host()).as_bytes()) {
        Err(exit) if exit.is_quiet() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_datagrams_is_a_port_with_or_without_an_ip_address() {
        for (typed, here, there) in [
            ("udp:9000", "[::]:9000", "127.0.0.1:9000"),
            ("udp::9000", "[::]:9000", "127.0.0.1:9000"),
            ("udp:127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("udp:localhost:9000", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("udp:[::1]:9000", "[::1]:9000", "[::1]:9000"),
        ] {
            let Ok(Local::Udp(local)) = local(typed) else { panic!("{typed}") };
            let Ok(Remote::Udp(remote)) = remote(typed) else { panic!("{typed}") };
            assert_eq!((local.to_string(), remote.to_string()), (here.into(), there.into()));
        }
        for typed in ["udp:", "udp:a", "udp:70000", "udp:::1:9", "udp:[127.0.0.1]:9", "udp:b:9"] {
            assert!(local(typed).is_err() && remote(typed).is_err(), "{typed}");
        }
        assert!(local("udp:0").is_ok() && remote("udp:0").is_err());
        assert!(matches!(local("7"), Ok(Local::Streams(_))));
        assert!(matches!(remote("7"), Ok(Remote::Streams(_))));
    }
}
