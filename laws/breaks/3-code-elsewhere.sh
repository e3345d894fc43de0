broken='a file that is named like a test has code of the library'
apply() {
    echo '//! Waits.
pub(crate) const WAIT: fn() = std::thread::park;' >crates/couplet-core/src/layers/contests.rs
    append crates/couplet-core/src/layers/mod.rs 'mod contests;
    const _: fn() = contests::WAIT;'
    git add crates/couplet-core/src/layers/contests.rs
}
notice() { reads tidy; }
