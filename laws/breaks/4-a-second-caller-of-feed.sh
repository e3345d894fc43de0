broken='a second caller of `Life::feed`'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn again(life: &mut Life, at: std::time::Instant) -> Effects { life.feed(b"once more", at) }
    const _: fn(&mut Life, std::time::Instant) -> Effects = again;'
}
notice() { reads tidy; }
