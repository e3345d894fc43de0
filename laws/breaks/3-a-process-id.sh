broken='the simulator names the process by `process::id`'
apply() {
    append crates/couplet-sim/src/world.rs 'const _: fn() -> u32 = std::process::id;'
}
notice() { reads tidy; }
