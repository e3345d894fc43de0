law=1
broken='`register_producer` on a closing transport calls `stop_producing` immediately'
apply() {
    swap crates/couplet-core/src/transport 'self\.reactor\(\)\.line_up\("stop_producing", of, move \|\| object\.stop_producing\(\)\);' \
        'object.stop_producing();'
}
notice() { runs c06_a_producer c68; }
