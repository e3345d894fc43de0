law=3
broken='`park_timeout`, imported under another name'
apply() {
    append crates/couplet-core/src/reactor/turn.rs 'mod nap {
        use std::thread::park_timeout as wait;
        pub(super) const NAP: fn(std::time::Duration) = wait;
    }
    const _: fn(Duration) = nap::NAP;'
}
notice() { reads tidy; }
