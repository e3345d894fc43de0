//! Freed memory that the allocator still holds.
//!
//! Contract: 175b.

/// Asks the C library to return freed memory to the system, which walks the heap: about a
/// millisecond for 15 MiB.
///
/// glibc's malloc_trim. Does nothing elsewhere, or with another allocator.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim takes a size, touches only free memory, and may be called at any time from
    // any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
