broken='bytes lent to a task of a stream stay lent after the call that lent them'
apply() { swap crates/couplet-os/src/lend.rs 'let left = self\.rest\.take\(\);' 'let left = self.rest.get();'; }
notice() { runs streams::; }
