//! # Processes and pipes
//!
//! A program that runs to its end, and what it wrote, is one call:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::process::{Command, OutputOptions};
//!
//! let sorted = couplet::run_until(|reactor| {
//!     let lines = OutputOptions::default().input("rose\nis\na\nrose\n").limit(1024 * 1024);
//!     reactor.process_output_with(Command::new("sort").arg("-u"), lines)
//!         // Kills it.
//!         .add_timeout(reactor, Duration::from_secs(10))
//! })?;
//! assert!(sorted.end.is_success(), "{}", sorted.end);
//! assert_eq!(sorted.stdout, b"a\nis\nrose\n");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! The input and both outputs flow at the same time, so nothing is stuck on a full pipe. What is beyond
//! the limit kills the program; so does a cancel.
//!
//! ## As it happens
//!
//! A [`ProcessProtocol`](crate::process::ProcessProtocol) is to a child what a
//! [`Protocol`](crate::Protocol) is to a connection:
//!
//! ```
//! use couplet::Reason;
//! use couplet::process::{ChildFd, Command, Process, ProcessEnd, ProcessProtocol};
//!
//! #[derive(Default)]
//! struct Poet {
//!     poem: Vec<u8>,
//!     notes: Vec<u8>,
//! }
//!
//! impl ProcessProtocol for Poet {
//!     fn connection_made(&mut self, process: &Process) {
//!         process.write("rose\n");
//!         process.close_stdin();
//!     }
//!
//!     fn child_data_received(&mut self, _: &Process, child_fd: i32, data: &[u8]) {
//!         match child_fd {
//!             1 => self.poem.extend_from_slice(data),
//!             3 => self.notes.extend_from_slice(data),
//!             _ => {}
//!         }
//!     }
//!
//!     fn child_connection_lost(&mut self, _: &Process, child_fd: i32, reason: &Reason) {
//!         println!("descriptor {child_fd}: {reason}");
//!     }
//!
//!     fn process_ended(&mut self, process: &Process, end: &ProcessEnd) {
//!         assert_eq!(end.code(), Some(3));
//!         assert_eq!((&self.poem[..], &self.notes[..]), (&b"a rose\n"[..], &b"one line\n"[..]));
//!         process.reactor().stop();
//!     }
//! }
//!
//! couplet::run(|reactor| {
//!     let command = Command::new("/bin/sh")
//!         .args(["-c", "read line; echo a $line; echo one line >&3; exit 3"])
//!         .descriptor(3, ChildFd::FromChild);
//!     reactor.spawn_process(Poet::default(), command)?;
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! | callback | when |
//! | --- | --- |
//! | `connection_made` | first, from the turn; a program that can't be started is an error of `spawn_process` |
//! | `child_data_received`, by default `out_received` and `err_received` | the child wrote |
//! | `child_connection_lost` | a pipe is closed: each once, in any order |
//! | `process_exited` | the child has exited; others may still hold its pipes |
//! | `process_ended` | it has exited and all its pipes are closed: last, and once |
//!
//! [`Process::pipe`](crate::process::Process::pipe) is the connection at one of its descriptors, a
//! [`Transport`](crate::Transport) like any other: pause it and the child waits, register a producer for
//! its input, set a cap.
//!
//! ## The end of a child
//!
//! [`signal_process`](crate::process::Process::signal_process) takes names and numbers, and fails once the
//! child has exited, so a signal never reaches another process that has got its number.
//! [`terminate`](crate::process::Process::terminate) asks by SIGTERM and kills after a while:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::process::{Command, ProcessProtocol, ProcessSignal};
//!
//! struct Unheard;
//! impl ProcessProtocol for Unheard {}
//!
//! let end = couplet::run_until(|reactor| {
//!     let sleeper = Command::new("sleep").arg("1000");
//!     let process = reactor.spawn_process(Unheard, sleeper).expect("it is everywhere");
//!     process.terminate(Duration::from_secs(5)).expect("it runs");
//!     process.ended()
//! })?;
//! assert_eq!(end.signal(), Some(ProcessSignal::TERM));
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! A program that starts others of its own is ended with all of them if it leads a process group:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::process::{Command, ProcessProtocol};
//!
//! struct Unheard;
//! impl ProcessProtocol for Unheard {}
//!
//! let end = couplet::run_until(|reactor| {
//!     let both = Command::new("/bin/sh").args(["-c", "sleep 1000 & sleep 1000"]).process_group(0);
//!     let process = reactor.spawn_process(Unheard, both).expect("it is everywhere");
//!     process.terminate_group(Duration::from_secs(5)).expect("it leads a group");
//!     // Fires when its pipes are closed too, which both held.
//!     process.ended()
//! })?;
//! assert!(!end.is_success());
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! No handler for SIGCHLD is installed, and only our own children are waited for: other code of the
//! program may have some too. A child that outlives the run goes on without its pipes; with
//! [`death_signal`](crate::process::Command::death_signal) it does not, on Linux, whatever ends us.
//!
//! A child has the descriptors that its [`Command`](crate::process::Command) says, and no others.
//!
//! ## Terminals
//!
//! With [`terminal`](crate::process::Command::terminal) the child has a terminal of its own, as if a person
//! had started it. What is written to it is typed: `\x03` is Ctrl-C and `\x04` Ctrl-D. It echoes.
//!
//! ```
//! use couplet::process::{Command, WindowSize};
//!
//! let output = couplet::run_until(|reactor| {
//!     let size = WindowSize { rows: 30, columns: 100 };
//!     reactor.process_output(Command::new("stty").arg("size").terminal(size))
//! })?;
//! assert_eq!(output.stdout, b"30 100\r\n");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Programs as peers
//!
//! [`connect_process`](crate::Reactor::connect_process) connects an ordinary protocol to the standard input
//! and output of a program, and so does the endpoint `process:`, wherever one is expected. This is inetd:
//!
//! ```text
//! couplet forward 7000 'process:/usr/bin/tr a-z A-Z'
//! ```
//!
//! Its standard error is ours, unless `stderr=stdout` or `stderr=null` is said.
//!
//! The program and the connection end together. A program that has exited ends its connection, with all
//! that it has written. When the connection is lost, the program's input is closed; its process group gets
//! SIGTERM, at once if the connection was aborted or broke off, and SIGKILL five seconds later, or after
//! `kill=SECONDS`. The end of a run waits for it. `keep=yes` leaves it alone. In the program these are
//! [`connect_process_with`](crate::Reactor::connect_process_with) and
//! [`WhenLost`](crate::process::WhenLost); [`Process::of`](crate::process::Process::of) is the program at
//! the other end of a connection.
//!
//! ## In the simulator
//!
//! A program that starts others can be tested in a simulated world, where [`Sim::program`] says what these
//! do. Each is a host that shares its parent's fate: it dies with it, whatever the weather.
//!
//! [`Sim::program`]: crate::sim::Sim::program
//!
//! ## Serial lines
//!
//! `serial:/dev/ttyUSB0:speed=115200` is whatever is at the other end of that line: raw, 8 bits, no parity,
//! 1 stop bit and no flow control, unless `bits=`, `parity=`, `stop=` and `flow=` say otherwise. The device
//! has its settings back when the connection ends.
//!
//! ```text
//! couplet connect serial:/dev/ttyUSB0:speed=115200
//! couplet forward 7000 serial:/dev/ttyS0:parity=even:bits=7
//! ```
//!
//! Without a string it is a pipe: [`Pipe::serial`](crate::driver::Pipe::serial), with
//! [`SerialOptions`](crate::driver::SerialOptions). A line has no end of stream: messages need a framer, and
//! an answer that may not come a timeout.
//!
//! ## Pipes, terminals and files of your own
//!
//! [`adopt_pipe`](crate::Reactor::adopt_pipe) takes descriptors that are no sockets: one that is read, one
//! that is written, or both. [`Pipe::stdio`](crate::driver::Pipe::stdio) is standard input and output, also
//! where these are a file. As endpoints to connect to: `stdio:` and `fd:N`.
//!
//! ```
//! use couplet::driver::Pipe;
//! use couplet::{Protocol, Transport};
//!
//! struct Echo;
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! #   fn connection_lost(&mut self, transport: &Transport, _: &couplet::Reason) {
//! #       transport.reactor().stop();
//! #   }
//! }
//!
//! couplet::run(|reactor| {
//! #   let null = std::fs::File::open("/dev/null")?;
//! #   let input: std::os::fd::OwnedFd = null.into();
//! #   let stdio = Pipe::reader(input);
//! #   #[cfg(any())]
//!     let stdio = Pipe::stdio()?;
//!     reactor.adopt_pipe(stdio, || Echo)?.detach();
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
