broken='a failure in a scope cancels none of its tasks'
apply() {
    swap crates/couplet-core/src/task/scope.rs '^            scope\.inner\.cancel_children\(\);$' ''
    swap crates/couplet-core/src/task/scope.rs '^            self\.cancel_children\(\);$' ''
}
notice() { runs c125c; }
