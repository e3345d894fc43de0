//! [`MemoryReactor`]: for code that listens and connects. The test plays the network.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::memory_loop::MemoryLoop;
use super::{Manner, Network, Wire};
use crate::address::Address;
use crate::driver::{ConnectOptions, Key};
use crate::reactor::{Connector, PortSnapshot, Reactor};

/// A reactor for code that listens and connects by itself: the test sees what was asked for, lets
/// connects come through or fail, and holds the far ends. Twisted's `MemoryReactorClock`.
///
/// Connects wait until the test has its say. Each name that is looked up has an address of its own,
/// found at once, unless the test gives others by [`Network::set_name`]. Time stands still but in
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

    /// The ports that listen, after [settling](Self::settle).
    #[track_caller]
    pub fn listening(&mut self) -> Vec<PortSnapshot> {
        self.settle();
        self.memory.l.snapshot().ports
    }

    /// Connects to the port of this number, settles, and gives the far end.
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
    /// When nothing listens there, or its queue is full.
    #[track_caller]
    pub fn connect(&mut self, port: u16) -> Wire {
        let hosts: Vec<Address> = self.listening().into_iter().map(|port| port.host).collect();
        let Some(host) = hosts.iter().find(|host| host.port() == Some(port)) else {
            let others: Vec<String> = hosts.iter().map(Address::to_string).collect();
            panic!("nothing listens on port {port}; there is: [{}]", others.join(", "));
        };
        let Address::Tcp(host) = host;
        let wire = self.memory.network.connect(reachable(*host));
        let wire = wire.unwrap_or_else(|error| panic!("cannot connect to {host}: {error}"));
        self.settle();
        wire
    }

    /// The connects that are under way, after [settling](Self::settle): one for each address that is
    /// tried, in the order of asking. A name with several addresses is tried as RFC 8305 has it, the
    /// next one after 250 ms or when one fails.
    #[track_caller]
    pub fn connecting(&mut self) -> Vec<Attempt> {
        self.settle();
        let network = &self.memory.network;
        let under_way = self.memory.l.connects_under_way().into_iter();
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

    /// Turns until nothing more happens by itself; time stands still.
    ///
    /// # Panics
    ///
    /// After that, when a callback has panicked, or whatever else the loop calls.
    #[track_caller]
    pub fn settle(&mut self) {
        self.memory.settle();
    }

    /// Lets time pass, as [`Clock::advance`](super::Clock::advance) does.
    ///
    /// # Panics
    ///
    /// After that, when a callback has panicked, or whatever else the loop calls.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) {
        self.memory.advance(by);
    }

    /// The panics that the loop has contained since this was asked last. A test that asks expects
    /// them: from its first call on they do not fail it.
    pub fn take_panics(&mut self) -> Vec<String> {
        self.memory.take_panics()
    }

    /// The time that has passed since it was made.
    pub fn elapsed(&self) -> Duration {
        self.memory.network.elapsed()
    }

    /// Its network: names, capacity, how streams are cut.
    pub fn network(&self) -> &Network {
        &self.memory.network
    }
}

/// Where a port is reached that listens on all interfaces.
fn reachable(mut host: SocketAddr) -> SocketAddr {
    match host.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => host.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => host.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    host
}

/// A connect to one address, which waits for the test. From [`MemoryReactor::connecting`].
pub struct Attempt {
    network: Network,
    key: Key,
    address: SocketAddr,
    connector: Connector,
}

impl Attempt {
    /// The host that was asked for: a name or an IP address.
    pub fn remote_host(&self) -> &str {
        self.connector.remote_host()
    }

    /// The port number that was asked for.
    pub fn remote_port(&self) -> u16 {
        self.connector.remote_port()
    }

    /// The address that is tried.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The options that were asked for: the timeout, the local address.
    pub fn options(&self) -> &ConnectOptions {
        self.connector.options()
    }

    /// It still waits: it was not answered, stopped, timed out or overtaken by another address.
    pub fn is_waiting(&self) -> bool {
        self.network.is_held(self.key)
    }

    /// Lets it come through, and gives the far end. The code under test hears of it in the next
    /// [`settle`](MemoryReactor::settle) or advance; bytes can be pushed before.
    ///
    /// # Panics
    ///
    /// When it does not wait any more.
    #[track_caller]
    pub fn complete(&self) -> Wire {
        match self.network.complete(self.key) {
            Some(wire) => wire,
            None => panic!("{}", self.over()),
        }
    }

    /// Lets it fail, of which the code under test hears in the next
    /// [`settle`](MemoryReactor::settle) or advance. Where a name has other addresses, those are
    /// tried then.
    ///
    /// # Panics
    ///
    /// When it does not wait any more.
    #[track_caller]
    pub fn fail(&self, error: io::Error) {
        assert!(self.network.fail(self.key, error), "{}", self.over());
    }

    fn over(&self) -> String {
        format!("the connect to {} does not wait any more", self.connector)
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
