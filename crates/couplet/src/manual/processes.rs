//! # Processes and pipes
//!
//! One call runs a program to its end and collects its output:
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
//! The input and both outputs flow at the same time, so a full pipe blocks neither side. Output
//! beyond the limit kills the program, and so does a cancel.
//!
//! ## Events as they happen
//!
//! A [`ProcessProtocol`](crate::process::ProcessProtocol) handles the events of a child, as a
//! [`Protocol`](crate::Protocol) does for a connection:
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
//! | `connection_made` | first, in the turn; if the program can't be started, `spawn_process` fails instead |
//! | `child_data_received`, by default `out_received` and `err_received` | the child wrote |
//! | `child_connection_lost` | a pipe is closed: once for each pipe, in any order |
//! | `process_exited` | the child has exited; other processes may still hold its pipes |
//! | `process_ended` | the child has exited and all its pipes are closed: last, and once |
//!
//! [`Process::pipe`](crate::process::Process::pipe) returns the connection at one of the child's
//! descriptors, a [`Transport`](crate::Transport) like any other: pause it to make the child wait,
//! register a producer for the child's input, set a cap.
//!
//! ## The end of a child
//!
//! [`signal_process`](crate::process::Process::signal_process) takes signal names and numbers. It
//! fails once the child has exited, so a signal never reaches another process that has reused the
//! pid. [`terminate`](crate::process::Process::terminate) sends SIGTERM, then SIGKILL after a grace
//! period:
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
//! If a child leads a process group, the programs that it starts can be ended with it:
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
//! Couplet installs no SIGCHLD handler and waits only for its own children, so other code in the
//! program may have children too. A child that outlives the run continues without its pipes. On
//! Linux, [`death_signal`](crate::process::Command::death_signal) ends it with our process, even if
//! that is killed.
//!
//! A child inherits the descriptors that its [`Command`](crate::process::Command) lists, and no
//! others.
//!
//! ## Terminals
//!
//! With [`terminal`](crate::process::Command::terminal) the child gets its own terminal, as in an
//! interactive session. Bytes written to the terminal act as keyboard input: `\x03` is Ctrl-C and
//! `\x04` Ctrl-D. The terminal echoes them.
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
//! [`connect_process`](crate::Reactor::connect_process) connects an ordinary protocol to the
//! standard input and output of a program. So does the endpoint `process:`, anywhere an endpoint is
//! expected. This command replaces inetd:
//!
//! ```text
//! couplet forward 7000 'process:/usr/bin/tr a-z A-Z'
//! ```
//!
//! The program inherits our standard error, unless the endpoint has `stderr=stdout` or
//! `stderr=null`.
//!
//! The program and the connection end together. When the program exits, the connection delivers its
//! remaining output and ends. When the connection closes, the program's input is closed, and the
//! program has five seconds, or `kill=SECONDS`, to exit; then its process group gets SIGTERM, and
//! SIGKILL after the same time again. After an abort or an error SIGTERM comes immediately. The end
//! of a run waits for the program. `keep=yes` leaves it running. In code, use
//! [`connect_process_with`](crate::Reactor::connect_process_with) and
//! [`WhenLost`](crate::process::WhenLost); [`Process::of`](crate::process::Process::of) returns the
//! program at the other end of a connection.
//!
//! ## In the simulator
//!
//! A program that starts others can be tested in a simulated world, where [`Sim::program`] defines
//! the programs that it may start. Each runs as a host that shares its parent's faults, and dies
//! with its parent.
//!
//! [`Sim::program`]: crate::sim::Sim::program
//!
//! ## Serial lines
//!
//! `serial:/dev/ttyUSB0:speed=115200` connects to the device at the other end of that line: raw, 8
//! bits, no parity, 1 stop bit and no flow control, unless changed by `bits=`, `parity=`, `stop=`
//! and `flow=`. The line's former settings are restored when the connection ends.
//!
//! ```text
//! couplet connect serial:/dev/ttyUSB0:speed=115200
//! couplet forward 7000 serial:/dev/ttyS0:parity=even:bits=7
//! ```
//!
//! In code, use [`Pipe::serial`](crate::driver::Pipe::serial) with
//! [`SerialOptions`](crate::driver::SerialOptions). A serial line has no end of stream: use a
//! framer for messages, and a timeout for answers.
//!
//! ## Your own pipes, terminals and files
//!
//! [`adopt_pipe`](crate::Reactor::adopt_pipe) takes over descriptors that are not sockets: one to
//! read, one to write, or both. [`Pipe::stdio`](crate::driver::Pipe::stdio) is standard input and
//! output, which may also be files. The corresponding endpoints, for connects, are `stdio:` and
//! `fd:N`.
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
