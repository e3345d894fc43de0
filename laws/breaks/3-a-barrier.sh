broken='a transport waits at a `Barrier`'
apply() {
    append crates/couplet-core/src/transport/handle.rs \
        'fn meet(barrier: &std::sync::Barrier) { barrier.wait(); }
    const _: fn(&std::sync::Barrier) = meet;'
}
notice() { reads tidy; }
