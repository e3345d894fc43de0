broken='the tasks of a scope go on when the scope is dropped'
apply() { swap crates/couplet-core/src/task/scope.rs '^        self\.0\.cancel_children\(\);$' ''; }
notice() { runs c125c; }
