law=4
broken='`Life::feed` by path, stored as a function pointer'
apply() {
    append crates/couplet-core/src/reactor/turn.rs \
        'const _: fn(&mut Life, &[u8], std::time::Instant) -> Effects = Life::feed;'
}
notice() { reads tidy; }
