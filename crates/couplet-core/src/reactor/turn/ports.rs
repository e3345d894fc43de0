//! Ports, in the turn: connections that were accepted, also on shared sockets, or adopted.
//!
//! Contract: 21, 22, 22c, 22d, 51a, 51d, 103h, 103k.

use std::rc::Rc;
use std::time::Duration;

use super::core::Core;
use super::table::{Opening, Origin, Resource};
use crate::address::Address;
use crate::counters::tally;
use crate::defer::Failure;
use crate::driver::{CloseMode, Commands, Key, LocalEnd, Released, SocketOption};
use crate::reactor::adopting::{AdoptionCell, AdoptionSource, OpeningAdoption, PendingAdoption};
use crate::reactor::port::{PortCell, PortRequest, PortState};
use crate::reactor::records::LoopRequest;
use crate::reactor::sharing::{Chosen, Counted, HandedConnection, Share};

/// Delay before a loop that failed to take over accepting tries again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl Core {
    pub(super) fn start_port(&mut self, io: &mut dyn Commands, port: &Rc<PortCell>) {
        let bound = port.bound.take();
        if port.state.get() != PortState::Starting {
            return;
        }
        let Some(bound) = bound.filter(|_| !self.reactor.is_stopping()) else {
            port.state.set(PortState::Stopped);
            return port.finish_stop();
        };
        match io.listen(bound) {
            Ok(key) => {
                self.table.put(key, Resource::Port(port.clone()));
                port.key.set(Some(key));
                port.state.set(PortState::Listening);
                io.set_reserved(key, port.accepts_under_load());
                if port.is_held() {
                    io.receive(key, false);
                }
                tracing::info!(host = %port, "listening");
                port.factory.start();
                apply_socket_requests(io, port, key);
            }
            Err(error) => {
                log_error!(host = %port.host(), %error, "cannot serve a port");
                port.state.set(PortState::Stopped);
                port.finish_stop();
            }
        }
    }

    pub(super) fn accepted(
        &mut self,
        io: &mut dyn Commands,
        port: Key,
        key: Key,
        peer: Address,
        host: LocalEnd,
    ) {
        let Some(Resource::Port(port)) = self.table.resource(port) else {
            return io.close(key, CloseMode::Normal);
        };
        let port = port.clone();
        if port.share.is_some() {
            return self.accepted_on_shared_port(io, &port, key, (peer, host));
        }
        self.count_in_port(io, &port);
        self.note_accepted(key, port.place.get());
        self.establish(io, key, (peer, host), Opening::Port(port));
        self.count_load(io);
    }

    /// Counts an accepted connection. At its limit, the port stops accepting.
    fn count_in_port(&mut self, io: &mut dyn Commands, port: &Rc<PortCell>) {
        tally(&port.counters, |counters| counters.accepted += 1);
        if port.count() {
            tracing::debug!(host = %port, "a port is full");
            if let Some(key) = port.key.get() {
                io.receive(key, false);
            }
        }
    }

    pub(super) fn apply_port_requests(&mut self, io: &mut dyn Commands, port: &Rc<PortCell>) {
        if let (PortState::Listening | PortState::Stopping, Some(key)) =
            (port.state.get(), port.key.get())
        {
            apply_socket_requests(io, port, key);
        }
        match (port.state.get(), port.key.get()) {
            (PortState::Stopping, Some(key)) => self.close_port(io, key),
            (PortState::Stopping, None) => {
                // The port was never served, except for its requests.
                let bound = port.bound.take();
                if let Some(bound) = bound.filter(|_| !port.requests.borrow().is_empty())
                    && let Ok(key) = io.listen(bound)
                {
                    apply_socket_requests(io, port, key);
                    io.close(key, CloseMode::Normal);
                }
                port.state.set(PortState::Stopped);
                port.finish_stop();
            }
            (PortState::Starting, old) => {
                // If the port was stopped and started again, its old socket is closed first.
                if let Some(key) = old {
                    self.table.take(key);
                    io.close(key, CloseMode::Normal);
                    port.key.set(None);
                }
                port.finish_stop();
            }
            (PortState::Listening, Some(key)) => {
                self.apply_share_change(io, port, key);
                let key = port.key.get().unwrap_or(key);
                io.set_reserved(key, port.accepts_under_load());
                io.receive(key, !port.is_held());
            }
            _ => {}
        }
    }

    pub(super) fn close_port(&mut self, io: &mut dyn Commands, key: Key) {
        if let Some(Resource::Port(port)) = self.table.take(key) {
            io.close(key, CloseMode::Normal);
            port.key.set(None);
            port.state.set(PortState::Stopped);
            port.finish_stop();
        }
    }

    /// Serves a connection accepted at a shared port, in one of the loops that share it.
    #[inline(never)]
    pub(super) fn accepted_on_shared_port(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<PortCell>,
        key: Key,
        ends: (Address, LocalEnd),
    ) {
        let Some(share) = &port.share else { return };
        let chosen = match share.choose() {
            Chosen::Own(counted) => return self.serve_shared(io, port, key, ends, counted),
            Chosen::Other(chosen) => chosen,
        };
        match io.release(key).and_then(Released::into_socket) {
            Ok(socket) => share.hand_over(chosen, socket),
            Err(error) => {
                log_error!(%error, "cannot hand a connection to another loop");
                self.serve_shared(io, port, key, ends, share.keep(chosen));
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
        self.count_in_port(io, port);
        self.note_accepted(key, port.place.get());
        self.establish(io, key, ends, Opening::Port(port.clone()));
        if let (Some(entry), Some(counted)) = (self.table.connection(key), counted) {
            entry.origin = Origin::Shared(Box::new((port.clone(), counted)));
        }
        self.count_load(io);
    }

    /// Step 6: serves a connection that another loop has accepted.
    pub(super) fn start_handed(
        &mut self,
        io: &mut dyn Commands,
        mut handed: Box<HandedConnection>,
    ) {
        let port = self.records.shared_port(handed.arrived());
        let Some(port) = port.filter(|port| port.state.get() == PortState::Listening) else {
            return drop(handed);
        };
        let Some((socket, counted)) = handed.take() else { return };
        self.count_arriving(handed.take_place());
        let adopt = || {
            let adopted = self.records.world.adopt(socket)?;
            let (peer, host) = (adopted.peer.clone(), adopted.host.clone());
            io.adopt(adopted).map(|key| (key, peer, host))
        };
        match adopt() {
            Ok((key, peer, host)) => {
                let host = LocalEnd::for_connection(host, io, key);
                self.serve_shared(io, &port, key, (peer, host), counted);
            }
            Err(error) => {
                log_error!(host = %port.host(), %error, "cannot serve a connection");
                self.count_load(io);
            }
        }
    }

    /// Gives a port the socket or takes it away, if its part has changed.
    pub(super) fn apply_share_change(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<PortCell>,
        old: Key,
    ) {
        let Some(changed) =
            port.share.as_ref().and_then(|share| share.rebind_if_changed(&port.reactor))
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
                let ask = move || again.reactor.records().request(LoopRequest::Port(again.clone()));
                drop(reactor.call_later(RETRY_AFTER, ask));
            }
        }
    }

    /// Step 6: serves the socket. The factory is in use until it has built the protocol.
    pub(super) fn start_adoption(&mut self, io: &mut dyn Commands, cell: &AdoptionCell) {
        if self.reactor.is_stopping() {
            return cell.abandon();
        }
        let Some(PendingAdoption { source, factory, done }) = cell.pending.take() else { return };
        let AdoptionSource { adopted, attached, joins_port, opened } = source;
        let (peer, host) = (adopted.peer.clone(), adopted.host.clone());
        let key = match io.adopt(adopted) {
            Ok(key) => key,
            Err(error) => return done(Err(error.into())),
        };
        factory.start();
        self.note_accepted(key, cell.place);
        let ends = (peer, LocalEnd::for_connection(host.clone(), io, key));
        let adoption = OpeningAdoption { factory, done, attached, opened };
        self.establish(io, key, ends, Opening::Adoption(adoption));
        if joins_port {
            self.join_port(io, key, &host);
        }
        self.count_load(io);
    }

    /// Counts a connection of another process in the port that listens on the address of its socket.
    fn join_port(&mut self, io: &mut dyn Commands, key: Key, host: &Address) {
        let port = self.table.iter().find_map(|(_, resource)| match resource {
            Resource::Port(port) if port.serves(host) => Some(port),
            _ => None,
        });
        let (Some(port), Some(entry)) = (port.cloned(), self.table.connection(key)) else { return };
        entry.origin = match port.share.as_ref().map(Share::count) {
            None => Origin::Port(port.clone()),
            Some(Some(counted)) => Origin::Shared(Box::new((port.clone(), counted))),
            Some(None) => return,
        };
        if port.count()
            && let Some(key) = port.key.get()
        {
            io.receive(key, false);
        }
    }
}

/// Sets an option of a port for connections or datagrams. An error is logged.
pub(super) fn set_port_option(
    io: &mut dyn Commands,
    key: Key,
    host: &Address,
    option: SocketOption,
) {
    if let Err(error) = io.set_option(key, option) {
        log_warn!(%host, ?option, %error, "cannot set an option");
    }
}

/// Carries out the requests of a port about its socket.
fn apply_socket_requests(io: &mut dyn Commands, port: &PortCell, key: Key) {
    for request in port.requests.take() {
        match request {
            PortRequest::Set(option) => set_port_option(io, key, &port.host(), option),
            PortRequest::Duplicate(resolver) => {
                let duplicate = match &port.share {
                    Some(share) => share.duplicate(),
                    None => io.duplicate_port(key),
                };
                match duplicate {
                    Ok(socket) => resolver.callback(socket),
                    Err(error) => resolver.errback(Failure::from(error)),
                }
            }
            PortRequest::KeepFile(is_kept) => match &port.share {
                Some(share) => share.keep_socket_file(is_kept),
                None => io.keep_socket_file(key, is_kept),
            },
        }
    }
}
