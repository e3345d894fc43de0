//! Looks into the loops of a running program: their connections, ports, timed calls, tasks and jobs,
//! each with the reason why it waits, in words. Feature `inspect`.
//!
//! The inspector serves a page, and the same data as JSON, from its own thread: while a callback
//! hangs, the page still answers, and shows the backtrace of that callback. Without a reader, the
//! inspector reads nothing.
//!
//! ```no_run
//! use couplet::inspect::Inspect;
//! use couplet::{Loop, LoopOptions};
//!
//! let mut l = Loop::with_options(LoopOptions::default().signals(true).inspect("8099"))?;
//! l.run(|reactor| {
//!     // … listen, connect
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! The page's URL is printed on stderr. Its token grants access to the addresses of all peers, but
//! to no payloads without [`Inspector::contents`]. See [`Inspector`] for the options.
//!
//! # Views
//!
//! | path | contents |
//! | --- | --- |
//! | `/` | the page |
//! | `/state.json` | everything, as one object |
//! | `/connections.json`, `/ports.json`, … | the rows of one view |
//! | `/recording` | the last events of all loops: a [`Recording`] |
//! | `POST /connections/ID/close`, or `reset`, `pause`, `resume`; `POST /log` | with [`Inspector::actions`]: acts on a connection, or sets the levels of the log to the text |
//! | `/live` | a WebSocket with changes, for the page |
//!
//! A path without `.json` is JSON too if the request's `Accept` asks for it. Times named `made`,
//! `received`, `since` and `due` are seconds since 1970.

#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod actions;
mod activity;
mod board;
mod capture;
mod chain;
mod clock;
mod contents;
mod flags;
mod frames;
mod inspector;
mod keeping;
mod lines;
mod live;
mod recording;
mod rows;
mod server;
mod thread;
mod view;

pub use clock::spell_out;
pub use couplet_core::hooks::inspector::{TableLimits, time};
pub use inspector::{Inspect, Inspector};
pub use recording::{Recording, RecordingError, WorldLoop};
