//! The inspector of a running program: its views, while the program works and while it hangs.

#[macro_use]
extern crate couplet_testkit;

mod access;
mod actions;
mod guest;
mod healthy;
mod hung;
mod live;
mod loops;
#[cfg(target_os = "linux")]
mod memory;
mod reasons;
mod recordings;
mod waits;

use couplet_testkit_loops::inspected as kit;
