//! UNIX sockets on the real system: their files, locks and names. The suite tests the facts that
//! they share with TCP.

mod connecting;
mod descriptors;
pub(crate) mod listening;
