//! Runs programs made of [couplet](https://docs.rs/couplet)'s services: their configuration, logs, process,
//! and signals. Twisted's `twistd`.
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use couplet::services::{Child, StreamServerService};
//! use couplet::{Protocol, Transport};
//! use couplet_runner::{Listen, Runner};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Config {
//!     listen: Listen,
//! }
//!
//! struct Echo;
//!
//! impl Protocol for Echo {
//!     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
//!         transport.write(data);
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     Runner::new("echo")
//!         .service(|config: Config, _reactor| {
//!             Ok(Child::new(StreamServerService::new("echo", config.listen, || Echo)?))
//!         })
//!         .main()
//! }
//! ```
//!
//! With a file `echo.toml` that contains `listen = "tcp:8000"`, `echo --config echo.toml` serves
//! until SIGTERM. `echo --config echo.toml --check` reads and builds everything and opens nothing, and `echo --help` lists the
//! other options. A key that is misspelt is an error that shows the place and the likely meaning:
//!
//! ```text
//! echo: echo.toml:1:1: unknown key lisen; did you mean listen?
//!   | lisen = "tcp:8000"
//!   | ^^^^^
//! ```
//!
//! # The configuration
//!
//! A [service](Runner::service) reads the whole file, as any type of serde. Two tables are read by
//! the runner: `[runner]`, with the [options](Options) of the command line under the same names, and
//! `[supervisor]`:
//!
//! | key | meaning | default |
//! | --- | --- | --- |
//! | `strategy` | `"one-for-one"`, `"one-for-all"` or `"rest-for-one"` | `"one-for-one"` |
//! | `restarts`, `within` | number of restarts that are allowed, and the seconds within which they count | 1, 5 |
//! | `back-off`, `most-back-off` | seconds before a first restart, and at most | 0.1, 30 |
//! | `not-ready-for` | seconds for which a program that ends serves as before, but isn't ready | 0 |
//! | `drain` | seconds for which connections may finish when the program ends | 5 |
//! | `drain-groups`, `drain-over` | groups in which connections are asked to finish, and seconds over which the groups are spread | 1, 0 |
//! | `read-within` | seconds for a reload to read the configuration and other files | 10 |
//! | `restart-within` | seconds for a new process of the program to start | 60 |
//! | `restart-drain` | seconds for which connections of the process before may finish | 600 |
//! | `generations` | processes of the program that may run at the same time | 4 |
//!
//! Endpoints such as `tls:8443:cert=server.pem` need the feature `tls` of couplet, which is on unless a
//! program turns it off.
//!
//! A program with [kinds](Runner::kind) of services reads a table for each service instead, such as
//! `[services.front]` with `kind = "echo"`.
//!
//! A service of datagrams has a [`ListenUdp`]:
//!
//! ```no_run
//! use couplet::services::{Child, DatagramService};
//! use couplet::{Datagram, DatagramOptions, DatagramTransport};
//! use couplet_runner::{ListenUdp, Runner};
//! use serde::Deserialize;
//!
//! #[derive(Deserialize)]
//! struct Config {
//!     listen: ListenUdp,
//! }
//!
//! fn echo(transport: &DatagramTransport, datagram: &Datagram<'_>) {
//!     transport.answer(datagram, datagram.data).ok();
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     Runner::new("echo")
//!         .service(|config: Config, _reactor| {
//!             Ok(Child::new(DatagramService::opening("echo", move |reactor| {
//!                 config.listen.listen(reactor, DatagramOptions::default(), echo)
//!             })))
//!         })
//!         .main()
//! }
//! ```
//!
//! # The process
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGTERM, SIGINT | ends the program; a second one ends it immediately |
//! | SIGHUP | opens the log file again, and reloads the configuration |
//! | SIGUSR1 | logs a snapshot of all loops |
//! | SIGUSR2 | [restarts](#restarts) the program |
//!
//! # The log
//!
//! Warnings and errors go to stderr, or are appended to `--log-file`; as lines, or with `--log json` as
//! a line of JSON each. `-v` adds important events, `-vv` a line for each connection. Of the warnings
//! and errors from one place in the program, 20 are logged within ten seconds (`--log-repeats`); the
//! others are counted, and the count is logged. Loops queue lines for a slow reader, at most
//! `--log-buffer` bytes; further ones are lost and counted. `--log-level couplet::access=debug` logs a line for each
//! connection and each HTTP request that ends. The guide lists all events.
//!
//! # Health and metrics
//!
//! With `--health ENDPOINT`, `/readyz` answers 200 while clients can be served, and 503 while the
//! program starts or stops, or a permanent service does not run. `/healthz` answers 503 only after
//! the supervisor has given up, or while a service has failed. `--metrics ENDPOINT` serves both, and
//! `/metrics` in the text of OpenMetrics:
//!
//! | metric | meaning |
//! | --- | --- |
//! | `couplet_ready`, `couplet_service_ready{service}` | 1 while clients can be served |
//! | `couplet_service_restarts_total{service}` | restarts |
//! | `couplet_connections{port,state}` | open connections; `outgoing` instead of a port for client connections |
//! | `couplet_connections_ended_total{reason}` | by the variant of `Reason` |
//! | `couplet_connection_bytes_total{direction}` | bytes of all connections, `in` and `out` |
//! | `couplet_buffered_bytes` | written, but not sent |
//! | `couplet_accepted_total{port}`, `couplet_not_opened_total{port}` | accepted connections, and those whose handshake failed |
//! | `couplet_rejected_total{port}` | accepted connections that a factory rejected, such as those over `max-connections` of a forwarder |
//! | `couplet_shed_total` | connections that were ended because too much output waited: `--max-buffered` |
//! | `couplet_turned_away_total{port}` | connections closed for want of descriptors |
//! | `couplet_port_paused{port}` | 1 while a port accepts nothing |
//! | `couplet_datagrams_total{port,outcome}` | `received`, `sent`, `dropped` |
//! | `couplet_pending_calls`, `couplet_tasks`, `couplet_jobs`, `couplet_connectors` | pending work |
//! | `couplet_busy_seconds` | histogram: from a wait of the loop to its next wait, which is a turn |
//! | `couplet_callback_seconds` | histogram: a call into the program, such as a callback of a protocol, a timed call or the poll of a task |
//! | `couplet_lateness_seconds` | histogram: how late a timer is, measured each second |
//! | `couplet_unhandled_failures_total` | failures of Deferreds that no errback handled |
//! | `couplet_events_total{level}` | events of the levels `error` and `warn` |
//! | `couplet_log_lines_lost_total{log}` | lines that were lost because the log's reader is too slow |
//!
//! [`Runner::metrics`] adds the program's own metrics.
//!
//! # Threads
//!
//! With `--threads N`, or `threads = N` in `[runner]`, a program has N loops, each in a thread; with `auto`
//! (or 0), one for each processor. Services that [can](Runner::service_in_loops) run in all loops: their
//! clients are spread over them. The others run in the main loop, as with one thread, which is the
//! default. The limits on connections and output are divided among the loops; each has room for at least
//! one connection and one byte. A loop that ends unexpectedly ends the program with a failure.
//!
//! `--driver uring`, or `driver = "uring"` in `[runner]`, gives each loop the driver over io_uring, if
//! the program is built with the library's feature `uring`.
//!
//! # Reloads
//!
//! A reload checks the new configuration as a whole; if it is wrong, nothing changes and the error is
//! logged. Services whose tables have changed are stopped and started, new ones are added, missing
//! ones are removed, and the others notice nothing. The socket of a service that changes stays open, for
//! connections or for datagrams.
//!
//! # Restarts
//!
//! SIGUSR2, or the order `restart`, starts the program's current file as a new process, which gets
//! the sockets of all ports, by their places in the configuration: endpoints that are a [`Listen`], a
//! [`ListenUdp`], or [`placed`], and the runner's own. Once the new services have started, the old
//! process accepts no more, and leaves datagrams to the new one, but can still send.
//! Connections of the kinds that the program takes over, in its [main loop](Runner::takes_over) or in
//! [all](Runner::takes_over_in_loops), move; the others may finish, and then the old process ends. If the
//! new process fails, nothing changes.
//!
//! `--directory`, an absolute path, is entered at each start, reload and restart, wherever a link in it
//! leads by then.
//!
//! Under systemd (`Type=notify-reload`) the program reports that it is ready once all services have
//! started, that it reloads, and that it stops. With `WatchdogSec=`, it reports that all its loops turn.
//!
//! # Crashes
//!
//! If the unit has `FileDescriptorStoreMax=` (systemd 254 or later), connections whose protocols
//! [keep](couplet::hooks::keep) their states survive the death of the process: systemd holds their
//! sockets, two descriptors for each, and passes them to the next process, which
//! [takes them over](Runner::takes_over) once its services serve. Those that the dead process had read
//! from or written to since their last record are reset.
//!
//! Exit codes: 0 after a signal, 1 if a service can't start or the supervisor gives up, 2 for a
//! usage error or a wrong configuration.
//!
//! Built on couplet's public API only, as a program could be (law 8).
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod asking;
mod config;
mod control;
mod directory;
mod exit;
mod files;
mod identity;
mod in_loops;
mod logging;
mod loops;
mod metrics;
mod options;
mod parts;
mod pid_file;
mod places;
mod plan;
mod reload;
mod repeats;
mod restart;
mod runner;
mod running;
mod signals;
mod store;
mod systemd;
mod values;
mod web;
mod workers;

pub use config::unknown;
pub use couplet_command::logging::{levels_of, log_levels, log_panics};
pub use couplet_command::server::{drivers, threads};
pub use loops::{ThisLoop, this_loop};
pub use options::{Arguments, Options};
pub use places::placed;
pub use runner::Runner;
pub use values::{Connect, Listen, ListenUdp, Seconds};
