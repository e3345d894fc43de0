//! What tests of protocols may rely on: the testing kit, tested.

mod clock;
mod memory_reactor;
mod pairs;
mod results;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The message with which `f` fails the test that calls it.
fn failing<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it was to fail"),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => (*payload.downcast::<&str>().expect("with a text")).to_owned(),
        },
    }
}
