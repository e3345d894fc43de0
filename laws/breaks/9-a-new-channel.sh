broken='a channel without a bound'
apply() {
    append crates/couplet-core/src/layers/mod.rs 'struct Backlog { reads: std::sync::mpsc::Sender<u8> }
    const _: fn(&Backlog) -> bool = |all| all.reads.send(0).is_ok();'
}
notice() { reads tidy; }
