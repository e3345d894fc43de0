broken='a layer reads a file'
apply() {
    append crates/couplet-core/src/layers/mod.rs \
        'fn hosts() -> usize { std::fs::read("/etc/hosts").map_or(0, |all| all.len()) }
    const _: fn() -> usize = hosts;'
}
notice() { reads tidy; }
