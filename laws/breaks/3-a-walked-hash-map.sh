law=3
broken='a lookup-only `HashMap` is iterated'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'impl Core {
        fn first_name(&self) -> Option<&Ticket> { self.resolving.keys().next() }
    }
    const _: fn(&Core) -> Option<&Ticket> = Core::first_name;'
}
notice() { reads tidy; }
