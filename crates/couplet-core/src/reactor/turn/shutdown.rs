//! The end of a run, in order: `Before` triggers, ports and connections, `During` and `After`
//! triggers.
//!
//! Twisted's system event triggers and `disconnectAll`.
//!
//! Contract: 31, 97, 99–102, 105, 105c, 125a, 145c.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::core::Core;
use super::table::Resource;
use crate::backlog::Backlog;
use crate::driver::{Commands, Signal, UserCall};
use crate::error::ConnectError;
use crate::panics::contain;
use crate::reactor::options::Drain;
use crate::reactor::records::pending;
use crate::reactor::snapshot::Snapshot;
use crate::reactor::stage::{RunStage, Shutdown, Trigger};
use crate::recorder::Reactor;
use crate::transport::connection::Life;

/// Maximum number of rounds in which dropped work may request more.
const DROP_ROUNDS: usize = 100;

/// Calls a trigger, and counts it in `unfired` until its Deferred fires, which may happen outside a
/// turn.
fn call_trigger(reactor: &Reactor, trigger: Trigger, unfired: &Rc<Cell<usize>>) {
    let (weak, fired) = (reactor.downgrade(), unfired.clone());
    contain("shutdown trigger", || {
        let deferred = trigger();
        unfired.set(unfired.get() + 1);
        deferred
            .add_both(move |result| {
                fired.set(fired.get() - 1);
                if let Some(reactor) = weak.upgrade() {
                    reactor.records().trigger_fired();
                }
                result
            })
            .detach();
    });
}

/// Prints a snapshot to stderr, which is the default.
pub(super) fn print_snapshot(snapshot: &Snapshot) {
    Backlog::stderr().push(snapshot.to_string());
}

impl Core {
    /// Handles a signal.
    #[inline(never)]
    pub(super) fn signal_received(&mut self, io: &dyn Commands, signal: Signal) {
        let _hold = self.records.hold("signal");
        let reactor = self.reactor.clone();
        if self.hooks.signal(&reactor, signal) {
            return;
        }
        if signal == Signal::User1 {
            return self.show_snapshot(io);
        }
        tracing::info!(?signal, "stop requested by a signal");
        if let Some(drain) = self.records.run.stopped_by_signal(signal) {
            self.drain_first(drain);
        }
        self.reactor.stop();
    }

    /// Makes the stop of a SIGTERM wait for a drain.
    fn drain_first(&mut self, drain: Drain) {
        let reactor = self.reactor.clone();
        let trigger = move || reactor.drain(drain).map(drop);
        let run = &self.records.run;
        if run.stage() == RunStage::Before {
            // A stop already waits for other triggers.
            call_trigger(&self.reactor, Box::new(trigger), &run.unfired());
        } else {
            self.reactor.on(Shutdown::Before, trigger);
        }
    }

    fn show_snapshot(&mut self, io: &dyn Commands) {
        let snapshot = self.snapshot(io);
        self.hooks.show(&snapshot);
    }

    /// Begins or continues a shutdown at the end of a turn. Returns true while the run continues.
    pub(super) fn advance_shutdown(&mut self, io: &mut dyn Commands) -> bool {
        // A second stop has no effect, and must not stay pending.
        let is_requested = self.records.take_pending(pending::STOP);
        loop {
            let (now, records) = (self.reactor.now(), &self.records);
            if records.run.must_end_now() {
                self.finish_run(io);
                return false;
            }
            match records.run.stage() {
                RunStage::Running if is_requested => {
                    let unfired = records.run.begin_before();
                    self.fire(Shutdown::Before, &unfired);
                }
                RunStage::Before if records.run.before_is_over() => self.begin_closing(io),
                RunStage::Closing(until) if now >= until || self.table.connections() == 0 => {
                    self.cut_connections(io);
                    self.records.run.begin_joining(now);
                }
                RunStage::Joining(until) => {
                    let has_jobs = now < until && records.jobs.len() > 0;
                    if has_jobs || records.dependents.borrow().len() > 0 {
                        return true;
                    }
                    self.finish_run(io);
                    return false;
                }
                _ => return true,
            }
        }
    }

    /// Calls the triggers, and counts those whose Deferred has not fired in `unfired`.
    pub(super) fn fire(&mut self, when: Shutdown, unfired: &Rc<Cell<usize>>) {
        for (place, trigger) in self.records.run.take_triggers(when) {
            let doing = || UserCall::at("shutdown trigger", place);
            let _hold = self.records.hold_for(doing);
            call_trigger(&self.reactor, trigger, unfired);
        }
    }

    fn begin_closing(&mut self, io: &mut dyn Commands) {
        self.note_cut_off();
        self.records.run.begin_closing(self.reactor.now());
        self.close_ports_and_connectors(io);
        self.ask_to_finish(io);
        for key in self.table.keys(|place| matches!(place, Resource::Connection(_))) {
            self.set_drain_outcome(key, Life::shuts_down_by_reset);
            self.with_life(io, key, Life::stop);
            self.send(io, key);
        }
        self.round(io);
    }

    /// Asks all connections to finish, as a drain without any time does: their protocols, and tasks
    /// that wait for this, may still write.
    fn ask_to_finish(&mut self, io: &mut dyn Commands) {
        for key in self.table.keys(|place| matches!(place, Resource::Connection(_))) {
            self.with_life(io, key, |life, _| life.drain(Duration::ZERO));
        }
        self.round(io);
        self.run_tasks();
    }

    fn close_ports_and_connectors(&mut self, io: &mut dyn Commands) {
        for key in self.table.keys(|place| matches!(place, Resource::Port(_))) {
            self.close_port(io, key);
        }
        for key in self.table.keys(|place| matches!(place, Resource::Datagrams(_))) {
            self.close_datagrams(io, key);
        }
        let connecting: Vec<_> = self.connecting.connectors().cloned().collect();
        for connector in connecting {
            self.connect_failed(io, &connector, ConnectError::Shutdown);
        }
    }

    fn cut_connections(&mut self, io: &mut dyn Commands) {
        self.close_ports_and_connectors(io);
        for key in self.table.keys(|place| matches!(place, Resource::Connection(_))) {
            self.set_drain_outcome(key, Life::is_cut_by_reset);
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
        self.records.run.begin_ending();
        self.cut_connections(io);
        self.refuse_starts(io);
        self.round(io);
        self.run_last_tasks(io);
        self.give_up_jobs(io);
        self.give_up_lookups(io);
        self.kill_dependents();
        #[cfg(unix)]
        self.end_watches();
        for when in [Shutdown::During, Shutdown::After] {
            self.fire(when, &Rc::default());
        }
        self.refuse_starts(io);
        self.round(io);
        self.drop_pending(io);
        // Dependents that a trigger has started.
        self.kill_dependents();
        self.records.take_pending(pending::STOP);
        self.records.run.end();
        if self.suspended.take().is_some() {
            self.records.queue.end_turn();
        }
    }

    /// Runs the tasks that await lost objects: as in callbacks, they see the loss, and their new
    /// requests are refused. A task that keeps requesting is dropped.
    fn run_last_tasks(&mut self, io: &mut dyn Commands) {
        for _ in 0..DROP_ROUNDS {
            self.run_tasks();
            if self.records.recorded_starts() == 0 {
                return;
            }
            self.refuse_starts(io);
            self.round(io);
        }
    }

    /// Refuses the requested ports and connectors that have not started.
    fn refuse_starts(&mut self, io: &mut dyn Commands) {
        let starts = self.records.take_starts();
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
        let records = &self.records;
        records.tasks.borrow().len() > 0
            || records.jobs.len() > 0
            || records.names.borrow().len() > 0
            || !records.timers.borrow().is_empty()
            || records.queued_calls() > 0
            || records.has_calls_at_end()
    }

    fn drop_pending_once(&mut self, io: &mut dyn Commands) {
        self.drop_all_tasks();
        self.give_up_jobs(io);
        self.give_up_lookups(io);
        let timed = self.records.timers.borrow_mut().take_all();
        drop(timed);
        for call in self.records.take_calls() {
            self.drop_call(call);
        }
        self.records.make_calls_at_end();
        for when in [Shutdown::Before, Shutdown::During, Shutdown::After] {
            drop(self.records.run.take_triggers(when));
        }
    }
}
