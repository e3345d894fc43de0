broken='within a take another has the same bytes'
apply() { swap crates/couplet-os/src/lend.rs 'self\.rest\.take\(\) else' 'self.rest.get() else'; }
notice() { runs_os lend::; }
