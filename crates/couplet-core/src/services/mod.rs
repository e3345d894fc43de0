//! Services: parts of a program that are started and stopped. Twisted's `application.internet`.
//!
//! Built on the public API only, as a program could (law 8).

mod client;

pub use client::ClientService;
