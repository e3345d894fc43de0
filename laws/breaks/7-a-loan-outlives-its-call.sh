broken='bytes lent to a task stay lent after the call that lent them'
apply() { swap crates/couplet-os/src/lend.rs '^                self\.0\.rest\.set\(self\.1\);$' ''; }
notice() { runs_os lend::; }
