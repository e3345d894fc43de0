//! Facts of the contract that need real sockets: what only the kernel does or only a plain socket
//! sees. One file per section of `docs/contract.md`, with the suite's kit over `mio`.

mod accepting;
pub(crate) mod adopting;
mod closing;
mod failing;
mod options;
mod reading;
mod scopes;
