broken='the turn starts a thread and joins it'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs \
        'fn work() { let _ = std::thread::spawn(|| {}).join(); }
    const _: fn() = work;'
}
notice() { reads tidy; }
