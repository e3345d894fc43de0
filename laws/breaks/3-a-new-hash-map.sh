broken='a new `HashMap`, which clippy and a table forbid'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'struct Seen { keys: std::collections::HashMap<u32, u32> }
    const _: fn(&Seen) -> usize = |seen| seen.keys.len();'
}
notice() {
    reads tidy && return 0
    lints && return 0
    return 1
}
