broken='a lookup-only `HashMap` is iterated'
apply() {
    append crates/couplet-core/src/protocols/policies.rs 'impl LimitConnectionsByPeer {
        fn first(&self) -> Option<IpAddr> { self.open.borrow().keys().next().copied() }
    }
    const _: fn(&LimitConnectionsByPeer) -> Option<IpAddr> = LimitConnectionsByPeer::first;'
}
notice() { reads tidy; }
