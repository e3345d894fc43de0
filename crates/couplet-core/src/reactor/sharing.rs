//! One listening socket for several loops: one loop accepts, and hands each connection to the loop
//! with the fewest connections. For sockets that the system cannot distribute among loops: UNIX
//! sockets, inherited ones, and TCP on systems other than Linux.
//!
//! Contract: 103g, 103h, 103k, 103l.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::capacity::{Capacity, Reserved};
use super::port::{Port, PortCell};
use super::records::{LoopRequest, Start};
use super::remote::Remote;
use crate::address::Address;
use crate::driver::{Bound, ConnectedSocket, Key, ListenOptions, ListeningSocket};
use crate::factory::ErasedFactory;
use crate::panics::lock;
use crate::recorder::Reactor;

type Reopen = Box<dyn Fn() -> io::Result<ListeningSocket> + Send + Sync>;

/// A listening socket, and the loops that serve it.
pub(crate) struct SharedSocket {
    host: Address,
    options: ListenOptions,
    /// Reopens the socket when a loop starts listening after all have stopped.
    reopen: Reopen,
    state: Mutex<SocketState>,
}

struct SocketState {
    /// Open until every loop has stopped listening. While a failed loop is being replaced, clients
    /// wait in the socket's queue.
    socket: Option<ListeningSocket>,
    seats: Vec<LoopSeat>,
    /// The seat whose loop accepts.
    accepts: Option<u64>,
    /// The number of the newest seat.
    last: u64,
}

/// One loop's port, as the other loops see it.
struct LoopSeat {
    number: u64,
    remote: Remote,
    /// The port's key in its loop's `shared_ports`.
    port: Key,
    /// The number of connections served and in transit.
    connections: Arc<AtomicUsize>,
    /// The capacity of the loop for connections of all its ports.
    capacity: Arc<Capacity>,
    /// The number of connections in transit: at most the port's backlog, except for connections
    /// that another loop refused.
    in_transit: usize,
    paused: bool,
}

/// Counts one connection of a seat until it is dropped.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One port's part in a shared socket.
pub(super) struct Share {
    shared: Arc<SharedSocket>,
    /// The port's seat while it listens.
    seat: Cell<Option<Seat>>,
}

#[derive(Clone, Copy)]
struct Seat {
    number: u64,
    /// The port's key.
    port: Key,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The port has the socket.
    Accepts,
    /// Another loop feeds the port.
    IsFed,
}

/// The reason for giving up a seat.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// The port stopped listening: the last seat closes the socket.
    Stopped,
    /// The loop was dropped: the socket stays open for later seats.
    LoopDropped,
}

/// An accepted connection in transit to another loop.
pub(super) struct HandedConnection {
    /// `None` once it is served.
    socket: Option<ConnectedSocket>,
    shared: Arc<SharedSocket>,
    seat: u64,
    port: Key,
    counted: Option<Counted>,
    reserved: Option<Reserved>,
}

/// The loop that serves an accepted connection.
pub(super) enum Chosen {
    /// The loop that accepted it, with its count unless the port has stopped.
    Own(Option<Counted>),
    Other(ChosenSeat),
}

/// A chosen seat, with the connection already counted.
pub(super) struct ChosenSeat {
    seat: u64,
    remote: Remote,
    port: Key,
    counted: Counted,
    /// The place in the loop, unless the loop has accepted the connection itself.
    reserved: Option<Reserved>,
}

impl SharedSocket {
    pub(crate) fn new(
        socket: ListeningSocket,
        options: ListenOptions,
        reopen: impl Fn() -> io::Result<ListeningSocket> + Send + Sync + 'static,
    ) -> io::Result<Arc<SharedSocket>> {
        let host = socket.address()?;
        let state = SocketState { socket: Some(socket), seats: Vec::new(), accepts: None, last: 0 };
        Ok(Arc::new(SharedSocket {
            host,
            options,
            reopen: Box::new(reopen),
            state: Mutex::new(state),
        }))
    }

    pub(crate) fn host(&self) -> &Address {
        &self.host
    }

    /// The socket, before a loop listens on it.
    pub(crate) fn take_unused(&self) -> Option<ListeningSocket> {
        let mut state = self.lock_state();
        if state.last == 0 { state.socket.take() } else { None }
    }

    fn lock_state(&self) -> MutexGuard<'_, SocketState> {
        lock(&self.state)
    }

    /// Gives a port a seat. The first one accepts.
    fn join(&self, cell: &PortCell, port: Key) -> io::Result<(Seat, Bound)> {
        let mut state = self.lock_state();
        let socket = match state.socket.take() {
            Some(socket) => socket,
            None => (self.reopen)()?,
        };
        let socket = state.socket.insert(socket).try_clone();
        let world = cell.reactor.world();
        let (part, bound) = match state.accepts {
            None => (Part::Accepts, world.adopt_port(socket?)?),
            Some(_) => (Part::IsFed, world.fed_port(&self.host)?),
        };
        state.last += 1;
        let number = state.last;
        state.accepts.get_or_insert(number);
        let (remote, connections) = (cell.reactor.remote(), Arc::default());
        let (paused, capacity) = (cell.paused.get(), cell.reactor.records().capacity.clone());
        let seat = LoopSeat { number, remote, port, connections, capacity, in_transit: 0, paused };
        state.seats.push(seat);
        Ok((Seat { number, port, part }, bound))
    }

    /// Removes a seat.
    fn leave(&self, number: u64, why: Departure) {
        let mut state = self.lock_state();
        state.seats.retain(|seat| seat.number != number);
        let is_last = why == Departure::Stopped && state.seats.is_empty();
        let closed = if is_last { state.socket.take() } else { None };
        let changed = state.elect();
        drop(state);
        drop(closed);
        changed.into_iter().for_each(ChangedPort::notify);
    }

    fn pause(&self, number: u64, paused: bool) {
        let mut state = self.lock_state();
        let seat = state.seats.iter_mut().find(|seat| seat.number == number);
        if let Some(seat) = seat {
            seat.paused = paused;
        }
        let changed = state.elect();
        drop(state);
        changed.into_iter().for_each(ChangedPort::notify);
    }

    /// Chooses the unpaused seat with the fewest connections, preferring seats with capacity in
    /// transit; `own` needs no transit. Loops that are full for others get no connection, unless the one
    /// that has accepted it no longer listens.
    fn choose(&self, own: Option<u64>) -> Option<ChosenSeat> {
        let backlog = (self.options.backlog as usize).max(1);
        let mut state = self.lock_state();
        let is_full = |seat: &LoopSeat| seat.in_transit >= backlog && own != Some(seat.number);
        let may_be_full = |seat: &LoopSeat| own.is_none() || own == Some(seat.number);
        let (seat, reserved) = loop {
            let open = state.seats.iter_mut().filter(|seat| !seat.paused);
            let open = open.filter(|seat| may_be_full(seat) || !seat.capacity.is_full_for_others());
            let seat =
                open.min_by_key(|seat| (is_full(seat), seat.connections.load(Ordering::Relaxed)))?;
            let reserved = match own {
                None => Some(seat.capacity.force()),
                Some(own) if own == seat.number => None,
                Some(_) => Some(match seat.capacity.reserve() {
                    Some(reserved) => reserved,
                    // Full since the look above.
                    None => continue,
                }),
            };
            break (seat, reserved);
        };
        seat.connections.fetch_add(1, Ordering::Relaxed);
        seat.in_transit += usize::from(own != Some(seat.number));
        Some(ChosenSeat {
            seat: seat.number,
            remote: seat.remote.clone(),
            port: seat.port,
            counted: Counted(seat.connections.clone()),
            reserved,
        })
    }

    /// Counts a connection that this seat serves although another was chosen.
    fn count(&self, number: u64) -> Option<Counted> {
        let state = self.lock_state();
        let seat = state.seats.iter().find(|seat| seat.number == number)?;
        seat.connections.fetch_add(1, Ordering::Relaxed);
        Some(Counted(seat.connections.clone()))
    }

    /// A connection in transit to this seat has arrived.
    fn arrived(&self, number: u64) {
        let mut state = self.lock_state();
        if let Some(seat) = state.seats.iter_mut().find(|seat| seat.number == number) {
            seat.in_transit -= 1;
        }
    }

    /// Hands a connection to the loop with the fewest connections.
    fn hand_over(self: &Arc<Self>, socket: ConnectedSocket) {
        match self.choose(None) {
            Some(chosen) => chosen.hand_over(self, socket),
            // Dropped, like clients in the queue of a closed port.
            None => {
                tracing::debug!(host = %self.host, "cannot serve a connection: no loop listens")
            }
        }
    }
}

impl SocketState {
    /// Elects the seat that accepts: an unpaused one, if possible. Returns the ports to notify.
    fn elect(&mut self) -> Vec<ChangedPort> {
        let seat = |number| self.seats.iter().find(|seat| Some(seat.number) == number);
        let before = seat(self.accepts);
        let able = before.filter(|seat| !seat.paused);
        let able = able.or_else(|| self.seats.iter().find(|seat| !seat.paused));
        let now = able.or(before).or(self.seats.first());
        if now.map(|seat| seat.number) == self.accepts {
            return Vec::new();
        }
        let changed = [before, now].into_iter().flatten();
        let changed = changed
            .map(|seat| ChangedPort { remote: seat.remote.clone(), port: seat.port })
            .collect();
        self.accepts = now.map(|seat| seat.number);
        changed
    }
}

/// A port whose part has changed.
struct ChangedPort {
    remote: Remote,
    port: Key,
}

impl ChangedPort {
    fn notify(self) {
        let port = self.port;
        // A loop that was dropped is about to leave.
        let _ = self.remote.call(move |reactor| {
            if let Some(port) = reactor.records().shared_port(port) {
                reactor.records().request(LoopRequest::Port(port));
            }
        });
    }
}

impl ChosenSeat {
    fn hand_over(self, shared: &Arc<SharedSocket>, socket: ConnectedSocket) {
        let ChosenSeat { seat, remote, port, counted, reserved } = self;
        let (socket, counted, shared) = (Some(socket), Some(counted), shared.clone());
        let handed = HandedConnection { socket, shared, seat, port, counted, reserved };
        // A refused connection is dropped, and so handed to another loop.
        let _ = remote.call(move |reactor| {
            reactor.records().start(Start::HandedConnection(Box::new(handed)))
        });
    }
}

impl HandedConnection {
    /// The connection is in its loop; returns its port there.
    pub(super) fn arrived(&self) -> Key {
        self.shared.arrived(self.seat);
        self.port
    }

    /// Takes the connection, for the loop to serve.
    pub(super) fn take(&mut self) -> Option<(ConnectedSocket, Option<Counted>)> {
        Some((self.socket.take()?, self.counted.take()))
    }

    /// Takes its place in the loop.
    pub(super) fn take_place(&mut self) -> Option<Reserved> {
        self.reserved.take()
    }
}

impl Drop for HandedConnection {
    /// The loop no longer listens: hands the connection to another one.
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            drop((self.counted.take(), self.reserved.take()));
            self.shared.leave(self.seat, Departure::LoopDropped);
            self.shared.hand_over(socket);
        }
    }
}

impl Share {
    fn new(shared: Arc<SharedSocket>) -> Share {
        Share { shared, seat: Cell::new(None) }
    }

    /// Takes a seat for a port that starts listening.
    pub(super) fn join(&self, port: &Rc<PortCell>) -> io::Result<Bound> {
        let reactor = &port.reactor;
        let key = reactor.records().add_shared_port(port.clone());
        match self.shared.join(port, key) {
            Ok((seat, bound)) => {
                self.seat.set(Some(seat));
                Ok(bound)
            }
            Err(error) => {
                reactor.records().remove_shared_port(key);
                Err(error)
            }
        }
    }

    /// Gives up the seat.
    pub(super) fn leave(&self, reactor: &Reactor, why: Departure) {
        if let Some(seat) = self.seat.take() {
            self.shared.leave(seat.number, why);
            reactor.records().remove_shared_port(seat.port);
        }
    }

    pub(super) fn pause(&self, paused: bool) {
        if let Some(seat) = self.seat.get() {
            self.shared.pause(seat.number, paused);
        }
    }

    /// Chooses the loop that serves a connection accepted here.
    pub(super) fn choose(&self) -> Chosen {
        let own = self.seat.get().map(|seat| seat.number);
        match self.shared.choose(own) {
            None => Chosen::Own(None),
            Some(chosen) if Some(chosen.seat) == own => Chosen::Own(Some(chosen.counted)),
            Some(chosen) => Chosen::Other(chosen),
        }
    }

    pub(super) fn hand_over(&self, chosen: ChosenSeat, socket: ConnectedSocket) {
        chosen.hand_over(&self.shared, socket);
    }

    /// Counts a connection that came to this loop in another way; `None` if the port has stopped.
    pub(super) fn count(&self) -> Option<Counted> {
        self.shared.count(self.seat.get()?.number)
    }

    /// Duplicates the socket, whichever loop accepts.
    pub(super) fn duplicate(&self) -> io::Result<ListeningSocket> {
        match &self.shared.lock_state().socket {
            Some(socket) => socket.duplicate(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Sets whether the socket file of a UNIX socket stays when the socket is closed.
    pub(super) fn keep_socket_file(&self, is_kept: bool) {
        #[cfg(unix)]
        if let Some(socket) = &mut self.shared.lock_state().socket {
            socket.keep_socket_file(is_kept);
        }
        #[cfg(not(unix))]
        let _ = is_kept;
    }

    /// Counts a connection here that cannot go to the loop chosen for it.
    pub(super) fn keep(&self, chosen: ChosenSeat) -> Option<Counted> {
        self.shared.arrived(chosen.seat);
        drop(chosen);
        self.count()
    }

    /// The port's new binding, with or without the socket, if its part has changed.
    pub(super) fn rebind_if_changed(&self, reactor: &Reactor) -> Option<io::Result<Bound>> {
        let seat = self.seat.get()?;
        let state = self.shared.lock_state();
        let accepts = state.accepts == Some(seat.number);
        let part = if accepts { Part::Accepts } else { Part::IsFed };
        if part == seat.part {
            return None;
        }
        let world = reactor.world();
        let socket = state.socket.as_ref().filter(|_| accepts).map(ListeningSocket::try_clone);
        let bound = match socket {
            Some(socket) => socket.and_then(|socket| world.adopt_port(socket)),
            None => world.fed_port(&self.shared.host),
        };
        if bound.is_ok() {
            self.seat.set(Some(Seat { part, ..seat }));
        }
        Some(bound)
    }
}

impl Reactor {
    /// Listens on a socket that other loops listen on too.
    pub(crate) fn listen_with_others(
        &self,
        shared: &Arc<SharedSocket>,
        factory: ErasedFactory,
    ) -> io::Result<Port> {
        let share = Share::new(shared.clone());
        Port::sharing(
            self,
            (shared.host.clone(), shared.options.clone()),
            share,
            self.attach_factory(factory),
        )
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSocket").field("host", &self.host).finish_non_exhaustive()
    }
}
