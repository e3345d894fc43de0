//! The commands over UDP: `udp:` addresses, and `couplet echo`, `forward` and `connect` for them; the
//! first two are parts of services, too.

mod connect;
mod echo;
mod forward;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use couplet::endpoints::{EndpointError, ServerEndpoint, UdpClient};
use couplet::services::DatagramService;
use couplet::{
    Datagram, DatagramOptions, DatagramProtocol, DatagramTransport, Failure, Loop, LoopOptions,
};
pub(crate) use couplet_runner::ListenUdp;

use crate::endpoint::{Peer, to_connect, to_listen};
use crate::exit::Exit;
use crate::server::{self, DriverOption, OpenPorts, Part, Threads};

pub(crate) use connect::run as connect;
pub(crate) use echo::{part as echo_part, ports as echo_ports};
pub(crate) use forward::{Settings as ForwardSettings, part as forward_part, run as forward};

/// An address to listen on, for connections or for datagrams.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    Streams(Arc<dyn ServerEndpoint>),
    Udp(ListenUdp),
}

/// An address to connect to, or to send datagrams to.
#[derive(Clone, Debug)]
pub(crate) enum Remote {
    Streams(Peer),
    Udp(UdpClient),
}

impl Local {
    pub(crate) fn into_streams(self) -> Option<Arc<dyn ServerEndpoint>> {
        match self {
            Local::Streams(endpoint) => Some(endpoint),
            Local::Udp(_) => None,
        }
    }

    pub(crate) fn into_udp(self) -> Option<ListenUdp> {
        match self {
            Local::Streams(_) => None,
            Local::Udp(listen) => Some(listen),
        }
    }
}

/// The peer's addresses, in the order of the system's preference.
fn addresses_of(peer: &UdpClient) -> Result<Vec<SocketAddr>, Failure> {
    if let Some(address) = peer.address() {
        return Ok(vec![address]);
    }
    let mut l = Loop::new()?;
    let found = l.run_until(l.reactor().resolve(&peer.host))?;
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, peer.port)).collect())
}

/// True for an address of the kind `udp:`.
fn is_udp(typed: &str) -> bool {
    typed.split(':').next() == Some("udp")
}

/// Parses an endpoint or `udp:PORT:interface=HOST`; without the host it is on all interfaces.
pub(crate) fn local(typed: &str) -> Result<Local, EndpointError> {
    match is_udp(typed) {
        false => Ok(Local::Streams(to_listen(typed)?)),
        true => Ok(Local::Udp(typed.parse()?)),
    }
}

/// Parses an endpoint, `udp:PORT` (on this machine) or `udp:HOST:PORT`, where HOST may be a name.
pub(crate) fn remote(typed: &str) -> Result<Remote, EndpointError> {
    match is_udp(typed) {
        false => Ok(Remote::Streams(to_connect(typed)?)),
        true => Ok(Remote::Udp(typed.parse()?)),
    }
}

/// A UDP port of a service, with a protocol from `protocol` each time it starts.
fn part<P: DatagramProtocol>(
    listen: ListenUdp,
    protocol: impl Fn() -> P + Clone + Send + Sync + 'static,
    change: impl Fn(DatagramService) -> DatagramService + Send + Sync + 'static,
) -> Part {
    Box::new(move |name| {
        let (listen, protocol) = (listen.clone(), protocol.clone());
        change(DatagramService::opening(name, move |reactor| {
            listen.listen(reactor, DatagramOptions::default(), protocol())
        }))
    })
}

/// The number of a server's loops, and their driver.
pub(crate) type Loops = (Threads, DriverOption);

/// Opens ports at these addresses with a protocol from `protocol` each, in each of these loops. In
/// several, the kernel distributes the clients among the ports of an address.
///
/// # Errors
///
/// If another program has such a port: it would receive some of the datagrams.
fn ports<P: DatagramProtocol>(
    addresses: Vec<SocketAddr>,
    threads: Threads,
    protocol: impl Fn() -> P + Send + Sync + 'static,
) -> Result<OpenPorts, Exit> {
    if threads.number == 1 {
        return Ok(Box::new(move |reactor| {
            let listen =
                |address: &SocketAddr| Ok(reactor.listen_datagrams(*address, protocol())?.host());
            addresses.iter().map(listen).collect()
        }));
    }
    for address in addresses.iter().filter(|address| address.port() != 0) {
        Loop::new()
            .map_err(Failure::from)?
            .reactor()
            .listen_datagrams(*address, |_: &DatagramTransport, _: &Datagram<'_>| {})
            .map_err(Failure::from)?;
    }
    // The first loop replaces port 0 by the number that it got.
    let bound = Mutex::new(addresses);
    Ok(Box::new(move |reactor| {
        let listen = |address: &mut SocketAddr| {
            let options = DatagramOptions::default().reuse_port(true);
            let host = reactor.listen_datagrams((*address, options), protocol())?.host();
            *address = host.socket_addr().unwrap_or(*address);
            Ok(host)
        };
        bound.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().map(listen).collect()
    }))
}

/// Listens on these addresses with a protocol from `protocol` each, in these loops.
fn run<P: DatagramProtocol>(
    addresses: &[SocketAddr],
    (threads, driver): Loops,
    protocol: impl Fn() -> P + Send + Sync + 'static,
) -> Result<(), Exit> {
    let open = ports(addresses.to_vec(), threads, protocol)?;
    let options = driver.set(LoopOptions::default());
    if threads.number == 1 {
        return server::run_loop(options, |reactor| open(reactor));
    }
    server::run_loops(server::cluster(threads, options), |reactor| open(reactor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_endpoint_selects_datagrams_or_streams() {
        for (typed, here, there) in [
            ("udp:9000", "[::]:9000", "127.0.0.1:9000"),
            ("udp:127.0.0.1:9000", "127.0.0.1:9000", "127.0.0.1:9000"),
            ("udp:[::1]:9000", "[::1]:9000", "[::1]:9000"),
        ] {
            let Ok(Local::Udp(local)) = local(typed) else { panic!("{typed}") };
            let Ok(Remote::Udp(remote)) = remote(typed) else { panic!("{typed}") };
            let remote = addresses_of(&remote).expect("no name")[0];
            let local = local.address();
            assert_eq!((local.to_string(), remote.to_string()), (here.into(), there.into()));
        }
        assert!(matches!(local("7"), Ok(Local::Streams(_))));
        assert!(matches!(remote("7"), Ok(Remote::Streams(_))));
        assert!(matches!(remote("udp.example:7"), Ok(Remote::Streams(_))));
    }
}
