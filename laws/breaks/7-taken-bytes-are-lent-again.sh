broken='bytes that were taken are lent again'
apply() {
    swap crates/couplet-os/src/lend.rs '&rest\[n\.min\(rest\.len\(\)\)\.\.\]' '&rest[(n * 0)..]'
}
notice() { runs_os lend::; }
