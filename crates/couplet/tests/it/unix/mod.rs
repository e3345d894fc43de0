//! UNIX sockets of the real system: their files, locks and names. What they have in common with TCP is
//! in the suite.

mod connecting;
mod descriptors;
mod listening;
