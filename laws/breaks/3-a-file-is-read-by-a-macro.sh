broken='a layer reads a file, whose path a macro puts together'
apply() {
    append crates/couplet-core/src/layers/mod.rs \
        'macro_rules! all_of { ($room:ident, $call:ident) => { std::$room::$call("/etc/hosts") } }
    fn hosts() -> usize { all_of!(fs, read).map_or(0, |all| all.len()) }
    const _: fn() -> usize = hosts;'
}
notice() { reads tidy; }
