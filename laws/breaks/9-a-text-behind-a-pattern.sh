broken='a `String` as a queue, through a pattern'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'enum Backlog { Lines(String) }
    impl Backlog { fn add(&mut self, line: &str) { let Backlog::Lines(all) = self; all.push_str(line); } }
    const _: fn(&mut Backlog, &str) = Backlog::add;'
}
notice() { reads tidy; }
