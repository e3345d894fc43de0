broken='`RandomState` as a source of randomness'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn chance() -> u64 {
        use std::hash::BuildHasher;
        std::hash::RandomState::new().hash_one(0)
    }
    const _: fn() -> u64 = chance;'
}
notice() { reads tidy; }
