//! Takes a [`Snapshot`].

use std::rc::Rc;
use std::time::Instant;

use super::core::Core;
use super::table::Resource;
use crate::connector::ConnectorState;
use crate::datagrams::DatagramCell;
use crate::driver::Commands;
use crate::internals::unhandled_failures;
use crate::reactor::monitor::CallMonitor;
use crate::reactor::port::{PortCell, PortState};
use crate::reactor::records::Start;
use crate::reactor::snapshot::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PortSnapshot, Snapshot,
};
use crate::transport::connection::Life;

impl Core {
    /// Takes a snapshot of the loop.
    pub(super) fn snapshot(&self, io: &dyn Commands) -> Snapshot {
        let records = &self.records;
        let now = self.reactor.now();
        let mut snapshot = Snapshot {
            pending_calls: records.timers.borrow().len(),
            tasks: records.tasks.borrow().len(),
            jobs: records.jobs.len(),
            #[cfg(unix)]
            watches: records.watches.borrow().len(),
            #[cfg(not(unix))]
            watches: 0,
            notes: records.notes.lines(),
            ended: self.ended,
            calls: records.monitor.get().map(CallMonitor::times).unwrap_or_default(),
            shed: self.load.shed(),
            unhandled: unhandled_failures() - self.unhandled_before,
            connectors: self
                .connecting
                .connectors()
                .map(|c| ConnectorSnapshot { target: c.to_string(), state: c.state_name() })
                .collect(),
            ..Snapshot::default()
        };
        let mut ports: Vec<&Rc<PortCell>> = Vec::new();
        let mut datagrams: Vec<&Rc<DatagramCell>> = Vec::new();
        for (_, place) in self.table.iter() {
            match place {
                Resource::Port(port) => ports.push(port),
                Resource::Datagrams(port) => datagrams.push(port),
                Resource::Connection(entry) => {
                    snapshot.connections.push(ConnectionSnapshot::of(&entry.life, now));
                }
            }
        }
        // Not started by the turn yet, although a bound port already queues connections.
        let starts = records.starts();
        for start in &*starts {
            match start {
                Start::Port(port)
                    if port.state.get() == PortState::Starting
                        && !ports.iter().any(|known| Rc::ptr_eq(known, port)) =>
                {
                    ports.push(port);
                }
                Start::Connector(c) if c.state() == ConnectorState::Connecting => {
                    let (target, state) = (c.to_string(), c.state_name());
                    snapshot.connectors.push(ConnectorSnapshot { target, state });
                }
                Start::Datagrams(port) if port.is_open() => datagrams.push(port),
                Start::Port(_)
                | Start::Datagrams(_)
                | Start::Connector(_)
                | Start::Adoption(_)
                | Start::HandedConnection(_) => {}
            }
        }
        snapshot.datagrams = datagrams.into_iter().map(|port| DatagramSnapshot::of(port)).collect();
        snapshot.ports = ports.into_iter().map(|port| port.snapshot(io)).collect();
        snapshot
    }
}

impl ConnectionSnapshot {
    pub(super) fn of(life: &Life, now: Instant) -> ConnectionSnapshot {
        let cell = life.cell();
        ConnectionSnapshot {
            id: cell.id(),
            peer: cell.peer.clone(),
            host: cell.host().clone(),
            state: life.state_name(),
            bytes_in: cell.bytes_in.get(),
            bytes_out: cell.bytes_out(),
            wire: cell.wire_bytes(),
            buffered: cell.unsent(),
            idle: now.saturating_duration_since(cell.received_at.get()),
            age: now.saturating_duration_since(cell.made_at.get()),
        }
    }
}

impl DatagramSnapshot {
    fn of(port: &DatagramCell) -> DatagramSnapshot {
        let counts = port.counts.get();
        DatagramSnapshot {
            host: port.host.clone(),
            peer: port.options.peer.clone(),
            received: counts.received,
            sent: counts.sent,
            dropped: counts.dropped,
            buffered: port.queue.borrow().bytes(),
            paused: port.receiving.get().is_paused(),
        }
    }
}

impl PortCell {
    fn snapshot(&self, io: &dyn Commands) -> PortSnapshot {
        PortSnapshot {
            host: self.host(),
            accepted: self.accepted.get(),
            not_opened: self.not_opened.get(),
            rejected: self.rejected.get(),
            turned_away: self.key.get().map_or(0, |key| io.turned_away(key)),
            paused: self.is_held(),
        }
    }
}
