//! Child processes of simulated programs. A child is a separate host on its parent's machine:
//! faults of the parent hit the child too, and it does not outlive the parent's program.
//!
//! Contract: 145c, 154c.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use couplet_core::Address;
use couplet_core::driver::Signal;
use couplet_core::process::{ProcessEnd, ProcessSignal};

use super::hosts::{Extent, no_descriptors};
use super::{EndId, Kernel, SimEvent, WorldAction};
use crate::processes::Main;

/// Delay between the spawn call and the start of the child, in nanoseconds.
const BIRTH: u64 = 1_000_000;

/// State that only a child's host has.
pub(crate) struct Child {
    pub(crate) main: Main,
    pub(crate) args: Vec<String>,
    pub(crate) outcome: Rc<ChildOutcome>,
    /// The child's ends of its stdio and stderr pipes, until its program takes them.
    pub(crate) stdio: Option<EndId>,
    pub(crate) stderr: Option<EndId>,
}

/// The outcome of a child, shared with its parent's program.
pub(crate) struct ChildOutcome {
    /// The exit code, if the program ends without being killed.
    pub(crate) code: Cell<i32>,
    /// The signal that kills it.
    killer: Cell<ProcessSignal>,
    pub(crate) end: RefCell<Option<ProcessEnd>>,
    /// Waker of the parent's task that waits for the end.
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Default for ChildOutcome {
    fn default() -> ChildOutcome {
        ChildOutcome {
            code: Cell::new(0),
            killer: Cell::new(ProcessSignal::KILL),
            end: RefCell::default(),
            waker: RefCell::default(),
        }
    }
}

impl ChildOutcome {
    /// Records the end and wakes the parent. Only the first end counts.
    pub(crate) fn record_end(&self, end: ProcessEnd) {
        self.end.borrow_mut().get_or_insert(end);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Kernel {
    /// Starts the program of this name as a child. Returns its host, and the parent's ends of its
    /// stdio pipe and, if it has one, of its stderr pipe.
    pub(crate) fn add_child(
        &mut self,
        parent: u32,
        program: &str,
        (args, has_stderr): (Vec<String>, bool),
        pipe: &Address,
    ) -> io::Result<(u32, EndId, Option<EndId>)> {
        let name = program.rsplit('/').next().unwrap_or(program);
        let Some(main) = self.programs.get(name).cloned() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if !self.has_descriptors(parent) {
            return Err(no_descriptors());
        }
        let name = format!("{}/{name}#{}", self.hosts[parent as usize].name, self.hosts.len());
        let host = self.add_host(&name);
        let (machine, ahead, behind) = {
            let parent = &self.hosts[parent as usize];
            (parent.machine, parent.ahead, parent.behind)
        };
        let state = self.host(host);
        (state.machine, state.ahead, state.behind) = (machine, ahead, behind);
        let stdio = self.open_pipe(parent, host, pipe);
        let stderr = has_stderr.then(|| self.open_pipe(parent, host, pipe));
        self.host(host).child = Some(Child {
            main,
            args,
            outcome: Rc::default(),
            stdio: Some(stdio.other()),
            stderr: stderr.map(EndId::other),
        });
        self.host(parent).children.push(host);
        self.new_children.push(host);
        self.after(BIRTH, SimEvent::StartChild(host));
        Ok((host, stdio, stderr))
    }

    /// Starts a child's program, unless the child was killed before. A pause delays the start.
    pub(super) fn start_child(&mut self, host: u32) -> WorldAction {
        let is_alive =
            self.child_outcome(host).is_some_and(|outcome| outcome.end.borrow().is_none());
        let is_paused = self.hosts[host as usize].paused > 0;
        if is_alive && is_paused {
            self.after(BIRTH, SimEvent::StartChild(host));
        }
        if is_alive && !is_paused { WorldAction::StartProgram(host) } else { WorldAction::Nothing }
    }

    pub(crate) fn child_outcome(&self, host: u32) -> Option<Rc<ChildOutcome>> {
        self.hosts[host as usize].child.as_ref().map(|child| child.outcome.clone())
    }

    /// Delivers a signal to a child. The loop of a running child handles SIGTERM and SIGINT. Before
    /// the child runs, these kill it, as SIGHUP, SIGQUIT and SIGKILL always do. Other signals are
    /// errors.
    pub(crate) fn signal_child(&mut self, host: u32, signal: ProcessSignal) -> io::Result<()> {
        let Some(outcome) = self.child_outcome(host) else { return Ok(()) };
        let handled = match signal {
            ProcessSignal::TERM => Some(Signal::Terminate),
            ProcessSignal::INT => Some(Signal::Interrupt),
            ProcessSignal::KILL | ProcessSignal::HUP | ProcessSignal::QUIT => None,
            other => {
                let text = format!("simulated processes do not support {other}");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        match handled.filter(|_| self.hosts[host as usize].is_running()) {
            Some(signal) => self.signal(host, signal),
            None => {
                outcome.killer.set(signal);
                self.after(0, SimEvent::KillChild(host, Extent::Program));
            }
        }
        Ok(())
    }

    /// Kills a child, by a signal, with its parent, or with the whole machine.
    pub(super) fn kill_child(&mut self, host: u32, extent: Extent) -> WorldAction {
        match self.end_program(host, extent) {
            // The program has not started, or has already ended.
            WorldAction::Nothing => {
                let jobs = self.close_all(host, extent);
                WorldAction::DropProgram(host, jobs)
            }
            due => due,
        }
    }

    /// The program of this host has ended: its children die with it and, if it is itself a child,
    /// its end is recorded.
    pub(super) fn kill_children(&mut self, host: u32, extent: Extent) {
        if let Some(outcome) = self.child_outcome(host) {
            let signal = outcome.killer.get();
            outcome.record_end(ProcessEnd::Signaled { signal, core_dumped: false });
        }
        let mut orphans = std::mem::take(&mut self.host(host).children);
        orphans.retain(|child| {
            self.child_outcome(*child).is_some_and(|outcome| outcome.end.borrow().is_none())
        });
        self.host(host).children.clone_from(&orphans);
        for orphan in orphans {
            self.after(0, SimEvent::KillChild(orphan, extent));
        }
    }
}
