//! The processor's counter of time: cheaper to read than the system's clock.

/// The present value of the counter, which grows evenly at an unknown rate. Threads see the same
/// value up to a few hundred nanoseconds.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn ticks() -> u64 {
    let (lower, upper): (u32, u32);
    // SAFETY: the instruction exists on every x86-64 processor, and only reads a counter. The
    // two halves stay apart where they are stored so.
    unsafe {
        core::arch::asm!("rdtsc", out("eax") lower, out("edx") upper, options(nomem, nostack, preserves_flags));
    }
    u64::from(upper) << 32 | u64::from(lower)
}

/// The present value of the counter, which grows evenly at an unknown rate. All threads see the
/// same value.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub fn ticks() -> u64 {
    let ticks;
    // SAFETY: every system lets programs read this register; reading it has no effect.
    unsafe {
        core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags));
    }
    ticks
}

/// The present value of a counter of nanoseconds: the system's clock.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[expect(clippy::disallowed_methods, reason = "it is a clock")]
pub fn ticks() -> u64 {
    use std::sync::LazyLock;
    use std::time::Instant;
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let passed = Instant::now().saturating_duration_since(*ORIGIN);
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::ticks;

    #[test]
    fn the_counter_grows() {
        let before = ticks();
        let after = (0..1_000_000).map(|_| ticks()).find(|now| *now > before);
        assert!(after.is_some());
    }
}
