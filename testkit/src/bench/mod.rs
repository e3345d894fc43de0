//! For benchmarks.

#[cfg(all(target_os = "linux", feature = "system"))]
pub mod processors;
pub mod program;
#[cfg(feature = "served")]
mod round_trips;
pub mod rows;
#[cfg(feature = "secure")]
pub mod secure;
#[cfg(feature = "served")]
pub mod served;
pub mod spread;
