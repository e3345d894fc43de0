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
//! until SIGTERM. `echo --config echo.toml --check` only checks the file, and `echo --help` lists the
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
//! | `restarts`, `within` | so many restarts are allowed within so many seconds | 1, 5 |
//! | `back-off`, `most-back-off` | seconds before a first restart, and at most | 0.1, 30 |
//! | `not-ready-for` | seconds for which a program that ends serves as before, but isn't ready | 0 |
//! | `drain` | seconds for which connections may finish when the program ends | 5 |
//! | `drain-groups`, `drain-over` | connections are asked to finish in so many groups, over so many seconds | 1, 0 |
//!
//! A program with [kinds](Runner::kind) of services reads a table for each service instead, such as
//! `[services.front]` with `kind = "echo"`.
//!
//! # The process
//!
//! | signal | effect |
//! | --- | --- |
//! | SIGTERM, SIGINT | ends the program; a second one ends it immediately |
//! | SIGHUP | opens the log file again, and reloads the configuration |
//! | SIGUSR1 | logs what is open and waiting |
//!
//! A reload checks the new configuration as a whole; if it is wrong, nothing changes and the error is
//! logged. Services whose tables have changed are stopped and started, new ones are added, missing
//! ones are removed, and the others notice nothing.
//!
//! Under systemd (`Type=notify-reload`) the program reports that it is ready once all services have
//! started, that it reloads, and that it stops. With `WatchdogSec=`, its loop reports that it turns.
//!
//! Exit codes: 0 after a signal, 1 if a service can't start or the supervisor gives up, 2 for a
//! usage error or a wrong configuration.
//!
//! Built on couplet's public API only, as a program could be (law 8).
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_watched;

mod config;
mod control;
mod exit;
mod health;
mod identity;
mod logging;
mod options;
mod pid_file;
mod plan;
mod reload;
mod runner;
mod running;
mod signals;
mod systemd;
mod values;

pub use config::unknown;
pub use options::{Arguments, Options};
pub use runner::Runner;
pub use values::{Connect, Listen, Seconds};
