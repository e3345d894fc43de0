broken='a list of boxes without a bound'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'struct Backlog { next: Option<Box<Backlog>> }
    const _: fn(&Backlog) -> bool = |all| all.next.is_some();'
}
notice() { reads tidy; }
