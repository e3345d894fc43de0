broken='a drain waits for the connections that it has closed, however long they flush'
apply() { swap crates/couplet-core/src/reactor/turn/draining.rs 'self\.arm_drain\(drain, after\(self\.reactor\.now\(\), drain\.times\.close\)\);' ''; }
# Where time is real, each of these tests waits until it gives up.
notice() { runs suite::sim::c105b suite::memory_readiness::c105b; }
