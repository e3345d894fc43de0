//! The conformance suite: each test states a fact of `docs/contract.md` and runs on every driver.
//!
//! A test is `fn c05_…(kit: Kit)` in the file of its section, and has a line in `all_facts!`. A
//! driver joins by one line of `driver_suite!`.

// The kit is there before all that uses it.
#![allow(dead_code)]

mod closing;
pub(crate) mod far;
pub(crate) mod kit;
pub(crate) mod recorder;
pub(crate) mod tap;

/// Makes a test of each fact, for one driver.
macro_rules! facts {
    ($kit:expr; $($file:ident: [$($fact:ident),* $(,)?])*) => {
        $($(
            #[test]
            fn $fact() {
                super::$file::$fact($kit);
            }
        )*)*
    };
}

/// All facts of the suite, file by file.
macro_rules! all_facts {
    ($kit:expr) => {
        facts! { $kit;
            closing: [
                c02_lose_connection_returns_before_connection_lost,
                c05_what_was_written_before_lose_connection_arrives,
                c05_connection_lost_comes_at_the_peers_fin,
                c15_a_close_without_progress_ends_after_30_s,
            ]
        }
    };
}

/// Runs the suite on a driver.
macro_rules! driver_suite {
    ($driver:ident, $kit:expr) => {
        mod $driver {
            all_facts!($kit);
        }
    };
}

driver_suite!(mio, crate::suite::kit::Kit::mio());
driver_suite!(
    memory_readiness,
    crate::suite::kit::Kit::memory(couplet::testing::Manner::Readiness)
);
driver_suite!(
    memory_completion,
    crate::suite::kit::Kit::memory(couplet::testing::Manner::Completion)
);
