//! HTTP/2 for servers and clients, without I/O.
//!
#![doc = include_str!("../README.md")]
//!
//! # The files
//!
//! [`Connection`] owns the state. Received frames go through `connection/receive.rs`, field blocks
//! through `connection/blocks.rs` and `hpack/`, requests and answers through `connection/send.rs`.
//! The rules for names and values are in `field.rs`.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

mod code;
mod connection;
mod error;
mod event;
mod field;
// Hidden parts are for the other crates of Couplet, and unstable.
#[doc(hidden)]
pub mod frame;
mod head;
#[doc(hidden)]
pub mod hpack;
mod options;
#[doc(hidden)]
pub mod window;

pub use code::Code;
pub use connection::{Connection, Copied};
pub use error::{Error, SendError};
pub use event::Event;
pub use head::{Fields, Head, Iter, RequestLine};
pub use options::Options;
