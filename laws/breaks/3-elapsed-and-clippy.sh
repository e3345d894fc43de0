broken='`Instant::elapsed` by path, through an alias of the type'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'mod took {
        use std::time::Instant as Clock;
        pub(super) const TOOK: fn(&Clock) -> std::time::Duration = Clock::elapsed;
    }
    const _: fn(&Instant) -> Duration = took::TOOK;'
}
notice() {
    reads tidy && return 0
    lints && return 0
    return 1
}
