//! A bus in memory and against a scripted server, without sockets but for TLS: rows 201 to 217 of the
//! contract.

#[macro_use]
extern crate couplet_testkit;

mod again;
mod connecting;
mod cycles;
mod kit;
mod limits;
mod logs;
mod memory;
mod parser;
mod presence;
mod queues;
mod redis;
mod resp;
mod sessions;
mod trust;
