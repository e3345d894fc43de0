//! Child processes of simulated programs. A child is a host beside its parent's, on the same
//! machine: faults of the parent hit the child too, and it does not outlive the parent's program.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::Waker;

use super::hosts::no_descriptors;
use super::{Due, EndId, Happening, Kernel};
use crate::address::Address;
use crate::driver::Signal;
use crate::driver::process::{ProcessEnd, ProcessSignal};
use crate::sim::processes::Main;

/// Delay between the spawn call and the start of the child, in nanoseconds.
const BIRTH: u64 = 1_000_000;

/// State that only a child's host has.
pub(in crate::sim) struct Child {
    pub(in crate::sim) parent: u32,
    pub(in crate::sim) main: Main,
    pub(in crate::sim) args: Vec<String>,
    pub(in crate::sim) fate: Rc<Fate>,
    /// The child's ends of its stdio and stderr pipes, until its program takes them.
    pub(in crate::sim) stdio: Option<EndId>,
    pub(in crate::sim) stderr: Option<EndId>,
}

/// The outcome of a child, shared with its parent's program.
pub(in crate::sim) struct Fate {
    /// The exit code, if the program ends without being killed.
    pub(in crate::sim) code: Cell<i32>,
    /// The signal that kills it.
    killer: Cell<ProcessSignal>,
    pub(in crate::sim) end: RefCell<Option<ProcessEnd>>,
    /// Waker of the parent's task that waits for the end.
    pub(in crate::sim) waker: RefCell<Option<Waker>>,
}

impl Default for Fate {
    fn default() -> Fate {
        Fate {
            code: Cell::new(0),
            killer: Cell::new(ProcessSignal::KILL),
            end: RefCell::default(),
            waker: RefCell::default(),
        }
    }
}

impl Fate {
    /// Records the end and wakes the parent. Only the first end counts.
    pub(in crate::sim) fn is(&self, end: ProcessEnd) {
        self.end.borrow_mut().get_or_insert(end);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Kernel {
    /// Starts the program of this name as a child. Returns its host, and the parent's ends of its
    /// stdio pipe and, if it has one, of its stderr pipe.
    pub(in crate::sim) fn add_child(
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
        let stdio = self.join(parent, host, pipe);
        let stderr = has_stderr.then(|| self.join(parent, host, pipe));
        self.host(host).child = Some(Child {
            parent,
            main,
            args,
            fate: Rc::default(),
            stdio: Some(stdio.other()),
            stderr: stderr.map(EndId::other),
        });
        self.born.push(host);
        self.after(BIRTH, Happening::Born(host));
        Ok((host, stdio, stderr))
    }

    /// Starts a child's program, unless the child was killed before.
    pub(super) fn born(&mut self, host: u32) -> Due {
        let is_alive = self.fate(host).is_some_and(|fate| fate.end.borrow().is_none());
        if is_alive { Due::Up(host) } else { Due::Nothing }
    }

    pub(in crate::sim) fn fate(&self, host: u32) -> Option<Rc<Fate>> {
        self.hosts[host as usize].child.as_ref().map(|child| child.fate.clone())
    }

    /// Delivers a signal to a child. The loop of a running child handles SIGTERM and SIGINT. Before
    /// the child runs, these kill it, as SIGHUP, SIGQUIT and SIGKILL always do. Other signals are
    /// errors.
    pub(in crate::sim) fn signal_child(
        &mut self,
        host: u32,
        signal: ProcessSignal,
    ) -> io::Result<()> {
        let Some(fate) = self.fate(host) else { return Ok(()) };
        let handled = match signal {
            ProcessSignal::TERM => Some(Signal::Terminate),
            ProcessSignal::INT => Some(Signal::Interrupt),
            ProcessSignal::KILL | ProcessSignal::HUP | ProcessSignal::QUIT => None,
            other => {
                let text = format!("no simulated process takes {other}");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        match handled.filter(|_| self.hosts[host as usize].runs) {
            Some(signal) => self.signal(host, signal),
            None => {
                fate.killer.set(signal);
                self.after(0, Happening::Dies(host, false));
            }
        }
        Ok(())
    }

    /// Kills a child, by a signal or with its parent. With `power` the whole machine is off.
    pub(super) fn dies(&mut self, host: u32, power: bool) -> Due {
        match self.goes_down(host, power) {
            // The program has not started, or has already ended.
            Due::Nothing => {
                let jobs = self.close_all(host, power);
                Due::Down(host, jobs)
            }
            due => due,
        }
    }

    /// The program of this host has ended: its children die with it and, if it is itself a child,
    /// its end is recorded.
    pub(super) fn end_family(&mut self, host: u32, power: bool) {
        if let Some(fate) = self.fate(host) {
            let signal = fate.killer.get();
            fate.is(ProcessEnd::Signaled { signal, core_dumped: false });
        }
        let is_orphan = |child: &Child| child.parent == host && child.fate.end.borrow().is_none();
        let orphans = self.hosts.iter().enumerate();
        let orphans = orphans.filter(|(_, state)| state.child.as_ref().is_some_and(is_orphan));
        let orphans: Vec<u32> = orphans.map(|(index, _)| index as u32).collect();
        for orphan in orphans {
            self.after(0, Happening::Dies(orphan, power));
        }
    }
}
