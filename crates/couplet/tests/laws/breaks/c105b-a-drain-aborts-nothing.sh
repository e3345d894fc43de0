law=c105b
broken='a drain waits for the connections that it has closed, however long they flush'
apply() { swap crates/couplet/src/reactor/drain.rs 'self\.arm_drain\(drain, drain\.times\.close\);' ''; }
notice() { runs c105b; }
