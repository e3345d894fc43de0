broken='every simulated world is shuffled'
apply() { swap crates/couplet-sim/src/kernel '^            shuffled: None,$' '            shuffled: Some(1),'; }
notice() { runs_sim c88; }
