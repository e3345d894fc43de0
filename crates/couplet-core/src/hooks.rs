//! Hooks for other crates of this project: for guests, which drive a connection by another library,
//! as `couplet-http` does by hyper, for the [inspector] and for the [simulator]. Unstable.

mod guests;
pub mod inspector;
#[cfg(feature = "testing")]
pub mod simulator;

use std::time::{Duration, Instant};

pub use crate::address::ascii_host;
pub use crate::connector::ConnectTarget;
#[cfg(unix)]
pub use crate::driver::process::WorldProcess;
use crate::endpoints::{IntoEndpoint, ServerEndpoint};
pub use crate::panics::catch_panic;
pub use crate::slots::Slots;
pub use crate::sorted::SortedMap;
pub use crate::stream::guest::{ConnectionEnd, Departure, GuestStream};
pub use crate::stream::loop_owned::LoopOwned;
use crate::{
    ConnectOptions, Connector, IntoFactory, Port, Protocol, Reactor, Result, Stream, Transport,
};
#[cfg(unix)]
pub use guests::descriptor;
pub use guests::{
    Note, NoteRow, dropped, forked, interrupt, is_starting_layer, keep, made_at, note, note_rows,
    random, set_in_message, set_write_until_end, share_progress, suspend_turn, unacknowledged,
    unix_time,
};

/// Logs an error that has no other receiver: an event for the program's subscriber, or a line on
/// stderr if it has none.
pub fn emit(event: impl FnOnce()) {
    crate::events::emit(event);
}

/// The number of bytes for the peer that the connection's guest holds; shown in snapshots.
#[cfg(feature = "hyper")]
pub fn held(transport: &Transport) -> usize {
    transport.cell.held_by_guest()
}

/// Sets the number of bytes for the peer that the connection's guest holds.
#[cfg(feature = "hyper")]
pub fn set_held(transport: &Transport, count: usize) {
    transport.cell.set_held_by_guest(count);
}

/// How long a silent peer may hold the drain, if the connection is in one.
pub fn drain_patience(transport: &Transport) -> Option<Duration> {
    transport.cell.drain_patience()
}

/// Whether the loop's time is the system's, rather than a test's or a simulation's.
pub fn is_real_time(reactor: &Reactor) -> bool {
    reactor.world().is_real_time()
}

/// The present time of the loop's clock. [`Reactor::now`] is the time at which the turn began.
pub fn present_time(reactor: &Reactor) -> Instant {
    reactor.fresh_time()
}

/// The number of bytes sent on the connection, in this process and the ones before.
pub fn bytes_sent(transport: &Transport) -> u64 {
    transport.cell.bytes_out()
}

/// The protocol of a port with this name, for a connection of another process.
pub fn named_protocol(reactor: &Reactor, name: &str) -> Option<Box<dyn Protocol>> {
    reactor.named_protocol(name)
}

/// Connects to a host and a port, or to an address, and returns the handle to the attempt, which the
/// factory's callbacks get too: for guests with such a handle, like Twisted's `IConnector`. Success,
/// failure and loss are reported to the factory.
#[track_caller]
pub fn connector<K>(
    reactor: &Reactor,
    target: impl Into<ConnectTarget>,
    options: ConnectOptions,
    factory: impl IntoFactory<K>,
) -> Connector {
    reactor.connect_to(target, options, factory)
}

/// [`Reactor::serve`], with application protocols for TLS to offer unless the endpoint names
/// others, and a name for [`named_protocol`].
///
/// # Errors
///
/// As for [`Reactor::serve`].
#[track_caller]
pub fn serve_offering(
    reactor: &Reactor,
    protocols: &'static [&'static str],
    name: Option<&str>,
    endpoint: impl IntoEndpoint<dyn ServerEndpoint>,
    handle: impl AsyncFn(Stream) -> Result<()> + 'static,
) -> Result<Port> {
    reactor.serve_offering(protocols, name, endpoint, handle)
}
