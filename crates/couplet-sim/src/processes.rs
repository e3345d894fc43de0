//! Child processes of simulated programs: [`Sim::program`], and the simulated side of
//! [`Reactor::spawn_process`].
//!
//! Contract: 154c.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use couplet_core::Address;
use couplet_core::defer::Result;
use couplet_core::driver::{Adopted, Command, Spawned};
use couplet_core::hooks::{WorldProcess, simulator};
use couplet_core::process::{ProcessEnd, ProcessSignal};
use couplet_core::reactor::Reactor;

use super::detached;
use super::driver::System;
use super::kernel::{ChildOutcome, EndId};
use super::world::Sim;

/// The `main` function of a simulated program.
pub(super) type Main = Rc<dyn Fn(&Program) -> Result<()>>;

/// A running child process in the simulation; see [`Sim::program`].
pub struct Program {
    reactor: Reactor,
    args: Vec<String>,
    outcome: Rc<ChildOutcome>,
}

impl Program {
    /// The reactor of the program's loop.
    pub fn reactor(&self) -> &Reactor {
        &self.reactor
    }

    /// The arguments, without the program name.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// Stops the loop, and exits with this code once the loop has ended. Without this call the
    /// program exits with 0, or with 1 if its function or its run returns an error.
    pub fn exit(&self, code: i32) {
        self.outcome.code.set(code);
        self.reactor.stop();
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("args", &self.args).finish_non_exhaustive()
    }
}

impl Sim {
    /// Registers a program that hosts' programs can start by this name, or by a path that ends with
    /// it: with [`Reactor::spawn_process`], [`process_output`](Reactor::process_output) or the
    /// endpoint `process:`. The child's standard input and output are the endpoint `stdio:`; its
    /// standard error is `fd:2`, if the command has a pipe for it.
    ///
    /// Each process is a separate host on its parent's machine: bytes between the two take no time,
    /// and crashes, pauses, partitions and clock changes hit both. A process dies when the parent's
    /// program ends, for any reason. SIGTERM and SIGINT stop its loop, and SIGKILL, SIGHUP and
    /// SIGQUIT kill it; other signals are errors. Users, directories, limits and the like have no
    /// effect, and terminals and other descriptors are refused. Standard input and output are one
    /// pipe: closing the output closes both. Bytes written after the reader has closed are dropped
    /// without an error.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use couplet::process::{Command, OutputOptions};
    /// use couplet::sim::Sim;
    /// use couplet::{Protocol, Reason, Transport};
    ///
    /// struct Shout;
    /// impl Protocol for Shout {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data.to_ascii_uppercase());
    ///     }
    ///     fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
    ///         transport.reactor().stop();
    ///     }
    /// }
    ///
    /// let mut sim = Sim::new(1);
    /// sim.program("shout", |program| {
    ///     program.reactor().connect("stdio:", || Shout).detach();
    ///     Ok(())
    /// });
    /// let notes = sim.notes();
    /// sim.host("server", move |reactor| {
    ///     let poem = OutputOptions::default().input("Rose is a rose");
    ///     let output = reactor.process_output((Command::new("/usr/bin/shout"), poem));
    ///     let notes = notes.clone();
    ///     output.map(move |output| notes.note(String::from_utf8_lossy(&output.stdout))).detach();
    ///     Ok(())
    /// });
    /// sim.keep_trace();
    /// sim.run_for(Duration::from_secs(1))?;
    /// assert!(sim.trace().contains("ROSE IS A ROSE"));
    /// sim.finish()?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn program(&mut self, name: &str, program: impl Fn(&Program) -> Result<()> + 'static) {
        self.kernel.borrow_mut().programs.insert(name.to_owned(), Rc::new(program));
    }

    /// The main function of a child process's host.
    pub(super) fn main_of(&self, host: u32) -> Option<impl Fn(&Reactor) -> Result<()> + 'static> {
        let kernel = self.kernel.borrow();
        let child = kernel.hosts[host as usize].child.as_ref()?;
        let (main, args, outcome) = (child.main.clone(), child.args.clone(), child.outcome.clone());
        Some(move |reactor: &Reactor| {
            let (reactor, args, outcome) = (reactor.clone(), args.clone(), outcome.clone());
            main(&Program { reactor, args, outcome })
        })
    }

    /// Records the exit of a process whose program ended without being killed.
    pub(super) fn note_exit(&self, host: u32, is_well: bool) {
        let outcome = self.kernel.borrow().child_outcome(host);
        if let Some(outcome) = outcome {
            let code = outcome.code.get();
            outcome.record_end(ProcessEnd::Exited(if is_well { code } else { code.max(1) }));
        }
    }
}

fn adopted(system: &System, end: EndId, name: &Address) -> Adopted {
    detached::adopted(system, end, name.clone(), name.clone())
}

/// Starts a program as a child of this system's program.
pub(super) fn spawn(system: &System, command: &Command) -> io::Result<Spawned> {
    let (arguments, has_stderr) = simulator::arguments_and_pipes(command)?;
    let name = Address::Pipe(format!("process:{command}").into());
    let program = command.program().to_string_lossy();
    let setup = (arguments, has_stderr);
    let added = system.running()?.add_child(system.host, &program, setup, &name);
    let (host, stdio, stderr) = added?;
    let mut pipes = vec![(1, adopted(system, stdio, &name))];
    pipes.extend(stderr.map(|end| (2, adopted(system, end, &name))));
    let outcome = system.kernel.borrow().child_outcome(host).expect("it was just added");
    let child = Simulated { system: system.clone(), host, outcome };
    Ok(simulator::spawned(pipes, child))
}

/// A standard descriptor of this system's program; 0 and 1 are the same pipe.
pub(super) fn inherited(system: &System, number: i32) -> io::Result<Adopted> {
    let mut kernel = system.running()?;
    let child = kernel.hosts[system.host as usize].child.as_mut();
    let end = child.and_then(|child| match number {
        0 | 1 => child.stdio.take(),
        2 => child.stderr.take(),
        _ => None,
    });
    let missing = "this simulated program has no such descriptor, or has already taken it";
    let end = end.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing))?;
    drop(kernel);
    let name = if number == 2 { "fd:2" } else { "stdio:" };
    Ok(adopted(system, end, &Address::Pipe(name.into())))
}

/// A child process, as seen by its parent's program.
struct Simulated {
    /// The parent's system.
    system: System,
    host: u32,
    outcome: Rc<ChildOutcome>,
}

impl WorldProcess for Simulated {
    fn pid(&self) -> u32 {
        self.host + 1
    }

    fn signal(&self, signal: ProcessSignal) -> io::Result<()> {
        self.system.running()?.signal_child(self.host, signal)
    }

    fn poll_end(&self, context: &mut Context<'_>) -> Poll<ProcessEnd> {
        match &*self.outcome.end.borrow() {
            Some(end) => Poll::Ready(end.clone()),
            None => {
                *self.outcome.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn has_parent(&self) -> bool {
        self.system.running().is_ok()
    }
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("host", &self.host).finish_non_exhaustive()
    }
}
