broken='a panic in a callback of a port of datagrams is not caught'
apply() {
    swap crates/couplet-core/src/datagrams.rs 'contain\(what, \|\| f\(&mut \*\*protocol, &transport\)\);' \
        'let _ = what; f(&mut **protocol, &transport);'
}
notice() { runs suite::memory_readiness::c155; }
