broken='a port keeps more datagrams than its bound'
apply() { swap crates/couplet-core/src/driver/mio/datagrams.rs 'AtMost<\{ BATCH \* SEGMENTS \}>' 'AtMost<BATCH>'; }
notice() { runs c156_a_round; }
