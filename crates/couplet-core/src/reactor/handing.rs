//! Connections that move to another process: [`Reactor::hand_over`] and [`Reactor::take_over`].
//!
//! Contract: 51d.

use std::fmt;
use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::adopting::{AdoptionCell, AdoptionSource};
use super::records::LoopRequest;
use crate::address::Address;
use crate::defer::{Deferred, Resolver};
use crate::driver::Released;
use crate::factory::IntoFactory;
use crate::layers::{Opened, ProxyHeader};
use crate::panics::Contained;
#[cfg(unix)]
use crate::protocol::HandOver;
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::{ConnectionId, Transport, TransportSettings, Upgrade};

/// Most unsent bytes of a connection that moves.
pub(super) const MOST_BYTES: usize = 1024 * 1024;

/// A connection on its way to another process, from [`Reactor::hand_over`] to
/// [`Reactor::take_over`]. Dropped, it is closed, unless another process has it.
pub struct HandedOver {
    pub(super) connection: Released,
    pub(super) record: Record,
}

/// Everything about a connection that moves but its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: String,
    pub(super) state: Vec<u8>,
    pub(super) unread: Vec<u8>,
    pub(super) unsent: Vec<u8>,
    pub(super) settings: TransportSettings,
    /// The header that a proxy sent, in version 2; empty without one.
    pub(super) proxy: Vec<u8>,
}

/// A request to the turn.
pub(super) struct HandOverRequest {
    pub(super) connection: ConnectionId,
    pub(super) done: Resolver<Option<HandedOver>>,
}

impl Reactor {
    /// Asks the protocol of a connection to [hand it over](crate::ProtocolExtension::hand_over) to
    /// another process, between two of its callbacks. If it does, the connection has left this
    /// loop: for handles it has ended with [`Reason::HandedOver`](crate::Reason::HandedOver), and
    /// the peer notices nothing.
    ///
    /// The Deferred fires with `None`, and the connection stays in this loop, if the protocol refuses;
    /// if the connection was made by a connect, has layers such as TLS, is closing or half closed, is to
    /// be upgraded, or has more than 1 MiB or descriptors to send; and on a driver whose connections
    /// can't leave it. A layer that has [done its work](crate::layers::Layer::is_finished) is no obstacle,
    /// nor is the [`ProxyHeader`] that it has read; other infos of such layers are.
    ///
    /// ```
    /// use couplet::reactor::HandedOver;
    /// use couplet::{HandOver, Protocol, ProtocolExtension, Transport};
    ///
    /// struct Counter(u8);
    /// impl Protocol for Counter {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         self.0 += data.len() as u8;
    ///         transport.write(format!("{}\n", self.0));
    ///     }
    ///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
    ///         Some(self)
    ///     }
    /// }
    ///
    /// impl ProtocolExtension for Counter {
    ///     fn hand_over(&mut self) -> Option<HandOver> {
    ///         HandOver::new("counter", [self.0])
    ///     }
    /// }
    ///
    /// # fn example(reactor: &couplet::Reactor, connection: &Transport) {
    /// let other = reactor.clone();
    /// let moved = reactor.hand_over(connection.id()).add_callback(move |handed| {
    ///     let Some(handed) = handed else { return Ok(()) };
    ///     // In the other process, which received both:
    ///     let (socket, record) = handed.into_parts()?;
    ///     let handed = HandedOver::from_parts(socket, &record)?;
    ///     let counter = Counter(handed.state()[0]);
    ///     other.take_over(handed, counter)?.detach();
    ///     Ok(())
    /// });
    /// # moved.detach();
    /// # }
    /// ```
    pub fn hand_over(&self, connection: ConnectionId) -> Deferred<Option<HandedOver>> {
        let (deferred, done) = Deferred::new();
        let request = Box::new(HandOverRequest { connection, done });
        self.records().request(LoopRequest::HandOver(request));
        deferred
    }

    /// Continues a connection of another process, with a protocol for its
    /// [kind](HandedOver::kind). The protocol's first call is `connection_made`; then it gets the unread
    /// bytes, in the next turn at the earliest, when all connections that were taken over together have
    /// begun. Unsent output of its predecessor leaves before its own. The connection keeps its settings,
    /// counters, addresses and [`ProxyHeader`], loses its producer, and belongs to the port that listens
    /// on the address of its socket, if there is one.
    ///
    /// The Deferred fires with the transport once the connection is in the loop.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets, for
    /// the connection of another one.
    #[track_caller]
    pub fn take_over(
        &self,
        handed: HandedOver,
        protocol: impl Protocol,
    ) -> io::Result<Deferred<Transport>> {
        let HandedOver { connection, record } = handed;
        let opened = record.proxy_header().map(Opened::from);
        let next: Box<dyn Protocol> = Box::new(protocol);
        let mut continued = Some(Continued { record, next: Some(Contained::new(next)) });
        let adopted = match connection {
            Released::Socket(socket) => self.world().adopt(socket)?,
            Released::InWorld(adopted) => adopted,
        };
        let source = AdoptionSource { joins_port: true, opened, ..AdoptionSource::from(adopted) };
        let factory = (move |_: &Address| continued.take()).into_factory();
        let adopting = AdoptionCell::start::<Continued>(self, source, self.attach_factory(factory));
        Ok(adopting.map(|connection| connection.transport()))
    }

    /// Names a factory of protocols that continue connections of another process, until the returned
    /// value is dropped or another factory gets the name.
    pub(crate) fn name_factory(
        &self,
        name: &str,
        factory: impl Fn() -> Box<dyn Protocol> + 'static,
    ) -> Rc<BuildProtocol> {
        let factory: Rc<BuildProtocol> = Rc::new(factory);
        self.records().named.borrow_mut().insert(name.to_owned(), Rc::downgrade(&factory));
        factory
    }

    /// Builds a protocol with the factory of this name.
    pub(crate) fn named_protocol(&self, name: &str) -> Option<Box<dyn Protocol>> {
        let factory = self.records().named.borrow().get(name)?.upgrade()?;
        Some(factory())
    }
}

/// Builds a protocol that continues a connection of another process.
pub(crate) type BuildProtocol = dyn Fn() -> Box<dyn Protocol>;

/// The first protocol of a connection that was taken over. Restores settings, unsent output and unread
/// bytes.
struct Continued {
    record: Record,
    next: Option<Contained<Box<dyn Protocol>>>,
}

impl Protocol for Continued {
    fn connection_made(&mut self, transport: &Transport) {
        let Record { unread, unsent, settings, .. } = std::mem::take(&mut self.record);
        settings.restore(transport, unsent.len());
        transport.write(unsent);
        if let Some(next) = self.next.take() {
            transport.upgrade(Upgrade::with_unread(next.take(), unread));
        }
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

impl HandedOver {
    /// The kind that the protocol gave.
    pub fn kind(&self) -> &str {
        &self.record.kind
    }

    /// The state that the protocol gave.
    pub fn state(&self) -> &[u8] {
        &self.record.state
    }

    /// The address of the peer, perhaps from a PROXY header; `None` if the socket is no longer connected.
    pub fn peer(&self) -> Option<Address> {
        let peer = self.connection.peer()?;
        Some(self.record.proxy_header().and_then(|header| header.peer).unwrap_or(peer))
    }

    /// The socket's descriptor, and a record of everything else, for another process.
    ///
    /// # Errors
    ///
    /// The system's error; [`Unsupported`](io::ErrorKind::Unsupported) on a driver without sockets.
    #[cfg(unix)]
    pub fn into_parts(self) -> io::Result<(OwnedFd, Vec<u8>)> {
        Ok((self.connection.into_socket()?.into_descriptor(), self.record.encode()))
    }

    /// A connection from another process, of [`into_parts`](Self::into_parts).
    ///
    /// # Errors
    ///
    /// [`InvalidData`](io::ErrorKind::InvalidData) if the record is not one of this version.
    #[cfg(unix)]
    pub fn from_parts(socket: OwnedFd, record: &[u8]) -> io::Result<HandedOver> {
        let record = Record::decode(record).ok_or(io::ErrorKind::InvalidData)?;
        Ok(HandedOver::of(socket, record))
    }
}

#[cfg(unix)]
impl HandedOver {
    pub(super) fn of(socket: OwnedFd, record: Record) -> HandedOver {
        HandedOver { connection: Released::Socket(socket.into()), record }
    }
}

impl fmt::Debug for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedOver").field("kind", &self.record.kind).finish_non_exhaustive()
    }
}

/// The version of [`Record::encode`].
const VERSION: u8 = 4;

/// The record in bytes: a version; the settings, each as 8 bytes; kind, state, unread bytes, unsent
/// bytes, and the PROXY header in its version 2 or nothing, each after its length in 4 bytes. Numbers
/// are in network byte order.
impl Record {
    fn proxy_header(&self) -> Option<ProxyHeader> {
        ProxyHeader::decode(&self.proxy).ok()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for number in self.settings.0 {
            bytes.extend(number.to_be_bytes());
        }
        let Record { state, unread, unsent, proxy, .. } = self;
        for part in [self.kind.as_bytes(), state, unread, unsent, proxy] {
            let length = u32::try_from(part.len()).expect("a part has a limit");
            bytes.extend(length.to_be_bytes());
            bytes.extend(part);
        }
        bytes
    }

    #[cfg(unix)]
    pub(super) fn decode(bytes: &[u8]) -> Option<Record> {
        let mut rest = bytes.strip_prefix(&[VERSION])?;
        let mut numbers = [0; TransportSettings::COUNT];
        for number in &mut numbers {
            let (first, after) = rest.split_first_chunk()?;
            (*number, rest) = (u64::from_be_bytes(*first), after);
        }
        let mut part = |most: usize| {
            let (length, after) = rest.split_first_chunk()?;
            let length = u32::from_be_bytes(*length) as usize;
            let (part, after) = after.split_at_checked(length).filter(|_| length <= most)?;
            rest = after;
            Some(part.to_vec())
        };
        let kind = String::from_utf8(part(HandOver::MOST_KIND)?).ok()?;
        let (state, unread, unsent) = (part(HandOver::MOST)?, part(usize::MAX)?, part(MOST_BYTES)?);
        let proxy = part(usize::MAX)?;
        let settings = TransportSettings(numbers);
        let record = Record { kind, state, unread, unsent, settings, proxy };
        let is_whole = record.proxy.is_empty() || record.proxy_header().is_some();
        (rest.is_empty() && is_whole).then_some(record)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::layers::ProxyVersion;

    fn records() -> impl Strategy<Value = Record> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
        let settings = any::<[u64; TransportSettings::COUNT]>();
        (".{0,20}", bytes(), bytes(), bytes(), settings, headers()).prop_map(
            |(kind, state, unread, unsent, numbers, proxy)| {
                let settings = TransportSettings(numbers);
                Record { kind, state, unread, unsent, settings, proxy }
            },
        )
    }

    /// A header of a proxy, or none.
    fn headers() -> impl Strategy<Value = Vec<u8>> {
        let address =
            || any::<([u8; 4], u16)>().prop_map(|end| Address::from(SocketAddr::from(end)));
        let addresses = proptest::option::of((address(), address()));
        let header = (addresses, proptest::option::of(".{0,20}")).prop_map(|(ends, authority)| {
            let header = ends.map(|(peer, host)| ProxyHeader::new(peer, host)).unwrap_or_default();
            let header = ProxyHeader { authority, ..header };
            header.encode(ProxyVersion::V2).expect("short texts")
        });
        proptest::option::of(header).prop_map(Option::unwrap_or_default)
    }

    proptest! {
        #[test]
        fn a_record_is_read_back_and_a_part_of_it_is_refused(record in records(), cut in 0.0..1.0) {
            let bytes = record.encode();
            prop_assert_eq!(Record::decode(&bytes), Some(record));
            let part = &bytes[..(bytes.len() as f64 * cut) as usize];
            prop_assert_eq!(Record::decode(part), None);
            prop_assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None);
            prop_assert_eq!(Record::decode(&[&[VERSION + 1], &bytes[1..]].concat()), None);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Record::decode(&[&[VERSION], &bytes[..]].concat());
        }
    }
}
