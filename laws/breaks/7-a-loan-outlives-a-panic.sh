broken='bytes lent to a task stay lent when the task panics'
apply() { swap crates/couplet-os/src/lend.rs '^                self\.0\.rest\.set\(None\);$' ''; }
notice() { runs_os lend::; }
