//! Replaces the C library's time and entropy on threads that simulate. All other threads get the
//! system's.
//!
//! On Linux with glibc, linking this module defines `getrandom`, `getentropy`, `clock_gettime`,
//! `gettimeofday` and `time` for the whole program: the dynamic linker prefers the program's
//! symbols to the C library's, for std and for every library that calls these functions. Code that
//! makes the system call directly (rustix on Linux, the entropy of aws-lc, a `rdrand`) is not
//! affected. Elsewhere nothing is replaced.
//!
//! For test binaries.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod library;

use std::time::Duration;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use library::*;

/// The kind of clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Since 1970.
    Realtime,
    /// Since an arbitrary start: the clock of `Instant`.
    Monotonic,
}

/// Functions called before the system's, which return `None` on threads that do not simulate.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// A random number.
    pub random: fn() -> Option<u64>,
    /// The time.
    pub clock: fn(Clock) -> Option<Duration>,
}

/// Does nothing: on this system nothing is replaced.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn set(_: Answers) {}
