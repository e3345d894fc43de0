//! The building blocks of the core's suite, for scenes that play on both the system and the
//! simulator.

#![allow(dead_code, reason = "a part of it is used here")]

#[path = "../../../couplet-core/tests/it/suite/kit.rs"]
pub(crate) mod kit;
#[cfg(unix)]
#[path = "../../../couplet-core/tests/it/suite/outer.rs"]
mod outer;
#[path = "../../../couplet-core/tests/it/suite/peer.rs"]
pub(crate) mod peer;
#[path = "../../../couplet-core/tests/it/suite/recorder.rs"]
pub(crate) mod recorder;
#[path = "../../../couplet-core/tests/it/suite/sealed.rs"]
mod sealed;
#[path = "../../../couplet-core/tests/it/suite/tap.rs"]
mod tap;
