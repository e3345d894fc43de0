broken='a panic in a timed call is not contained'
apply() { swap crates/couplet-core/src/reactor 'contain\("timed call", f\);' 'f();'; }
notice() { runs timers:: loops:: robust:: c50_an; }
