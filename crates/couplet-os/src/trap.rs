//! What the C library says about time and entropy, replaced where a program asks for that: on threads
//! that simulate. Every other thread hears the system.
//!
//! On Linux with glibc, this module, once it is linked, defines `getrandom`, `getentropy`, `clock_gettime`,
//! `gettimeofday` and `time` for the whole program: the dynamic linker prefers the program's own symbols
//! to those of the C library, for std and for every library that goes through them. Whatever makes the
//! system call itself (rustix on Linux, the entropy of aws-lc, a `rdrand`) is not seen. Elsewhere nothing
//! is replaced.
//!
//! For test binaries.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod library;

use std::time::Duration;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use library::*;

/// Which time is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Since 1970.
    Realtime,
    /// Since whenever: what `Instant` reads.
    Monotonic,
}

/// What to ask before the system. `None` is the answer of threads that do not simulate.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// A random number.
    pub random: fn() -> Option<u64>,
    /// The time.
    pub clock: fn(Clock) -> Option<Duration>,
}

/// Does nothing here: the system answers.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn set(_: Answers) {}
