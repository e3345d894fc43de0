law=3
broken='`Instant::elapsed` as a method'
apply() {
    append crates/couplet-core/src/reactor/turn.rs \
        'pub(crate) fn took(began: Instant) -> Duration { began.elapsed() }'
    append crates/couplet-core/src/reactor/turn.rs 'const _: fn(Instant) -> Duration = took;'
}
notice() { reads tidy; }
