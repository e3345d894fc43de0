//! Calls from other threads, watches and dependents, in the turn.
//!
//! Contract: 96, 106.

use super::core::Core;
use crate::driver::{Commands, UserCall};
#[cfg(unix)]
use crate::driver::{Ready, WatchId};
use crate::panics::contain;
use crate::reactor::tasks::RemoteCall;
use crate::transport::{ConnectionId, Tell};

impl Core {
    /// Runs the queued calls from other threads.
    pub(super) fn run_remote_calls(&mut self, io: &mut dyn Commands) {
        let calls = self.records.queue.inbox.take_calls();
        if let Some(ring) = self.records.ring() {
            ring.woken(calls.len());
        }
        for call in calls {
            match call {
                RemoteCall::Run(place, f) => {
                    let reactor = self.reactor.clone();
                    let doing = || UserCall::at("call from another thread", place);
                    let _hold = reactor.records().hold_for(doing);
                    contain("call from another thread", || f(&reactor));
                }
                RemoteCall::Signal(signal) => self.signal_received(io, signal),
                RemoteCall::Tell(place, id, tell) => {
                    let doing = || UserCall::at("tell from another thread", place);
                    let _hold = self.records.hold_for(doing);
                    self.run_remote_tell(io, id, tell);
                }
            }
        }
    }

    fn run_remote_tell(&mut self, io: &mut dyn Commands, id: ConnectionId, tell: Box<dyn Tell>) {
        if id.reactor != self.reactor.serial() {
            log_error!(connection = %id, "cannot run a tell: the connection belongs to another loop");
        } else if self.table.connection(id.key).is_some() {
            self.with_life(io, id.key, |life, now| life.tell(tell, now));
        }
    }

    /// Calls the callback of a ready descriptor.
    #[cfg(unix)]
    pub(super) fn watch_ready(&mut self, id: WatchId, ready: Ready) {
        let records = &self.records;
        let cell = records.watches.borrow().get(id);
        let Some(cell) = cell else { return };
        let _hold = records.hold_for(|| UserCall::at("watch", cell.place()));
        if !cell.ready(&*records.world, ready) {
            records.watches.borrow_mut().remove(id);
        }
    }

    /// The run is over: ends all watches.
    #[cfg(unix)]
    pub(super) fn end_watches(&mut self) {
        let records = &self.records;
        let cells = records.watches.borrow_mut().take_all();
        for cell in cells {
            cell.end(&*records.world);
        }
    }

    /// Kills the programs that have not exited.
    pub(super) fn kill_dependents(&self) {
        let running = self.records.dependents.borrow_mut().take_all();
        for dependent in running {
            contain("the end of a program", || dependent.kill());
        }
    }
}
