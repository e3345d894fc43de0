law=4
broken='`Life::feed` by path, stored as a function pointer'
apply() {
    append crates/couplet/src/reactor/turn.rs \
        'const _: fn(&mut crate::transport::connection::Life, &[u8], Instant) = crate::transport::connection::Life::feed;'
}
notice() { reads tidy; }
