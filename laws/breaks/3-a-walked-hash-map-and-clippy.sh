law=3
broken='a lookup-only `HashMap` is iterated in a `for` loop, through a local'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'impl Core {
        fn first_name(&self) -> Option<&Ticket> {
            let names = &self.resolving;
            for (name, _) in names { return Some(name); }
            names.keys().next()
        }
    }
    const _: fn(&Core) -> Option<&Ticket> = Core::first_name;'
}
notice() {
    reads tidy && return 0
    lints && return 0
    return 1
}
