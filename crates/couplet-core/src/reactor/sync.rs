//! The primitives that [`inbox`](super::inbox) uses; its test substitutes others.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};
