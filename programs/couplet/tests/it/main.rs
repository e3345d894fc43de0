//! The program as users run it: each test starts the real binary.
#![expect(clippy::disallowed_methods, reason = "tests of a program run in real time")]

#[macro_use]
extern crate couplet_testkit;

mod addresses;
mod bad_clients;
mod cert;
mod connect;
mod crowds;
mod datagrams;
mod echo;
mod ends;
mod files;
mod forward;
mod forward_upstreams;
mod http;
mod inherited;
mod inspect;
#[cfg(target_os = "linux")]
mod inspect_hung;
#[cfg(target_os = "linux")]
mod inspect_process;
mod inspect_terminal;
mod namespace;
mod peers;
mod rfc9110;
mod run;
#[cfg(target_os = "linux")]
mod sealed;
mod signals;
mod sim;
mod slow_readers;
mod stuck_log;
mod threads;
mod tls;
mod unix;
mod unread;
mod usage;

use couplet_testkit::{needed, program as kit, servers};
