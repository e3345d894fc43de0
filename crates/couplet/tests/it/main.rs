//! The conformance tests and the laws, in one binary. `docs/contract.md` names each test.

mod defer_callbacks;
mod defer_cancel;
mod defer_future;
mod defer_groups;
mod defer_model;
mod defer_panics;
mod defer_reports;
mod defer_stack;
mod defer_timeout;
mod defer_witness;
mod endpoints;
mod examples;
mod lives;
mod logged;
mod loops;
mod names;
mod readiness;
mod smoke;
mod snapshot;
mod suite;
mod tasks;
mod tcp;
mod testing_kit;
mod tidy;
mod timers;
