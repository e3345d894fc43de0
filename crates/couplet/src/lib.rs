//! Couplet: network programming with protocols.
#![forbid(unsafe_code)]

mod address;
pub mod defer;
pub mod driver;
pub mod endpoints;
mod error;
mod factory;
mod protocol;
mod reactor;
pub mod testing;
mod transport;

pub use address::Address;
pub use bytes::Bytes;
pub use defer::{Deferred, Failure, Resolver, Result};
pub use driver::{ConnectOptions, ListenOptions, Signal, SocketOption};
pub use error::{By, ConnectError, ConnectionLost, ListenError, Reason};
pub use factory::{Factory, IntoFactory, Shared};
pub use protocol::Protocol;
pub use reactor::{
    ConnectionSnapshot, Connector, ConnectorSnapshot, ConnectorState, DelayedCall, Loop,
    LoopOptions, NotDisconnected, Port, PortSnapshot, Reactor, Shutdown, Snapshot, Stopped, run,
    run_until,
};
pub use transport::{
    Connection, ConnectionId, Producer, ProducerKind, ProducerRegistered, Transport,
};
