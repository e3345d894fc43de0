//! The core of [couplet](https://docs.rs/couplet): protocols, transports, layers, the reactor and its
//! drivers, endpoints, streams, tasks, processes and the testing kit.
//!
//! Programs depend on `couplet`, which re-exports all of this except [`hooks`].
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

#[macro_use(log_error, log_warn)]
extern crate couplet_defer;

mod address;
mod connector;
mod counters;
mod datagrams;
#[cfg(feature = "unstable-driver")]
pub mod driver;
#[cfg(not(feature = "unstable-driver"))]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "some of it is for drivers of other crates"
)]
mod driver;
#[cfg(all(unix, feature = "tokio"))]
pub mod embed;
pub mod endpoints;
mod error;
pub mod factory;
pub mod hooks;
pub mod layers;
mod outbox;
#[cfg(unix)]
pub mod process;
mod protocol;
pub mod protocols;
pub mod reactor;
mod recorder;
pub mod services;
mod slots;
pub mod stream;
mod switches;
pub mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod timers;
pub mod transport;
mod unread;
mod why;

pub use address::{Address, UnixAddress};
pub use bytes::Bytes;
#[doc(inline)]
pub use couplet_defer::{backlog, defer};
use couplet_defer::{bounded, events, internals, panics, sorted};
pub use datagrams::{DatagramPort, DatagramProtocol, DatagramTransport, PortStopped, SendError};
pub use defer::{Deferred, Failure, Resolver, Result};
pub use driver::{
    ConnectOptions, Datagram, DatagramOptions, DatagramSocket, Group, Interest, Interface,
    ListenOptions, ListeningSocket, PeerCredentials, Ready, Signal, SocketOption, SocketOptionKind,
};
pub use error::{
    By, CertificateProblem, ConnectError, ConnectionLost, Fault, ListenError, Reason, TlsError,
    TlsProblem,
};
#[doc(inline)]
pub use factory::{Factory, IntoFactory, Newcomer, Seat, Shared};
pub use protocol::{HandOver, Protocol, ProtocolExtension};
#[cfg(unix)]
#[doc(inline)]
pub use reactor::Watch;
#[doc(inline)]
pub use reactor::{
    Answers, Cluster, Connector, ConnectorState, DatagramEndpoint, DelayedCall, DriverChoice,
    LoadLimits, Loop, LoopOptions, Port, Reactor, Remote, Shutdown, cluster, react, run, run_until,
};
#[doc(inline)]
pub use stream::Stream;
#[doc(inline)]
pub use task::LoopingCall;
#[doc(inline)]
pub use transport::{Connection, ConnectionId, Producer, ProducerKind, Transport};
