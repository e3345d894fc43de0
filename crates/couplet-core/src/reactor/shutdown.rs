//! The end of a run, in order: `Before` triggers, ports and connections, `During` and `After`
//! triggers.
//!
//! Twisted's system event triggers and `disconnectAll`.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::time::Instant;

use super::delayed::after;
use super::drain::Drain;
use super::leaks::Source;
use super::table::Resource;
use super::turn::Core;
use super::{RunState, Snapshot, pending};
use crate::defer::Deferred;
use crate::driver::{Commands, Signal, UserCall};
use crate::error::ConnectError;
use crate::panics::contain;
use crate::transport::connection::Life;

/// When a trigger of [`Reactor::on`](super::Reactor::on) is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// First, while everything still runs; turns continue, and the shutdown waits for the Deferred.
    Before,
    /// When the ports and connections are closed. The Deferred is not awaited.
    During,
    /// Last. The Deferred is not awaited.
    After,
}

type Trigger = Box<dyn FnOnce() -> Deferred<()>>;

#[derive(Default)]
pub(super) struct Triggers {
    // Unbounded: one per `on` call.
    before: Vec<(Source, Trigger)>,
    // Unbounded: one per `on` call.
    during: Vec<(Source, Trigger)>,
    // Unbounded: one per `on` call.
    after: Vec<(Source, Trigger)>,
}

impl Triggers {
    pub(super) fn add(&mut self, when: Shutdown, place: Source, trigger: Trigger) {
        self.list_mut(when).push((place, trigger));
    }

    fn list_mut(&mut self, when: Shutdown) -> &mut Vec<(Source, Trigger)> {
        match when {
            Shutdown::Before => &mut self.before,
            Shutdown::During => &mut self.during,
            Shutdown::After => &mut self.after,
        }
    }
}

/// Maximum number of rounds in which dropped work may request more.
const DROP_ROUNDS: usize = 100;

/// Calls a trigger, and counts it in `waiting` until its Deferred fires.
fn call_trigger(trigger: Trigger, waiting: &Rc<Cell<usize>>) {
    let fired = waiting.clone();
    contain("shutdown trigger", || {
        let deferred = trigger();
        waiting.set(waiting.get() + 1);
        deferred
            .add_both(move |result| {
                fired.set(fired.get() - 1);
                result
            })
            .detach();
    });
}

/// The stage of a shutdown.
pub(super) enum Stopping {
    No,
    /// Waiting for `Before` triggers: the number whose Deferred has not fired.
    Before(Rc<Cell<usize>>),
    /// Connections flush until this deadline.
    Closing(Instant),
    /// Jobs in threads finish until this deadline; dependent programs exit, or are killed by their
    /// own timers.
    Joining(Instant),
}

/// Prints a snapshot to stderr, which is the default. Errors are ignored.
pub(super) fn print_snapshot(snapshot: &Snapshot) {
    drop(write!(std::io::stderr(), "{snapshot}"));
}

impl Core {
    /// Handles a signal.
    #[inline(never)]
    pub(super) fn signal_received(&mut self, signal: Signal) {
        let _hold = self.reactor.records.hold("signal");
        let reactor = self.reactor.clone();
        if self.on_signal.as_mut().is_some_and(|take| take(&reactor, signal)) {
            return;
        }
        if signal == Signal::User1 {
            return self.show_snapshot();
        }
        tracing::info!(?signal, "stop requested by a signal");
        let again = self.stopped_by.replace(signal).is_some();
        let can_wait = !again && matches!(self.stopping, Stopping::No | Stopping::Before(_));
        match self.drain.filter(|_| signal == Signal::Terminate && can_wait) {
            Some(drain) => self.drain_first(drain),
            // A second signal ends the drain, but still leaves the short flush.
            None if std::mem::take(&mut self.waits_for_drain) => self.skip_waiting = true,
            None if again && self.reactor.records.run_state.get() != RunState::Idle => {
                self.stop_now = true;
            }
            None => {}
        }
        self.reactor.stop();
    }

    /// Makes the stop of a SIGTERM wait for a drain.
    fn drain_first(&mut self, drain: Drain) {
        self.waits_for_drain = true;
        let reactor = self.reactor.clone();
        let trigger = move || reactor.drain(drain).map(drop);
        match &self.stopping {
            // A stop already waits for other triggers.
            Stopping::Before(waiting) => call_trigger(Box::new(trigger), waiting),
            _ => self.reactor.on(Shutdown::Before, trigger),
        }
    }

    fn show_snapshot(&mut self) {
        let snapshot = self.snapshot();
        match &mut self.on_snapshot {
            Some(show) => drop(contain("snapshot", || show(&snapshot))),
            None => print_snapshot(&snapshot),
        }
    }

    /// Begins or continues a shutdown at the end of a turn. Returns true while the run continues.
    pub(super) fn advance_shutdown(&mut self, io: &mut dyn Commands) -> bool {
        if self.stop_now {
            self.finish_run(io);
            return false;
        }
        // A second stop has no effect, and must not stay pending.
        let is_requested = self.reactor.records.take_pending(pending::STOP);
        match &self.stopping {
            Stopping::No => {
                if is_requested {
                    let waiting = self.fire(Shutdown::Before);
                    self.stopping = Stopping::Before(waiting);
                    return self.advance_shutdown(io);
                }
                true
            }
            Stopping::Before(waiting) => {
                if waiting.get() == 0 || self.skip_waiting {
                    self.begin_closing(io);
                    return self.advance_shutdown(io);
                }
                true
            }
            Stopping::Closing(until) => {
                let over = self.reactor.now() >= *until;
                if over || self.table.connections() == 0 {
                    self.cut_connections(io);
                    self.stopping = Stopping::Joining(after(self.reactor.now(), self.job_grace));
                    return self.advance_shutdown(io);
                }
                true
            }
            Stopping::Joining(until) => {
                let over = self.reactor.now() >= *until;
                let records = &self.reactor.records;
                let has_jobs = !over && records.jobs.len() > 0;
                if !has_jobs && records.dependents.borrow().len() == 0 {
                    self.finish_run(io);
                    return false;
                }
                true
            }
        }
    }

    /// Calls the triggers; returns the number of triggers whose Deferred has not fired.
    pub(super) fn fire(&mut self, when: Shutdown) -> Rc<Cell<usize>> {
        let triggers = std::mem::take(self.reactor.records.triggers.borrow_mut().list_mut(when));
        let waiting = Rc::new(Cell::new(0));
        for (place, trigger) in triggers {
            let doing = || UserCall::at("shutdown trigger", place);
            let _hold = self.reactor.records.hold_for(doing);
            call_trigger(trigger, &waiting);
        }
        waiting
    }

    fn begin_closing(&mut self, io: &mut dyn Commands) {
        let now = self.reactor.now();
        self.note_cut_off();
        self.reactor.records.run_state.set(RunState::Stopping);
        self.stopping = Stopping::Closing(after(now, self.shutdown_grace));
        self.close_ports_and_connectors(io);
        for key in self.table.keys(|place| matches!(place, Resource::Connection(_))) {
            self.set_drain_outcome(key, true);
            self.with_life(io, key, Life::stop);
            self.send(io, key);
        }
        self.round(io);
    }

    /// True while a shutdown is in progress.
    pub(super) fn is_ending(&self) -> bool {
        !matches!(self.stopping, Stopping::No)
    }

    fn close_ports_and_connectors(&mut self, io: &mut dyn Commands) {
        for key in self.table.keys(|place| matches!(place, Resource::Port(_))) {
            self.close_port(io, key);
        }
        for key in self.table.keys(|place| matches!(place, Resource::Datagrams(_))) {
            self.close_datagrams(io, key);
        }
        let connecting: Vec<_> = self.connectors.values().cloned().collect();
        for connector in connecting {
            self.connect_failed(io, &connector, ConnectError::Shutdown);
        }
    }

    fn cut_connections(&mut self, io: &mut dyn Commands) {
        self.close_ports_and_connectors(io);
        for key in self.table.keys(|place| matches!(place, Resource::Connection(_))) {
            self.set_drain_outcome(key, false);
            self.with_life(io, key, Life::cut);
            self.send(io, key);
        }
        // Bounded: no connection is made here, and each is lost once.
        while self.table.connections() > 0 {
            self.round(io);
        }
    }

    /// Ends the run immediately.
    pub(super) fn finish_run(&mut self, io: &mut dyn Commands) {
        self.reactor.records.run_state.set(RunState::Stopping);
        self.cut_connections(io);
        self.refuse_starts(io);
        self.round(io);
        self.run_last_tasks(io);
        self.give_up_jobs(io);
        self.give_up_lookups(io);
        self.kill_dependents();
        #[cfg(unix)]
        self.end_watches();
        self.fire(Shutdown::During);
        self.fire(Shutdown::After);
        self.refuse_starts(io);
        self.round(io);
        self.drop_pending(io);
        // Dependents that a trigger has started.
        self.kill_dependents();
        self.stopping = Stopping::No;
        self.stop_now = false;
        self.waits_for_drain = false;
        self.skip_waiting = false;
        self.reactor.records.take_pending(pending::STOP);
        self.reactor.records.run_state.set(RunState::Idle);
    }

    /// Runs the tasks that await lost objects: as in callbacks, they see the loss, and their new
    /// requests are refused. A task that keeps requesting is dropped.
    fn run_last_tasks(&mut self, io: &mut dyn Commands) {
        for _ in 0..DROP_ROUNDS {
            self.run_tasks();
            if self.reactor.records.starts.borrow().is_empty() {
                return;
            }
            self.refuse_starts(io);
            self.round(io);
        }
    }

    /// Refuses the requested ports and connectors that have not started.
    fn refuse_starts(&mut self, io: &mut dyn Commands) {
        let starts = std::mem::take(&mut *self.reactor.records.starts.borrow_mut());
        for start in starts {
            self.start_one(io, start);
        }
    }

    /// Drops pending work at the end of a run, and the work that these drops request. Work that
    /// keeps requesting more is left to the next run.
    pub(super) fn drop_pending(&mut self, io: &mut dyn Commands) {
        for _ in 0..DROP_ROUNDS {
            self.drop_pending_once(io);
            if !self.has_pending_work() {
                return;
            }
        }
        log_error!("work dropped at the end of a run keeps requesting more");
    }

    fn has_pending_work(&self) -> bool {
        let records = &self.reactor.records;
        records.tasks.borrow().len() > 0
            || records.jobs.len() > 0
            || records.names.borrow().len() > 0
            || !records.timers.borrow().is_empty()
            || !records.calls.borrow().is_empty()
    }

    fn drop_pending_once(&mut self, io: &mut dyn Commands) {
        self.drop_all_tasks();
        self.give_up_jobs(io);
        self.give_up_lookups(io);
        let timed = self.reactor.records.timers.borrow_mut().take_all();
        drop(timed);
        let calls = std::mem::take(&mut *self.reactor.records.calls.borrow_mut());
        for call in calls {
            self.drop_call(call);
        }
        drop(self.reactor.records.triggers.take());
    }
}
