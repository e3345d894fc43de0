//! The engine against a client by hand, and against other implementations.

#[macro_use]
extern crate couplet_watched;

mod answers;
mod drains;
mod flow;
mod kit;
mod limits;
mod peers;
mod random;
mod requests;
mod rules;
mod service;
