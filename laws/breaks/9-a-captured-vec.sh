broken='a closure keeps all that it was called with'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn keep() -> Box<dyn FnMut(u8)> {
        let mut all = Vec::new();
        Box::new(move |more| all.push(more))
    }
    const _: fn() -> Box<dyn FnMut(u8)> = keep;'
}
notice() { reads tidy; }
