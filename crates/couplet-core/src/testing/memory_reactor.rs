//! [`MemoryReactor`]: for code that listens and connects, with the test as the network.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::memory_loop::MemoryLoop;
use super::{Manner, Network, Wire};
use crate::address::Address;
use crate::driver::{ConnectOptions, Key};
use crate::reactor::{Connector, PortSnapshot, Reactor};

/// A reactor for code that itself listens and connects: the test inspects its ports and attempts,
/// completes or fails the attempts, and controls the far ends. Twisted's `MemoryReactorClock`.
///
/// Connects stay pending until the test completes or fails them. Each name resolves immediately, to
/// its own address, unless the test sets others with [`Network::set_name`]. Time passes only in
/// [`advance`](Self::advance).
///
/// ```
/// use couplet::testing::{MemoryReactor, success_of};
/// use couplet::{Deferred, Protocol, Reactor, Reason, Resolver, Transport};
///
/// struct Reader { poem: String, done: Option<Resolver<String>> }
/// impl Protocol for Reader {
///     fn data_received(&mut self, _: &Transport, data: &[u8]) {
///         self.poem += &String::from_utf8_lossy(data);
///     }
///     fn connection_lost(&mut self, _: &Transport, _: &Reason) {
///         if let Some(done) = self.done.take() {
///             done.callback(std::mem::take(&mut self.poem));
///         }
///     }
/// }
///
/// fn fetch(reactor: &Reactor) -> Deferred<String> {
///     let (poem, done) = Deferred::new();
///     let mut done = Some(done);
///     let reader = move || Reader { poem: String::new(), done: done.take() };
///     reactor.connect("tcp:poetry.example:10000", reader).then(|_| poem)
/// }
///
/// let mut memory = MemoryReactor::new();
/// let poem = fetch(&memory.reactor());
/// let attempt = memory.connecting().remove(0);
/// assert_eq!((attempt.remote_host(), attempt.remote_port()), ("poetry.example", 10000));
/// let poet = attempt.complete();
/// poet.push(b"a door in the hill");
/// poet.close();
/// memory.settle();
/// assert_eq!(success_of(poem), "a door in the hill");
/// ```
pub struct MemoryReactor {
    memory: MemoryLoop,
}

impl MemoryReactor {
    /// A reactor in an empty network, at time zero.
    pub fn new() -> MemoryReactor {
        let memory = MemoryLoop::new(Manner::Readiness, 0);
        memory.network.hold_connects();
        MemoryReactor { memory }
    }

    /// The reactor, for the code under test.
    pub fn reactor(&self) -> Reactor {
        self.memory.l.reactor()
    }

    /// The listening ports, after [settling](Self::settle).
    #[track_caller]
    pub fn listening(&mut self) -> Vec<PortSnapshot> {
        self.settle();
        self.memory.l.snapshot().ports
    }

    /// Connects to this port, settles, and returns the far end.
    ///
    /// ```
    /// use couplet::testing::MemoryReactor;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Poet;
    /// impl Protocol for Poet {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.write("a door in the hill");
    ///         transport.lose_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// let mut memory = MemoryReactor::new();
    /// memory.reactor().listen("tcp:10000", || Poet)?;
    /// assert_eq!(memory.listening()[0].host.port(), Some(10000));
    /// let reader = memory.connect(10000);
    /// assert_eq!(reader.take(), b"a door in the hill");
    /// assert!(reader.saw_fin());
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If the port is not listening, or its accept queue is full.
    #[track_caller]
    pub fn connect(&mut self, port: u16) -> Wire {
        let hosts: Vec<Address> = self.listening().into_iter().map(|port| port.host).collect();
        let Some(host) = hosts.iter().find(|host| host.port() == Some(port)) else {
            let others: Vec<String> = hosts.iter().map(Address::to_string).collect();
            panic!("nothing listens on port {port}; listening: [{}]", others.join(", "));
        };
        let wire = self.memory.network.connect(reachable(host));
        let wire = wire.unwrap_or_else(|error| panic!("cannot connect to {host}: {error}"));
        self.settle();
        wire
    }

    /// The pending connects, after [settling](Self::settle): one for each address being tried, in
    /// the order in which they were started. The addresses of a name are tried as in RFC 8305, the
    /// next one after 250 ms or when one fails.
    #[track_caller]
    pub fn connecting(&mut self) -> Vec<Attempt> {
        self.settle();
        let network = &self.memory.network;
        let under_way = self.memory.l.connects_in_progress().into_iter();
        under_way
            .filter(|(key, ..)| network.is_held(*key))
            .map(|(key, address, connector)| Attempt {
                network: network.clone(),
                key,
                address,
                connector,
            })
            .collect()
    }

    /// Turns the loop until it is idle, without advancing the clock.
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// Advances the clock, like [`Clock::advance`](super::Clock::advance).
    ///
    /// # Panics
    ///
    /// Afterwards, if a callback or other code called by the loop panicked.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.memory.advance(by);
    }

    /// Takes the panics that the loop has contained since the last call. A test that calls this
    /// expects panics: after the first call, they no longer fail the test.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// Virtual time since the reactor was created.
    pub fn elapsed(&self) -> Duration {
        self.memory.network.elapsed()
    }

    /// The in-memory network: names, capacity, how streams are cut.
    pub fn network(&self) -> &Network {
        &self.memory.network
    }
}

/// The loopback address for a port that listens on all interfaces.
fn reachable(host: &Address) -> Address {
    let on = |ip: IpAddr| SocketAddr::new(ip, host.port().unwrap_or(0)).into();
    match host.ip() {
        Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => on(Ipv4Addr::LOCALHOST.into()),
        Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => on(Ipv6Addr::LOCALHOST.into()),
        _ => host.clone(),
    }
}

/// A pending connect to one address, from [`MemoryReactor::connecting`].
pub struct Attempt {
    network: Network,
    key: Key,
    address: Address,
    connector: Connector,
}

impl Attempt {
    /// The requested host: a name or an IP address. Empty for a UNIX socket.
    pub fn remote_host(&self) -> &str {
        self.connector.remote_host()
    }

    /// The requested port number; 0 for a UNIX socket.
    pub fn remote_port(&self) -> u16 {
        self.connector.remote_port()
    }

    /// The address being tried.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The requested options, such as the timeout and the local address.
    pub fn options(&self) -> &ConnectOptions {
        self.connector.options()
    }

    /// True while pending: not completed, failed, stopped, timed out or beaten by another address.
    pub fn is_waiting(&self) -> bool {
        self.network.is_held(self.key)
    }

    /// Completes the connect and returns the far end. The code under test is notified in the next
    /// [`settle`](MemoryReactor::settle) or advance; bytes can be pushed before then.
    ///
    /// # Panics
    ///
    /// If the connect is no longer pending.
    #[track_caller]
    pub fn complete(&self) -> Wire {
        match self.network.complete(self.key) {
            Some(wire) => wire,
            None => panic!("{}", self.not_pending()),
        }
    }

    /// Fails the connect. The code under test is notified in the next
    /// [`settle`](MemoryReactor::settle) or advance, and then tries the name's other addresses, if
    /// any.
    ///
    /// # Panics
    ///
    /// If the connect is no longer pending.
    #[track_caller]
    pub fn fail(&self, error: io::Error) {
        assert!(self.network.fail(self.key, error), "{}", self.not_pending());
    }

    fn not_pending(&self) -> String {
        format!("the connect to {} is no longer pending", self.connector)
    }
}

impl Default for MemoryReactor {
    fn default() -> MemoryReactor {
        MemoryReactor::new()
    }
}

impl fmt::Debug for MemoryReactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryReactor").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("target", &self.connector.to_string())
            .field("address", &self.address)
            .field("is_waiting", &self.is_waiting())
            .finish_non_exhaustive()
    }
}
