//! The engine against a peer by hand, against itself, and against other implementations.

#[macro_use]
extern crate couplet_testkit;

mod again;
mod answers;
mod clients;
mod drains;
mod flow;
mod kit;
mod limits;
mod order;
mod peers;
mod random;
mod requests;
mod rules;
mod service;
mod windows;
