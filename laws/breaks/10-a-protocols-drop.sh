broken='a panic in the drop of a protocol is not contained'
apply() {
    swap crates/couplet-core/src/transport/connection.rs 'discard\("drop of a protocol", protocol\);' 'drop(protocol);'
}
notice() { runs c44_; }
