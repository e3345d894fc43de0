//! The conformance tests and the laws, in one binary. `docs/contract.md` names each test.

mod smoke;
mod suite;
mod tcp;
