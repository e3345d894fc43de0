//! The servers of the program `couplet`, without its command line: an [echo], and the [files] of a
//! folder over HTTP.
//!
//! They are compiled for speed, and the rest of the program for its size and the time of its build. So
//! what serves a connection is made here, the factory included. On the library's public API only.
#![forbid(unsafe_code)]

#[cfg(test)]
#[macro_use]
extern crate couplet_testkit;

pub mod echo;
pub mod files;
