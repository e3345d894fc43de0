broken='`Driver` provides a walk, and the memory driver overrides it'
apply() {
    after crates/couplet-core/src/driver/mod.rs '^pub trait Driver: Commands \{$' \
        '    /// Walks.
    fn walk(&mut self) {}'
    after crates/couplet-core/src/driver/memory '^impl Driver for Memory \{$' '    fn walk(&mut self) {}'
}
notice() { reads tidy; }
