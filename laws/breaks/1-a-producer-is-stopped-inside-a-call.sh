broken='`register_producer` on a closing transport calls `stop_producing` immediately'
apply() {
    swap crates/couplet-core/src/transport 'self\.reactor\(\)\.queue_call\("stop_producing", type_name, move \|\| object\.stop_producing\(\)\);' \
        'object.stop_producing();'
}
notice() { runs c06_a_producer c68; }
