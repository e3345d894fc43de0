//! Tests of the testing kit, which tests of protocols rely on.

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

/// The panic message with which `f` fails a test.
fn failing<T>(f: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(_) => panic!("it did not fail"),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => (*payload.downcast::<&str>().expect("a text payload")).to_owned(),
        },
    }
}
