broken='a new channel without a bound, through an alias'
apply() {
    append crates/couplet-core/src/reactor/remote.rs 'mod line { pub(super) use std::sync::mpsc::Sender as End; }
    struct Backlog { calls: line::End<u8>, all: Pieces }
    type Pieces = Vec<u8>;
    const _: fn(&Backlog) -> usize = |all| { let _ = &all.calls; all.all.len() };'
}
notice() { reads tidy; }
