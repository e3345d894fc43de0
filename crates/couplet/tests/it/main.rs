//! The conformance tests and the laws, in one binary. `docs/contract.md` names each test.

mod lives;
mod logged;
mod names;
mod smoke;
mod suite;
mod tasks;
mod tcp;
mod timers;
