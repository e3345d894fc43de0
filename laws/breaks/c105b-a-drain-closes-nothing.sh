broken='a drain never closes the connections that did not finish'
apply() {
    swap crates/couplet-core/src/reactor/turn/draining.rs '^                self\.with_life\(io, key, Life::end_drain\);' ''
}
# Where time is real, each of these tests waits until it gives up.
notice() { runs suite::sim::c105b suite::memory_readiness::c105b; }
