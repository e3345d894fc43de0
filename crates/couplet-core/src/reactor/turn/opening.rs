//! Connections with layers, until every layer is open. The protocol does not exist yet, so a client
//! that never completes a handshake does not cost one.
//!
//! Contract: 36, 42, 43, 51a, 77, 81, 81a.

use std::rc::Rc;

use super::core::Core;
use super::table::{Opening, OpeningConnection, Origin};
use crate::address::Address;
use crate::connector::{ConnectorCell, Step};
use crate::counters::tally;
use crate::driver::{CloseMode, Commands, Key, LocalEnd};
use crate::error::{By, ConnectError, ConnectionLost, Reason};
use crate::factory::{AnyFactory, Ends, Newcomer, Seat};
use crate::layers::Layer;
use crate::panics::{Contained, discard};
use crate::protocol::Protocol;
use crate::reactor::adopting::OpeningAdoption;
use crate::transport::cell::ConnectionCell;
use crate::transport::connection::Life;

/// A factory's answer to a new connection.
enum FactoryAnswer {
    Layers(Vec<Box<dyn Layer>>, Contained<Seat>),
    Protocol(Box<dyn Protocol>),
    /// The connection is rejected.
    Nothing,
}

impl FactoryAnswer {
    /// `layers` lie below the factory's.
    fn from_factory(
        factory: &mut dyn AnyFactory,
        ends: &Ends<'_>,
        mut layers: Vec<Box<dyn Layer>>,
    ) -> FactoryAnswer {
        match factory.layers(ends, &mut layers) {
            true if layers.is_empty() => {
                factory.build(ends.peer).map_or(FactoryAnswer::Nothing, FactoryAnswer::Protocol)
            }
            true => {
                let is_relayed = layers.iter().any(|layer| layer.relays());
                let seat = factory.opening(&Newcomer { peer: ends.peer, is_relayed });
                seat.map_or(FactoryAnswer::Nothing, |seat| {
                    FactoryAnswer::Layers(layers, Contained::new(seat))
                })
            }
            false => FactoryAnswer::Nothing,
        }
    }
}

impl Core {
    /// Creates a connection for a connected socket, and builds its protocol once its layers are
    /// open; without layers, immediately.
    pub(super) fn establish(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        (peer, host): (Address, LocalEnd),
        mut opening: Opening,
    ) {
        let ends = Ends { peer: &peer, host: &|| host.address() };
        let (hooks, side) = (&self.hooks, opening.side());
        let begin = |factory: &mut dyn AnyFactory| {
            FactoryAnswer::from_factory(factory, &ends, hooks.layers(side))
        };
        let answer = opening.factory().call("build_protocol", begin);
        self.new_connection(io, key, (peer, host), opening.origin());
        match answer {
            Some(FactoryAnswer::Layers(layers, seat)) => {
                self.open_layers(io, key, layers, OpeningConnection { opening, seat });
            }
            Some(FactoryAnswer::Protocol(protocol)) => {
                self.protocol_built(io, key, opening, Some(protocol))
            }
            Some(FactoryAnswer::Nothing) | None => self.protocol_built(io, key, opening, None),
        }
    }

    #[cold]
    fn open_layers(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        layers: Vec<Box<dyn Layer>>,
        seated: OpeningConnection,
    ) {
        let Some(entry) = self.table.connection(key) else { return };
        let is_open = entry.life.put_layers(layers, self.reactor.now());
        if let Opening::Connector(connector) = &seated.opening {
            connector.set_step(Step::Opening(key));
        }
        entry.opening = Some(Box::new(seated));
        tracing::debug!(connection = %entry.life.cell().id(), peer = %entry.life.cell().peer, "connected, opening its layers");
        if is_open {
            self.layers_opened(io, key);
        } else {
            self.with_life(io, key, Life::feed_early_input);
        }
    }

    /// The layers have opened: builds the protocol.
    pub(super) fn layers_opened(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(entry) = self.table.connection(key) else { return };
        let Some(seated) = entry.opening.take() else { return };
        entry.life.note_opened();
        let cell = entry.life.cell().clone();
        let OpeningConnection { opening, seat } = *seated;
        // The protocol takes the seat's place.
        drop(seat);
        let build = |factory: &mut dyn AnyFactory| factory.build(&cell.peer);
        let built = opening.factory().call("build_protocol", build).flatten();
        self.protocol_built(io, key, opening, built);
    }

    /// Passes the protocol that the factory built, if any, to the connection.
    fn protocol_built(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        opening: Opening,
        built: Option<Box<dyn Protocol>>,
    ) {
        match opening {
            Opening::Port(port) => match built {
                Some(protocol) => self.begin_protocol(io, key, protocol),
                None => {
                    tally(&port.counters, |counters| counters.rejected += 1);
                    self.drop_connection(io, key);
                }
            },
            Opening::Connector(connector) => {
                connector.take_opening();
                self.connector_built(io, key, &connector, built);
            }
            Opening::Adoption(OpeningAdoption { factory, done, opened, .. }) => {
                factory.stop();
                let Some(protocol) = built else {
                    self.drop_connection(io, key);
                    return done(Err(ConnectError::NoProtocol.into()));
                };
                let Some(entry) = self.table.connection(key) else { return };
                if let Some(opened) = opened {
                    entry.life.set_opened(Rc::new(opened));
                }
                let cell = entry.life.cell().clone();
                self.begin_protocol(io, key, protocol);
                done(self.connect_outcome(cell));
            }
        }
    }

    /// Handles the protocol that the factory built for a connector's connection, or its refusal.
    fn connector_built(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        connector: &Rc<ConnectorCell>,
        built: Option<Box<dyn Protocol>>,
    ) {
        if connector.stop_requested() {
            self.drop_connection(io, key);
            discard("drop of a protocol", built);
            return self.connect_failed(io, connector, ConnectError::Stopped);
        }
        let Some(protocol) = built else {
            self.drop_connection(io, key);
            self.connecting.lost(connector, &Reason::Done(By::Us));
            return connector.fail_connect(ConnectError::NoProtocol.into());
        };
        let Some(entry) = self.table.connection(key) else { return };
        entry.origin = Origin::Connector(connector.clone());
        let connection = entry.life.cell().clone();
        connector.set_connected(connection.clone());
        self.begin_protocol(io, key, protocol);
        if let Some(done) = connector.take_done() {
            done(self.connect_outcome(connection));
        }
    }

    /// A connect failed or was stopped: also drops its connection, if that is opening.
    pub(super) fn connect_failed(
        &mut self,
        io: &mut dyn Commands,
        connector: &Rc<ConnectorCell>,
        error: ConnectError,
    ) {
        if let Some(key) = connector.take_opening() {
            self.drop_connection(io, key);
        }
        self.connecting.fail(io, connector, error);
    }

    /// Gives an opened connection its protocol.
    pub(super) fn begin_protocol(
        &mut self,
        io: &mut dyn Commands,
        key: Key,
        protocol: Box<dyn Protocol>,
    ) {
        let protocol = self.wrap_protocol(key, protocol);
        let Some(entry) = self.table.connection(key) else { return };
        entry.life.begin(protocol);
        let (cell, early) = (entry.life.cell(), entry.life.has_early_input());
        tracing::debug!(connection = %cell.id(), peer = %cell.peer, host = %cell.host(), "connection made");
        self.with_life(io, key, Life::call_connection_made);
        if early {
            self.with_life(io, key, Life::feed_early_input);
        }
    }

    /// Drops a connection that has no protocol.
    pub(super) fn drop_connection(&mut self, io: &mut dyn Commands, key: Key) {
        let now = self.now();
        if let Some(entry) = self.table.connection(key) {
            entry.log_rejected(now);
        }
        io.close(key, CloseMode::Normal);
        if let Some(entry) = self.table.connection(key) {
            let seated = entry.opening.take();
            drop(seated);
            self.remove_connection(io, key);
        }
    }

    /// Handles the end of a connection whose layers never opened.
    #[cold]
    pub(super) fn opening_failed(
        &mut self,
        io: &mut dyn Commands,
        opening: Opening,
        cell: &ConnectionCell,
        reason: Reason,
    ) {
        match opening {
            Opening::Port(port) => {
                tally(&port.counters, |counters| counters.not_opened += 1);
                let (host, peer) = (port.host(), &cell.peer);
                // Health checks of load balancers connect and leave without sending a byte.
                let is_check = cell.wire_bytes()[0] == 0 && matches!(reason, Reason::Lost(_));
                match is_check {
                    true => {
                        tracing::debug!(%host, %peer, "a peer disconnected without sending a byte")
                    }
                    false => log_warn!(%host, %peer, %reason, "cannot open a connection"),
                }
            }
            Opening::Connector(connector) => {
                connector.take_opening();
                self.connect_failed(io, &connector, ConnectError::NotOpened(reason));
            }
            Opening::Adoption(adopting) => {
                adopting.factory.stop();
                (adopting.done)(Err(ConnectionLost(reason).into()));
            }
        }
    }
}
