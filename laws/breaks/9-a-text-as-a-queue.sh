broken='a `String` as a queue'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'struct Backlog { lines: String }
    impl Backlog { fn add(&mut self, line: &str) { self.lines.push_str(line); } }
    const _: fn(&mut Backlog, &str) = Backlog::add;'
}
notice() { reads tidy; }
