law=4
broken='a second caller of `Life::feed`'
apply() {
    append crates/couplet/src/reactor/turn.rs 'fn again(life: &mut crate::transport::connection::Life, now: Instant) {
        life.feed(b"once more", now);
    }
    const _: fn(&mut crate::transport::connection::Life, Instant) = again;'
}
notice() { reads tidy; }
