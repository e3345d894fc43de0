broken='a new queue without a bound'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs \
        'struct Backlog { calls: std::cell::RefCell<std::collections::VecDeque<u8>> }
    const _: fn(&Backlog) -> usize = |all| all.calls.borrow().len();'
}
notice() { reads tidy; }
