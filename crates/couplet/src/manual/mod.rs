//! The guide: chapters to read, whose examples are compiled and run with the tests.
//!
//! | chapter | about |
//! | --- | --- |
//! | [`testing`] | testing your protocol, without sockets and without waiting |

pub mod testing;
