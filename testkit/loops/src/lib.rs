//! The parts of the kit that need the library: protocols, authorities, the building
//! blocks of the suite, inspected programs.
//!
//! Unit tests of the core can use only modules without types of the core: the core under test is
//! another build with other types.
#![allow(missing_docs, missing_debug_implementations, reason = "private: it has no other users")]
#![allow(clippy::len_without_is_empty, clippy::new_without_default, reason = "nobody needs them")]

#[cfg(feature = "tls")]
pub mod authority;
#[cfg(feature = "browser")]
pub mod browser;
#[cfg(feature = "suite")]
pub mod crowd;
pub mod doubles;
#[cfg(feature = "suite")]
pub mod framing;
#[cfg(feature = "inspect")]
pub mod inspected;
#[cfg(feature = "suite")]
pub mod life;
pub mod link;
#[cfg(feature = "suite")]
pub mod sealed;
#[cfg(feature = "suite")]
pub mod suite;

pub use couplet_testkit::PATIENCE;

/// Turns the loop until this holds; `what` names it in the failure message.
#[track_caller]
pub fn until(l: &mut couplet::Loop, what: &str, mut done: impl FnMut(&mut couplet::Loop) -> bool) {
    let late = l.reactor().now() + PATIENCE;
    while !done(l) {
        assert!(l.reactor().now() < late, "{what}: never happened: {}", l.snapshot());
        l.turn(Some(std::time::Duration::from_millis(1))).expect("a turn");
    }
}

/// Turns the loop while another thread works.
pub fn turn_while<T: Send>(l: &mut couplet::Loop, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let working = scope.spawn(work);
        while !working.is_finished() {
            l.turn(Some(std::time::Duration::from_millis(10))).expect("the driver waits");
        }
        working.join().expect("the work does not panic")
    })
}
