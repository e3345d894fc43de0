//! Facts of the contract that need real sockets: what only the kernel does, or only a plain socket
//! sees. A file a section of `docs/contract.md`; the kit is the suite's, over `mio`.

mod accepting;
mod closing;
mod failing;
mod options;
mod reading;
