//! The conformance tests of Deferreds. Names begin with rows of `docs/contract.md`.

#[macro_use]
extern crate couplet_testkit;

mod defer_again;
mod defer_callbacks;
mod defer_cancel;
mod defer_claims;
mod defer_future;
mod defer_groups;
mod defer_history;
mod defer_locks;
mod defer_model;
mod defer_panics;
mod defer_reports;
mod defer_stack;
mod defer_timeout;
mod defer_waits;
