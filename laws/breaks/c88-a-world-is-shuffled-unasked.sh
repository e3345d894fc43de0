law=c88
broken='every simulated world is shuffled'
apply() { swap crates/couplet-core/src/sim/kernel '^            shuffled: None,$' '            shuffled: Some(1),'; }
notice() { runs c88; }
