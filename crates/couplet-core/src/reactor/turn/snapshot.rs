//! Takes a [`Snapshot`], and shows the loop to its inspector.
//!
//! Contract: 160e, 180.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::Core;
use super::table::Resource;
use super::waits::Waits;
use crate::connector::{ConnectorCell, ConnectorState};
use crate::counters::LoopCounters;
use crate::datagrams::DatagramCell;
use crate::driver::recorded::RingWriter;
use crate::driver::{Commands, LoopThread};
use crate::internals::unhandled_failures;
use crate::reactor::frames::{Frame, Frames, TableLimits};
use crate::reactor::inspect::{EndedDeferreds, InspectedLoop, Inspector, Observing};
use crate::reactor::leaks::Origin;
use crate::reactor::monitor::CallMonitor;
use crate::reactor::port::{PortCell, PortState};
use crate::reactor::records::Start;
use crate::reactor::snapshot::{
    ConnectionSnapshot, ConnectorSnapshot, DatagramSnapshot, PendingSnapshot, PortSnapshot,
    Snapshot, WaitRef,
};
use crate::transport::ConnectionId;
use crate::transport::connection::Life;
use crate::why::Why;

impl Core {
    /// Shows the loop to its inspector. The value is dropped with the loop.
    pub(super) fn show_to(
        &mut self,
        inspector: &Arc<dyn Inspector>,
        writer: &RingWriter,
    ) -> io::Result<Box<dyn Any>> {
        let (remote, serial) = (self.reactor.remote(), self.reactor.serial());
        let (thread, ring) = (LoopThread::current(), writer.ring().clone());
        let observing = Observing::begin(&self.reactor, inspector.histories());
        let frames = self.keep_frames(writer, inspector.tables());
        let inspected = InspectedLoop { remote, serial, thread, ring, frames };
        let shown = inspector.clone().attach(inspected)?;
        Ok(Box::new((shown, observing)))
    }

    /// Takes frames from now on, at the beginning of a turn.
    pub(super) fn keep_frames(&self, writer: &RingWriter, limits: TableLimits) -> Arc<Frames> {
        self.records.ended_deferreds.keep(limits.ended_deferreds);
        let frames = Arc::new(Frames::new(limits));
        let (kept, ring) = (frames.clone(), writer.ring().clone());
        let reactor = self.reactor.downgrade();
        if limits.frames > 0 && self.records.frames.set(frames.clone()).is_ok() {
            writer.set_watch(move |ticks| {
                // A loop that is being dropped has no further turns.
                let Some(reactor) = reactor.upgrade() else { return u64::MAX };
                let records = reactor.records();
                let now = records.fresh_time();
                let wait = kept.wait(now);
                if !wait.is_zero() {
                    return ring.ticks_after(ticks, now, wait);
                }
                records.request_frame(ring.ticks_since_begin(ticks));
                ring.ticks_after(ticks, now, limits.every)
            });
        }
        frames
    }

    /// Takes a frame: without connections, whose state is in the ring.
    pub(super) fn take_frame(&mut self, io: &dyn Commands, ticks: u64) {
        let Some(frames) = self.records.frames.get().cloned() else { return };
        let mut snapshot = self.snapshot_of(io, Some(frames.rows()));
        let pending = snapshot.pending_calls + snapshot.tasks + snapshot.jobs;
        let is_full = snapshot.pending.len() >= frames.rows();
        let left_out = if is_full { pending.saturating_sub(snapshot.pending.len()) } else { 0 };
        let left_out = left_out + snapshot.truncate(frames.rows());
        frames.add(Frame { ticks, snapshot, left_out });
    }

    /// The loop is dropped: its last frame has nothing.
    pub(super) fn end_frames(&self) {
        if let (Some(frames), Some(ring)) = (self.records.frames.get(), self.records.ring()) {
            frames.add(Frame::end(ring.ticks_since_begin()));
        }
    }

    /// Takes a snapshot of the loop.
    pub(super) fn snapshot(&mut self, io: &dyn Commands) -> Snapshot {
        self.snapshot_of(io, None)
    }

    /// Takes a snapshot; with `most`, without connections, and with at most this number of pending
    /// calls, tasks and jobs, and of Deferreds.
    fn snapshot_of(&mut self, io: &dyn Commands, most: Option<usize>) -> Snapshot {
        let connections = match most {
            Some(_) => Vec::new(),
            None => {
                let named = |life: &mut Life| {
                    let protocol = life.protocol_name();
                    ConnectionSnapshot::of(life, protocol)
                };
                self.table.lives_mut().map(named).collect()
            }
        };
        let records = &self.records;
        let mut snapshot = Snapshot {
            connections,
            at: Some(self.reactor.now()),
            pending_calls: records.timers.borrow().len(),
            tasks: records.tasks.borrow().len(),
            jobs: records.jobs.len(),
            #[cfg(unix)]
            watches: records.watches.borrow().len(),
            #[cfg(not(unix))]
            watches: 0,
            notes: records.notes.lines(),
            rows: records.notes.rows(),
            ended: self.ended,
            calls: records.monitor.get().map(CallMonitor::times).unwrap_or_default(),
            counters: LoopCounters {
                unhandled_failures: unhandled_failures() - self.unhandled_before,
                ..self.counters
            },
            connectors: self
                .connecting
                .connectors()
                .map(|connector| ConnectorSnapshot::of(connector))
                .collect(),
            ..Snapshot::default()
        };
        let mut ports: Vec<&Rc<PortCell>> = Vec::new();
        let mut datagrams: Vec<&Rc<DatagramCell>> = Vec::new();
        for (_, place) in self.table.iter() {
            match place {
                Resource::Port(port) => ports.push(port),
                Resource::Datagrams(port) => datagrams.push(port),
                Resource::Connection(_) => {}
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
                    snapshot.connectors.push(ConnectorSnapshot::of(c));
                }
                Start::Datagrams(port) if port.is_open() => datagrams.push(port),
                Start::Port(_)
                | Start::Datagrams(_)
                | Start::Connector(_)
                | Start::Adoption(_)
                | Start::HandedConnection(_) => {}
            }
        }
        snapshot.pending = self.pending_work(most.unwrap_or(usize::MAX));
        if let Some(places) = &*records.places.borrow() {
            let readers = places.readers().map(|(task, of)| (task.number(), of)).collect();
            snapshot.add_waits(readers, &records.ended_deferreds, most.unwrap_or(usize::MAX));
        }
        snapshot.datagrams = datagrams.into_iter().map(|port| DatagramSnapshot::of(port)).collect();
        snapshot.ports = ports.into_iter().map(|port| port.snapshot(io)).collect();
        records.notes.revise(&mut snapshot);
        snapshot
    }
}

impl Core {
    /// At most `most` calls, tasks and jobs, if places are kept.
    fn pending_work(&self, most: usize) -> Vec<PendingSnapshot> {
        let records = &self.records;
        let places = records.places.borrow();
        let Some(places) = &*places else { return Vec::new() };
        let (timers, tasks) = (records.timers.borrow(), records.tasks.borrow());
        let calls = places.timers().iter().filter_map(|((timer, purpose), from)| {
            let due = timers.deadline(*timer)?;
            let mut why = Why::default();
            why.text("due in ").until(due);
            let call = PendingSnapshot::of(purpose.kind(), timer.number(), *from, why);
            Some(PendingSnapshot { due: Some(due), ..call })
        });
        let running = places.tasks().iter().filter(|(task, _)| tasks.contains(*task));
        let running = running.map(|(task, from)| {
            let name = tasks.name(*task).map(str::to_owned);
            let row = PendingSnapshot::of("task", task.number(), *from, tasks.why(*task));
            PendingSnapshot { name, ..row }
        });
        let jobs = places.jobs().iter().filter(|((job, _), _)| records.jobs.is_waiting(*job));
        let jobs = jobs.map(|((job, has_begun), from)| {
            let mut why = Why::default();
            match has_begun.load(Ordering::Relaxed) {
                true => why.text("runs in a thread, requested ").since(from.since).text(" ago"),
                false => why.text("waits for a thread for ").since(from.since),
            };
            PendingSnapshot::of("job", job.0, *from, why)
        });
        calls.chain(running).chain(jobs).take(most).collect()
    }
}

impl Snapshot {
    /// Adds Deferreds and locks, and the reasons why tasks wait.
    fn add_waits(
        &mut self,
        readers: BTreeMap<u64, ConnectionId>,
        ended: &EndedDeferreds,
        most: usize,
    ) {
        let waits = Waits::of(&self.pending, readers, &self.connections, most);
        let cycles = waits.cycles();
        let tasks = self.pending.iter().filter(|it| it.kind == "task").map(|task| {
            let of = WaitRef { kind: "task", id: task.id };
            (waits.of_task(of), waits.next(of), cycles.contains(&of))
        });
        let tasks: Vec<_> = tasks.collect();
        (self.deferreds, self.locks) = (waits.deferreds(ended), waits.locks());
        let rows = self.pending.iter_mut().filter(|it| it.kind == "task");
        for (task, (why, waits_for, is_cyclic)) in rows.zip(tasks) {
            (task.waits_for, task.is_cyclic) = (waits_for, is_cyclic);
            if let Some(why) = why {
                task.why = why;
            }
        }
    }
}

impl ConnectorSnapshot {
    fn of(connector: &ConnectorCell) -> ConnectorSnapshot {
        let (target, state) = (connector.to_string(), connector.state_name());
        ConnectorSnapshot { target, state, place: connector.place, why: connector.why() }
    }
}

impl PendingSnapshot {
    fn of(kind: &'static str, id: u64, from: Origin, why: Why) -> PendingSnapshot {
        let Origin { place, since } = from;
        let (name, due, waits_for, is_cyclic) = (None, None, Vec::new(), false);
        PendingSnapshot { kind, id, name, place, since, due, why, waits_for, is_cyclic }
    }
}

impl ConnectionSnapshot {
    /// Of a connection whose protocol has this name.
    pub(super) fn of(life: &Life, protocol: &'static str) -> ConnectionSnapshot {
        let cell = life.cell();
        ConnectionSnapshot {
            id: cell.id(),
            protocol,
            layers: life.layer_names(),
            why: life.why(protocol),
            peer: cell.peer.clone(),
            host: cell.host().clone(),
            state: life.state_name(),
            bytes_in: cell.bytes_in.get(),
            bytes_out: cell.bytes_out(),
            wire: cell.wire_bytes(),
            buffered: cell.unsent(),
            received_at: cell.received_at.get(),
            made_at: cell.made_at.get(),
        }
    }
}

impl DatagramSnapshot {
    fn of(port: &DatagramCell) -> DatagramSnapshot {
        DatagramSnapshot {
            host: port.host.clone(),
            peer: port.options.peer.clone(),
            counters: port.counters.get(),
            buffered: port.queue.borrow().bytes(),
            paused: port.receiving.get().is_paused(),
        }
    }
}

impl PortCell {
    fn snapshot(&self, io: &dyn Commands) -> PortSnapshot {
        let mut counters = self.counters.get();
        counters += self.key.get().map(|key| io.port_counters(key)).unwrap_or_default();
        PortSnapshot {
            host: self.host(),
            factory: None,
            counters,
            paused: self.is_held(),
            max_descriptors: self.max_descriptors(),
        }
    }
}
