//! One listening socket for several loops: one of them accepts, and hands each connection to the loop
//! that has the fewest. For sockets among which the system does not distribute: UNIX sockets, inherited
//! ones, and TCP elsewhere than on Linux.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::opening::Opening;
use super::port::{PortCell, PortState};
use super::table::{Origin, Resource};
use super::turn::Core;
use super::{Asking, Port, Reactor, Remote, Start};
use crate::address::Address;
use crate::driver::{
    Bound, CloseMode, Commands, ConnectedSocket, Key, ListenOptions, ListeningSocket, LocalEnd,
};
use crate::factory::ErasedFactory;
use crate::panics::lock;

/// How long a loop that could not take over the accepting waits before it tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

type Again = Box<dyn Fn() -> io::Result<ListeningSocket> + Send + Sync>;

/// A listening socket, and the loops that serve it.
pub(crate) struct SharedSocket {
    host: Address,
    options: ListenOptions,
    /// Opens the socket where all have stopped listening and one begins anew.
    again: Again,
    inside: Mutex<Inside>,
}

struct Inside {
    /// Until every loop has stopped listening. While a loop that failed is made again, clients wait in
    /// its queue.
    socket: Option<ListeningSocket>,
    seats: Vec<Seat>,
    /// The seat that accepts.
    accepts: Option<u64>,
    /// The number of the last seat.
    last: u64,
}

/// A port of one loop, seen from the others.
struct Seat {
    number: u64,
    remote: Remote,
    /// The port, in its loop's `shared_ports`.
    port: Key,
    /// What it serves, and what is on its way to it.
    connections: Arc<AtomicUsize>,
    /// At most as many as the port's backlog.
    on_their_way: usize,
    paused: bool,
}

/// One of the connections of a seat.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A port's part in a shared socket.
pub(super) struct Share {
    of: Arc<SharedSocket>,
    /// The number of its seat, while it listens, and the port's key.
    seat: Cell<Option<(u64, Key)>>,
    /// It has the socket, and is not fed by another loop.
    accepts: Cell<bool>,
}

/// An accepted connection on its way to another loop.
pub(super) struct Handed {
    /// Until it is served.
    socket: Option<ConnectedSocket>,
    of: Arc<SharedSocket>,
    seat: u64,
    port: Key,
    counted: Option<Counted>,
}

/// A seat that was chosen.
struct Chosen {
    seat: u64,
    remote: Remote,
    port: Key,
    counted: Counted,
}

impl SharedSocket {
    pub(crate) fn new(
        socket: ListeningSocket,
        options: ListenOptions,
        again: impl Fn() -> io::Result<ListeningSocket> + Send + Sync + 'static,
    ) -> io::Result<Arc<SharedSocket>> {
        let host = socket.address()?;
        let inside = Inside { socket: Some(socket), seats: Vec::new(), accepts: None, last: 0 };
        Ok(Arc::new(SharedSocket {
            host,
            options,
            again: Box::new(again),
            inside: Mutex::new(inside),
        }))
    }

    pub(crate) fn host(&self) -> &Address {
        &self.host
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        lock(&self.inside)
    }

    /// Gives a port a seat. The first accepts.
    fn join(&self, reactor: &Reactor, port: Key, paused: bool) -> io::Result<(u64, bool, Bound)> {
        let mut inside = self.inside();
        let socket = match inside.socket.take() {
            Some(socket) => socket,
            None => (self.again)()?,
        };
        let socket = inside.socket.insert(socket).try_clone();
        let accepts = inside.accepts.is_none();
        let world = &reactor.records.world;
        let bound = match accepts {
            true => world.adopt_port(socket?)?,
            false => world.fed_port(&self.host)?,
        };
        inside.last += 1;
        let number = inside.last;
        inside.accepts.get_or_insert(number);
        let (remote, connections) = (reactor.remote(), Arc::default());
        inside.seats.push(Seat { number, remote, port, connections, on_their_way: 0, paused });
        Ok((number, accepts, bound))
    }

    /// Takes a seat away. The last one to stop listening closes the socket; one whose loop is gone
    /// leaves it open, for those to come.
    fn leave(&self, number: u64, closes: bool) {
        let mut inside = self.inside();
        inside.seats.retain(|seat| seat.number != number);
        let is_last = closes && inside.seats.is_empty();
        let closed = if is_last { inside.socket.take() } else { None };
        let told = inside.elect();
        drop(inside);
        drop(closed);
        told.into_iter().for_each(Told::tell);
    }

    fn pause(&self, number: u64, paused: bool) {
        let mut inside = self.inside();
        let seat = inside.seats.iter_mut().find(|seat| seat.number == number);
        if let Some(seat) = seat {
            seat.paused = paused;
        }
        let told = inside.elect();
        drop(inside);
        told.into_iter().for_each(Told::tell);
    }

    /// The seat with the fewest connections: of those that have room, and of `own`, which needs none.
    fn choose(&self, own: Option<u64>) -> Option<Chosen> {
        let backlog = self.options.backlog.max(1) as usize;
        let mut inside = self.inside();
        let is_full = |seat: &Seat| seat.on_their_way >= backlog && own != Some(seat.number);
        let open = inside.seats.iter_mut().filter(|seat| !seat.paused);
        let seat =
            open.min_by_key(|seat| (is_full(seat), seat.connections.load(Ordering::Relaxed)))?;
        seat.connections.fetch_add(1, Ordering::Relaxed);
        seat.on_their_way += usize::from(own != Some(seat.number));
        Some(Chosen {
            seat: seat.number,
            remote: seat.remote.clone(),
            port: seat.port,
            counted: Counted(seat.connections.clone()),
        })
    }

    /// Counts a connection that this seat serves though another was chosen.
    fn count(&self, number: u64) -> Option<Counted> {
        let inside = self.inside();
        let seat = inside.seats.iter().find(|seat| seat.number == number)?;
        seat.connections.fetch_add(1, Ordering::Relaxed);
        Some(Counted(seat.connections.clone()))
    }

    /// What was on its way to this seat is no longer.
    fn arrived(&self, number: u64) {
        let mut inside = self.inside();
        if let Some(seat) = inside.seats.iter_mut().find(|seat| seat.number == number) {
            seat.on_their_way -= 1;
        }
    }

    /// Gives a connection to the loop with the fewest.
    fn hand(self: &Arc<Self>, socket: ConnectedSocket) {
        match self.choose(None) {
            Some(chosen) => chosen.hand(self, socket),
            // As whoever waits in the queue of a port that is closed.
            None => tracing::debug!(host = %self.host, "no loop is left to serve a connection"),
        }
    }
}

impl Inside {
    /// Chooses who accepts: not one that is paused, if there is another. Returns who is to be told.
    fn elect(&mut self) -> Vec<Told> {
        let seat = |number| self.seats.iter().find(|seat| Some(seat.number) == number);
        let before = seat(self.accepts);
        let able = before.filter(|seat| !seat.paused);
        let able = able.or_else(|| self.seats.iter().find(|seat| !seat.paused));
        let now = able.or(before).or(self.seats.first());
        if now.map(|seat| seat.number) == self.accepts {
            return Vec::new();
        }
        let told = [before, now].into_iter().flatten();
        let told = told.map(|seat| Told { remote: seat.remote.clone(), port: seat.port }).collect();
        self.accepts = now.map(|seat| seat.number);
        told
    }
}

/// A port whose part has changed.
struct Told {
    remote: Remote,
    port: Key,
}

impl Told {
    fn tell(self) {
        let port = self.port;
        // One that is gone is about to leave.
        let _ = self.remote.call(move |reactor| {
            if let Some(port) = reactor.shared_port(port) {
                reactor.ask(Asking::Port(port));
            }
        });
    }
}

impl Chosen {
    fn hand(self, of: &Arc<SharedSocket>, socket: ConnectedSocket) {
        let Chosen { seat, remote, port, counted } = self;
        let (socket, counted) = (Some(socket), Some(counted));
        let handed = Handed { socket, of: of.clone(), seat, port, counted };
        // Refused, it is dropped, and goes to another.
        let _ = remote.call(move |reactor| reactor.start(Start::Handed(Box::new(handed))));
    }
}

impl Drop for Handed {
    /// Its loop does not listen any more: it goes to another one.
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            drop(self.counted.take());
            self.of.leave(self.seat, false);
            self.of.hand(socket);
        }
    }
}

impl Share {
    fn new(of: Arc<SharedSocket>) -> Share {
        Share { of, seat: Cell::new(None), accepts: Cell::new(false) }
    }

    /// Takes a seat for a port that is to listen.
    pub(super) fn join(&self, port: &Rc<PortCell>) -> io::Result<Bound> {
        let reactor = &port.reactor;
        let key = reactor.records.shared_ports.borrow_mut().insert(port.clone());
        match self.of.join(reactor, key, port.paused.get()) {
            Ok((number, accepts, bound)) => {
                self.seat.set(Some((number, key)));
                self.accepts.set(accepts);
                Ok(bound)
            }
            Err(error) => {
                let port = reactor.records.shared_ports.borrow_mut().remove(key);
                drop(port);
                Err(error)
            }
        }
    }

    /// The port listens no more, or its loop is gone.
    pub(super) fn leave(&self, reactor: &Reactor, closes: bool) {
        if let Some((number, key)) = self.seat.take() {
            self.of.leave(number, closes);
            let port = reactor.records.shared_ports.borrow_mut().remove(key);
            drop(port);
        }
    }

    pub(super) fn pause(&self, paused: bool) {
        if let Some((number, _)) = self.seat.get() {
            self.of.pause(number, paused);
        }
    }

    /// A port with or without the socket, if it is to have another part than it has.
    fn changed(&self, reactor: &Reactor) -> Option<io::Result<Bound>> {
        let (number, _) = self.seat.get()?;
        let inside = self.of.inside();
        let accepts = inside.accepts == Some(number);
        if accepts == self.accepts.get() {
            return None;
        }
        let world = &reactor.records.world;
        let socket = inside.socket.as_ref().filter(|_| accepts).map(ListeningSocket::try_clone);
        let bound = match socket {
            Some(socket) => socket.and_then(|socket| world.adopt_port(socket)),
            None => world.fed_port(&self.of.host),
        };
        if bound.is_ok() {
            self.accepts.set(accepts);
        }
        Some(bound)
    }
}

impl Reactor {
    /// Listens on a socket that other loops listen on too.
    pub(crate) fn listen_with_others(
        &self,
        of: &Arc<SharedSocket>,
        factory: ErasedFactory,
    ) -> io::Result<Port> {
        let share = Share::new(of.clone());
        Port::sharing(self, (of.host.clone(), of.options.clone()), share, self.attached(factory))
    }

    fn shared_port(&self, key: Key) -> Option<Rc<PortCell>> {
        self.records.shared_ports.borrow().get(key).cloned()
    }
}

impl Core {
    /// A connection was accepted at a port whose socket several loops share: one of them serves it.
    #[inline(never)]
    pub(super) fn accepted_for_all(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<PortCell>,
        key: Key,
        ends: (Address, LocalEnd),
    ) {
        let Some(share) = &port.share else { return };
        let own = share.seat.get().map(|(number, _)| number);
        let Some(chosen) = share.of.choose(own) else {
            // It was accepted before the port was to stop.
            return self.serve_shared(io, port, key, ends, None);
        };
        if Some(chosen.seat) == own {
            return self.serve_shared(io, port, key, ends, Some(chosen.counted));
        }
        match io.release(key) {
            Ok(socket) => chosen.hand(&share.of, socket),
            Err(error) => {
                log_error!(%error, "cannot hand a connection to another loop");
                share.of.arrived(chosen.seat);
                let counted = own.and_then(|own| share.of.count(own));
                self.serve_shared(io, port, key, ends, counted);
            }
        }
    }

    fn serve_shared(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<PortCell>,
        key: Key,
        ends: (Address, LocalEnd),
        counted: Option<Counted>,
    ) {
        port.accepted.set(port.accepted.get() + 1);
        self.note_accepted(key, port.place.get());
        self.establish(io, key, ends, Opening::Port(port.clone()));
        if let (Some(entry), Some(counted)) = (self.table.connection(key), counted) {
            entry.origin = Origin::Shared(Box::new((port.clone(), counted)));
        }
    }

    /// Step 6: another loop has accepted it for this one.
    pub(super) fn start_handed(&mut self, io: &mut dyn Commands, mut handed: Box<Handed>) {
        handed.of.arrived(handed.seat);
        let port = self.reactor.shared_port(handed.port);
        let Some(port) = port.filter(|port| port.state.get() == PortState::Listening) else {
            return drop(handed);
        };
        let Some(socket) = handed.socket.take() else { return };
        let counted = handed.counted.take();
        let adopt = || {
            let adopted = self.reactor.records.world.adopt(socket)?;
            let (peer, host) = (adopted.peer.clone(), adopted.host.clone());
            io.adopt(adopted).map(|key| (key, peer, host))
        };
        match adopt() {
            Ok((key, peer, host)) => {
                let host = LocalEnd::of(host, io, key);
                self.serve_shared(io, &port, key, (peer, host), counted);
            }
            Err(error) => log_error!(host = %port.host(), %error, "cannot serve a connection"),
        }
    }

    /// Gives a port the socket, or takes it away, where that has changed.
    pub(super) fn fit_share(&mut self, io: &mut dyn Commands, port: &Rc<PortCell>, old: Key) {
        let Some(changed) = port.share.as_ref().and_then(|share| share.changed(&port.reactor))
        else {
            return;
        };
        match changed.and_then(|bound| io.listen(bound)) {
            Ok(key) => {
                self.table.take(old);
                io.close(old, CloseMode::Normal);
                self.table.put(key, Resource::Port(port.clone()));
                port.key.set(Some(key));
            }
            Err(error) => {
                log_error!(host = %port.host(), %error, "cannot take over a port");
                let (reactor, again) = (port.reactor.clone(), port.clone());
                let ask = move || again.reactor.ask(Asking::Port(again.clone()));
                drop(reactor.call_later(AGAIN_AFTER, ask));
            }
        }
    }
}

impl fmt::Debug for SharedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSocket").field("host", &self.host).finish_non_exhaustive()
    }
}
