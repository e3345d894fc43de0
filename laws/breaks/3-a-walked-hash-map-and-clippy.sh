broken='a lookup-only `HashMap` is iterated in a `for` loop, through a local'
apply() {
    append crates/couplet-core/src/protocols/policies.rs 'impl LimitConnectionsByPeer {
        fn first(&self) -> Option<IpAddr> {
            let open = self.open.borrow();
            for (peer, _) in open.iter() { return Some(*peer); }
            open.keys().next().copied()
        }
    }
    const _: fn(&LimitConnectionsByPeer) -> Option<IpAddr> = LimitConnectionsByPeer::first;'
}
notice() {
    reads tidy && return 0
    lints && return 0
    return 1
}
