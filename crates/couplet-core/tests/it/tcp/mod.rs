//! Facts of the contract that need real sockets: behaviour of the kernel, or visible only to a
//! plain socket. One file per section of `docs/contract.md`, with the suite's kit over `mio`.

mod accepting;
pub(crate) mod adopting;
mod closing;
mod combined;
mod failing;
mod handing;
#[cfg(target_os = "linux")]
mod keeping;
mod options;
mod passing;
mod reading;
mod scopes;
