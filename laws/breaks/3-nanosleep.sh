broken='the turn sleeps by `nanosleep`'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs \
        'fn doze(time: &rustix::thread::Timespec) { let _ = rustix::thread::nanosleep(time); }
    const _: fn(&rustix::thread::Timespec) = doze;'
}
notice() { reads tidy; }
