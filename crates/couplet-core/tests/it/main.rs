//! The conformance tests and the laws, in one binary. Names begin with rows of `docs/contract.md`.

#[macro_use]
extern crate couplet_testkit;

mod access;
mod call_times;
mod cancelled_waits;
mod cooperator;
mod diagnostics;
mod dropped;
mod echoes;
#[cfg(unix)]
mod embedding;
mod endpoint_kinds;
mod endpoints;
#[cfg(any(feature = "tls", feature = "ring"))]
mod endpoints_tls;
mod filesystem_lock;
#[cfg(target_os = "linux")]
mod forked;
mod framing;
#[cfg(unix)]
mod gui;
mod handles;
mod lives;
mod loops;
mod misuse;
mod names;
mod pace;
#[cfg(target_os = "linux")]
mod passing_datagrams;
mod pipes;
mod policies;
mod process;
mod rate;
mod readiness;
mod reconnecting;
mod relay;
mod robust;
mod secure;
mod send_file;
#[cfg(unix)]
mod serial;
mod services;
mod shared_ports;
mod skipped;
mod snapshot;
mod spin;
mod streams;
mod suite;
mod supervisor;
mod task;
mod tasks;
mod tasks_scoped;
mod tcp;
mod testing_kit;
mod threads;
mod threads_panics;
mod timers;
mod turns;
mod unheard;
#[cfg(unix)]
mod unix;
#[cfg(all(target_os = "linux", feature = "uring"))]
mod uring;
mod watch;
#[cfg(unix)]
mod wrappers;

#[cfg(unix)]
use couplet_testkit::terminal;
use couplet_testkit::{apart, defer_witness, logged, needed};
