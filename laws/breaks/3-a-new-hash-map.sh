broken='a new `HashMap` without a row'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'struct Seen { keys: std::collections::HashMap<u32, u32> }
    const _: fn(&Seen) -> usize = |seen| seen.keys.len();'
}
notice() { reads tidy; }
