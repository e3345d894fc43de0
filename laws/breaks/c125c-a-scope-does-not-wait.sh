broken='a scope ends before its tasks have'
apply() { swap crates/couplet-core/src/task/scope.rs '^        poll_fn\(\|cx\| scope\.inner\.poll_over\(cx\)\)\.await;$' ''; }
notice() { runs c125c; }
