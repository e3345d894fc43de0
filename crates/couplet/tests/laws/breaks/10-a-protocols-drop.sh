law=10
broken='a panic in the drop of a protocol is not contained'
apply() {
    swap crates/couplet/src/reactor 'discard\("drop of a protocol", life\);' 'drop(life);'
}
notice() { runs c44_; }
