broken='a panic in the drop of a protocol is not contained when its loop is dropped'
apply() {
    swap crates/couplet-core/src/reactor 'contain\("drop of a protocol", move \|\| entry\.life\.abandon\(\)\);' \
        'entry.life.abandon();'
}
notice() { runs c44_; }
