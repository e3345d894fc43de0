broken='the hasher of a `HashMap` as a source of randomness'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn chance() -> u64 {
        use std::hash::BuildHasher;
        std::collections::HashMap::<u8, u8>::new().hasher().hash_one(0)
    }
    const _: fn() -> u64 = chance;'
}
notice() { reads tidy; }
