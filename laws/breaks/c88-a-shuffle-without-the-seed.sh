broken='a shuffle is not by the seed that it was given'
apply() {
    swap crates/couplet-sim/src/driver.rs 'let key = \[kernel\.shuffled\?,' 'let key = [kernel.shuffled.map(|_| 7)?,'
}
notice() { runs_sim c88; }
