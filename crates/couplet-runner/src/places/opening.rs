//! Opens the ports of a changed configuration before any of its services stops.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use couplet::endpoints::{Claim, ServerEndpoint, Sharing};
use couplet::{Address, DatagramOptions, DatagramSocket, Failure, ListeningSocket, UnixAddress};

use super::kinds::{PlacedSocket, Wanted, may_overlap};
use super::{Place, Placed, SOCKETS, Sockets, duplicates};
use crate::exit::plain;
use crate::files;

thread_local! {
    /// The endpoints of the configuration that a reload reads.
    static COLLECTED: RefCell<Option<Vec<(Place, Endpoint)>>> = const { RefCell::new(None) };
}

/// An endpoint of a configuration.
pub(crate) enum Endpoint {
    Streams(Arc<dyn ServerEndpoint>),
    Datagrams(SocketAddr),
}

/// The endpoints of a configuration.
pub(crate) struct Endpoints(Vec<(Place, Endpoint)>);

/// An open socket of a service that is to stop.
type Leaving = (Address, OwnedFd);

/// Reads a configuration and builds its services. Returns their endpoints too.
pub(crate) fn collecting<T>(read: impl FnOnce() -> T) -> (T, Endpoints) {
    COLLECTED.set(Some(Vec::new()));
    let value = read();
    (value, Endpoints(COLLECTED.take().unwrap_or_default()))
}

/// An endpoint has been read or built.
pub(super) fn collect(place: Place, endpoint: Endpoint) {
    COLLECTED.with_borrow_mut(|collected| {
        if let Some(collected) = collected {
            collected.push((place, endpoint));
        }
    });
}

impl Endpoints {
    /// Reads and builds all endpoints, these and the runner's own, and binds nothing.
    ///
    /// # Errors
    ///
    /// If one of them can't be opened, or two have one address.
    pub(crate) fn rehearse(self, own: impl IntoIterator<Item = Placed>) -> couplet::Result<()> {
        let own = own.into_iter().map(|it| (it.place(), Endpoint::Streams(Arc::new(it))));
        let claimed: Arc<Mutex<Vec<(Place, Wanted)>>> = Arc::default();
        let mut seen: Vec<Place> = Vec::new();
        for (place, endpoint) in self.0.into_iter().chain(own) {
            // A configuration may have been read twice, as for an untagged enum.
            if seen.contains(&place) {
                continue;
            }
            seen.push(place.clone());
            let (claiming, claimed) = (place.clone(), claimed.clone());
            let tried = match endpoint {
                Endpoint::Streams(endpoint) => {
                    let sharing = Sharing::new(1).trial(move |claim| match claim {
                        Claim::Address { address, is_exclusive, is_dual, .. } => {
                            let address = address.clone();
                            claim_address(
                                &claimed,
                                &claiming,
                                Wanted { address, is_exclusive, is_dual },
                            )
                        }
                        Claim::File(file) => files::can_append(file),
                        _ => Ok(()),
                    });
                    match endpoint.share(&sharing) {
                        Err(failure) if is_unsupported(&failure) => endpoint.reload().map(drop),
                        tried => tried.map(drop),
                    }
                }
                Endpoint::Datagrams(address) => {
                    let address = Address::udp(address);
                    let wanted =
                        Wanted { address: address.clone(), is_exclusive: true, is_dual: true };
                    claim_address(&claimed, &claiming, wanted).map_err(|error| {
                        Failure::msg(format!("cannot listen on {address}: {}", plain(&error)))
                    })
                }
            };
            let in_service = |failure| Failure::msg(format!("{}{failure}", place.of_service()));
            tried.map_err(in_service)?;
        }
        Ok(())
    }

    /// Adds the endpoints of services that were built later.
    pub(crate) fn and(mut self, more: Endpoints) -> Endpoints {
        self.0.extend(more.0);
        self
    }

    /// Returns the endpoints of the services to start that are not open yet.
    ///
    /// # Errors
    ///
    /// If the sockets of the services to stop can't be duplicated.
    pub(crate) async fn opening(
        self,
        starts: impl Fn(&str) -> bool,
        stops: impl Fn(&str) -> bool,
    ) -> couplet::Result<NewEndpoints> {
        let leaving = duplicates(stops).await?.into_iter().map(|(_, socket)| leaving(socket));
        let leaving: Arc<[Leaving]> = leaving.collect::<io::Result<_>>()?;
        let open = SOCKETS.with(Sockets::open);
        let is_new = |place: &Place| starts(&place.service) && open.iter().all(|it| it.0 != *place);
        let new: Vec<_> = self.0.into_iter().filter(|(place, _)| is_new(place)).collect();
        Ok(NewEndpoints { new, leaving })
    }
}

/// Endpoints to open, in a thread, since their files are read.
pub(crate) struct NewEndpoints {
    new: Vec<(Place, Endpoint)>,
    /// Sockets of services that are to stop.
    leaving: Arc<[Leaving]>,
}

impl NewEndpoints {
    /// Opens them, except where a port of the services to stop is in the way.
    ///
    /// # Errors
    ///
    /// If one of them can't be opened. Then none stays open.
    pub(crate) fn open(self) -> couplet::Result<Vec<(Place, PlacedSocket)>> {
        let NewEndpoints { new, leaving } = self;
        let mut opened = Vec::new();
        for (place, endpoint) in new {
            let socket = match endpoint {
                Endpoint::Streams(endpoint) => open_streams(&*endpoint, &leaving),
                Endpoint::Datagrams(address) => open_datagrams(address, &leaving),
            };
            match socket {
                Ok(Some(socket)) => opened.push((place, socket)),
                Ok(None) => {}
                Err(failure) => {
                    return Err(Failure::msg(format!("{}{failure}", place.of_service())));
                }
            }
        }
        Ok(opened)
    }
}

/// Claims an address for an endpoint, unless another one excludes it or its folder is missing.
fn claim_address(
    claimed: &Mutex<Vec<(Place, Wanted)>>,
    place: &Place,
    wanted: Wanted,
) -> io::Result<()> {
    if let Some(path) = wanted.address.unix().and_then(UnixAddress::path) {
        files::can_create_beside(path)?;
    }
    let mut claimed = claimed.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((other, _)) = claimed.iter().find(|(_, other)| other.excludes(&wanted)) {
        let words = format!("address already in use, by {other}");
        return Err(io::Error::new(io::ErrorKind::AddrInUse, words));
    }
    claimed.push((place.clone(), wanted));
    Ok(())
}

fn leaving(socket: PlacedSocket) -> io::Result<Leaving> {
    let address = socket.address()?;
    let first = socket.into_descriptors()?.into_iter().next();
    Ok((address, first.ok_or(io::ErrorKind::NotFound)?))
}

/// Opens a port for connections. `None` if only its service can do so.
fn open_streams(
    endpoint: &dyn ServerEndpoint,
    leaving: &Arc<[Leaving]>,
) -> couplet::Result<Option<PlacedSocket>> {
    let is_in_the_way = Arc::new(AtomicBool::new(false));
    let (told, leaving) = (is_in_the_way.clone(), leaving.clone());
    let sharing = Sharing::new(1).on_one_socket(move |address| {
        let address = address?;
        let (_, socket) = leaving.iter().find(|(own, _)| may_overlap(own, address))?;
        told.store(true, Ordering::Relaxed);
        // The endpoint's other parts, such as its certificate, are read on it.
        socket.try_clone().ok().map(ListeningSocket::from)
    });
    match endpoint.share(&sharing) {
        Ok(_) if is_in_the_way.load(Ordering::Relaxed) => Ok(None),
        Ok(port) => Ok(port.into_socket().map(PlacedSocket::Streams)),
        Err(failure) if is_unsupported(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether several loops can't share an endpoint.
fn is_unsupported(failure: &Failure) -> bool {
    let error = failure.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::Unsupported)
}

/// Opens a port for datagrams. `None` if only its service can do so, which may share its address with
/// other programs.
fn open_datagrams(
    address: SocketAddr,
    leaving: &[Leaving],
) -> couplet::Result<Option<PlacedSocket>> {
    if leaving.iter().any(|(own, _)| may_overlap(own, &Address::udp(address))) {
        return Ok(None);
    }
    let bind = |options| DatagramSocket::bind(address, &options);
    let options = DatagramOptions::default();
    match bind(options.clone()) {
        Ok(socket) => Ok(Some(PlacedSocket::Datagrams(socket))),
        Err(_) if bind(options.reuse_addr(true).reuse_port(true)).is_ok() => Ok(None),
        Err(error) => {
            let (address, error) = (Address::udp(address), plain(&error));
            Err(Failure::msg(format!("cannot listen on {address}: {error}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use couplet::factory::ErasedFactory;
    use couplet::{Port, Reactor};

    use super::*;

    /// Can't be shared.
    #[derive(Debug)]
    struct Alone;

    impl ServerEndpoint for Alone {
        fn listen(&self, _: &Reactor, _: ErasedFactory) -> couplet::Result<Port> {
            Err(Failure::msg("it is not listening"))
        }
    }

    impl fmt::Display for Alone {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("alone:")
        }
    }

    #[test]
    fn a_service_opens_a_port_that_nothing_else_can_open() {
        assert!(open_streams(&Alone, &Arc::from([])).unwrap().is_none());
    }

    #[test]
    fn a_service_may_share_an_address_for_datagrams_with_programs_that_share_it() {
        let options = DatagramOptions::default();
        let address = ([127, 0, 0, 1], 0).into();
        let alone = DatagramSocket::bind(address, &options).unwrap();
        let shared = options.reuse_addr(true).reuse_port(true);
        let shared = DatagramSocket::bind(address, &shared).unwrap();
        for (socket, is_refused) in [(&alone, true), (&shared, false)] {
            let Ok(Address::Udp(address)) = socket.address() else { panic!("a UDP address") };
            match open_datagrams(address, &[]) {
                Ok(socket) => assert!(socket.is_none() && !is_refused),
                Err(failure) => {
                    let words = format!("cannot listen on udp:{address}: ");
                    assert!(is_refused && failure.to_string().starts_with(&words), "{failure}");
                }
            }
        }
    }
}
