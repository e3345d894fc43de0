//! Connections with layers, until every layer is open: there is no protocol yet, so nobody who never
//! completes a handshake costs one.

use std::rc::Rc;

use super::adopting::Adopting;
use super::connecting::ConnectorCell;
use super::port::PortCell;
use super::table::Origin;
use super::turn::Core;
use crate::address::Address;
use crate::driver::{CloseMode, Commands, Key, LocalEnd};
use crate::error::{ConnectError, ConnectionLost, Reason};
use crate::factory::{AnyFactory, Ends, FactorySlot};
use crate::layers::{Layer, Layers, Side};
use crate::protocol::Protocol;
use crate::transport::cell::ConnectionCell;
use crate::transport::connection::Life;

/// Who waits for the protocol of a connection.
pub(super) enum Opening {
    Port(Rc<PortCell>),
    Connector(Rc<ConnectorCell>),
    Adoption(Adopting),
}

impl Opening {
    fn side(&self) -> Side {
        match self {
            Opening::Connector(_) => Side::Connected,
            Opening::Port(_) | Opening::Adoption(_) => Side::Accepted,
        }
    }

    fn origin(&self) -> Origin {
        match self {
            Opening::Port(port) => Origin::Port(port.clone()),
            Opening::Connector(_) => Origin::Connecting,
            Opening::Adoption(_) => Origin::Adopted,
        }
    }

    fn factory(&self) -> &FactorySlot {
        match self {
            Opening::Port(port) => &port.factory,
            Opening::Connector(connector) => &connector.factory,
            Opening::Adoption(adopting) => &adopting.factory,
        }
    }
}

/// What a factory made of a new connection.
enum Begun {
    Layers(Vec<Box<dyn Layer>>),
    Protocol(Box<dyn Protocol>),
    /// The connection is rejected.
    Nothing,
}

impl Begun {
    fn by(factory: &mut dyn AnyFactory, ends: &Ends<'_>, under: Vec<Box<dyn Layer>>) -> Begun {
        let mut layers = under;
        match factory.layers(ends, &mut layers) {
            true if layers.is_empty() => {
                factory.build(ends.peer).map_or(Begun::Nothing, Begun::Protocol)
            }
            true => Begun::Layers(layers),
            false => Begun::Nothing,
        }
    }
}

impl Core {
    /// A socket is connected: makes the connection, and builds its protocol as soon as its layers
    /// are open. Without layers that is now.
    pub(super) fn establish(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        (peer, host): (Address, LocalEnd),
        opening: Opening,
    ) {
        let under = self.layer.as_ref().map(|layer| layer(opening.side())).unwrap_or_default();
        let known = |asked: &LocalEnd| match asked {
            LocalEnd::Known(host) | LocalEnd::Socket(host, _) => Some(Address::clone(host)),
            LocalEnd::Ask(socket) => socket.get().ok().map(Address::from),
        };
        let ends = Ends { peer: &peer, host: &|| known(&host) };
        let begin = |factory: &mut dyn AnyFactory| Begun::by(factory, &ends, under);
        let begun = opening.factory().call("build_protocol", begin);
        self.new_connection(io, key, (peer, host), opening.origin());
        match begun {
            Some(Begun::Layers(layers)) => self.open_layers(io, key, layers, opening),
            Some(Begun::Protocol(protocol)) => self.built(io, key, opening, Some(protocol)),
            Some(Begun::Nothing) | None => self.built(io, key, opening, None),
        }
    }

    #[cold]
    fn open_layers(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        layers: Vec<Box<dyn Layer>>,
        opening: Opening,
    ) {
        let layers = Layers::stack(layers, self.reactor.spares());
        let Some(entry) = self.table.connection(key) else { return };
        let is_open = entry.life.put_layers(layers, self.reactor.now());
        if let Opening::Connector(connector) = &opening {
            connector.opening.set(Some(key));
        }
        entry.opening = Some(Box::new(opening));
        tracing::debug!(connection = %entry.life.cell().id(), peer = %entry.life.cell().peer, "connected, not open yet");
        if is_open {
            self.layers_opened(io, key);
        } else {
            self.visit(io, key, Life::resume_layers);
        }
    }

    /// The layers have opened: builds the protocol.
    pub(super) fn layers_opened(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        let Some(opening) = entry.opening.take() else { return };
        entry.life.note_opened();
        let cell = entry.life.cell().clone();
        let build = |factory: &mut dyn AnyFactory| factory.build(&cell.peer);
        let built = opening.factory().call("build_protocol", build).flatten();
        self.built(io, key, *opening, built);
    }

    /// The factory was asked for the protocol of a connection: gives it the connection.
    fn built(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        opening: Opening,
        built: Option<Box<dyn Protocol>>,
    ) {
        match opening {
            Opening::Port(_) => match built {
                Some(protocol) => self.begin(io, key, protocol),
                None => self.drop_connection(io, key),
            },
            Opening::Connector(connector) => {
                connector.opening.set(None);
                self.connector_built(io, key, &connector, built);
            }
            Opening::Adoption(Adopting { factory, done }) => {
                factory.call("do_stop", |factory| factory.do_stop());
                let Some(protocol) = built else {
                    self.drop_connection(io, key);
                    return done(Err(ConnectError::NoProtocol.into()));
                };
                let Some(entry) = self.table.connection(key) else { return };
                let cell = entry.life.cell().clone();
                self.begin(io, key, protocol);
                done(self.outcome_of_made(cell));
            }
        }
    }

    /// Gives an opened connection its protocol.
    pub(super) fn begin(&mut self, io: &mut dyn Commands, key: Key, protocol: Box<dyn Protocol>) {
        let protocol = self.wrapped(key, protocol);
        let Some(entry) = self.table.connection(key) else { return };
        entry.life.begin(protocol);
        let (cell, layered) = (entry.life.cell(), entry.life.is_layered());
        tracing::debug!(connection = %cell.id(), peer = %cell.peer, host = %cell.host(), "connection made");
        self.visit(io, key, Life::made);
        if layered {
            self.visit(io, key, Life::resume_layers);
        }
    }

    /// Drops a connection that has no protocol.
    pub(super) fn drop_connection(&mut self, io: &mut dyn Commands, key: Key) {
        io.close(key, CloseMode::Normal);
        if let Some(entry) = self.table.connection(key) {
            entry.opening = None;
            self.remove_connection(io, key);
        }
    }

    /// A connection ended before its layers were open.
    #[cold]
    pub(super) fn not_opened(
        &mut self,
        io: &mut dyn Commands,
        opening: Opening,
        cell: &ConnectionCell,
        reason: Reason,
    ) {
        match opening {
            Opening::Port(port) => {
                port.not_opened.set(port.not_opened.get() + 1);
                let (host, peer) = (port.host(), &cell.peer);
                // Health checks of load balancers connect, and leave without a byte.
                let is_check = cell.wire_bytes()[0] == 0 && matches!(reason, Reason::Lost(_));
                match is_check {
                    true => tracing::debug!(%host, %peer, "a peer came and went without a byte"),
                    false => tracing::warn!(%host, %peer, %reason, "a connection did not open"),
                }
            }
            Opening::Connector(connector) => {
                connector.opening.set(None);
                self.connect_failed(io, &connector, ConnectError::NotOpened(reason));
            }
            Opening::Adoption(adopting) => {
                adopting.factory.call("do_stop", |factory| factory.do_stop());
                (adopting.done)(Err(ConnectionLost(reason).into()));
            }
        }
    }
}
