//! The building blocks of the core's suite, which runs on every driver. Scenes of the simulator's
//! tests play on them as well.

pub mod callbacks;
pub mod endings;
pub mod kit;
#[cfg(unix)]
pub mod outer;
pub mod peer;
pub mod plays;
pub mod recorder;
pub mod sealed;
pub mod tap;
