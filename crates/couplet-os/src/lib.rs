//! System calls that Couplet needs and neither std nor a safe crate offers; also bytes lent to a
//! future, and values held by other threads.
//!
//! The only crate with `unsafe`: one file per mechanism, small functions, a SAFETY line for each
//! block. Independent of `couplet`.
#![expect(
    unsafe_code,
    reason = "system calls, and memory shared with the kernel and other threads"
)]

// With the feature `trap`, a test of this library would define the C library's functions twice,
// because it depends on itself.
#[cfg(all(test, not(feature = "trap")))]
#[macro_use]
extern crate couplet_testkit;

pub mod backtrace;
#[cfg(target_os = "linux")]
pub mod datagrams;
pub mod descriptor;
#[cfg(target_os = "linux")]
pub mod epoll;
pub mod heap;
#[cfg(target_os = "linux")]
pub mod huge;
pub mod interfaces;
pub mod lend;
pub mod orphans;
pub mod owned;
pub mod process;
pub mod read_buffer;
pub mod ring;
pub mod signals;
pub mod spawn;
pub mod tcp;
pub mod tethered;
pub mod ticks;
#[cfg(feature = "trap")]
pub mod trap;
pub mod unsent;
pub mod uring;
