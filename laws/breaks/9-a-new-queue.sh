broken='a queue that a peer can fill, without a bound'
apply() {
    append crates/couplet-core/src/transport/cell.rs \
        'struct Backlog { reads: std::cell::RefCell<std::collections::VecDeque<u8>> }
    const _: fn(&Backlog) -> usize = |all| all.reads.borrow().len();'
}
notice() { reads tidy; }
