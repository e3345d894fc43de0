broken='a protocol sends through the socket of its connection'
apply() {
    append crates/couplet-core/src/protocols/line.rs \
        'fn hurry(transport: &Transport) { let _ = transport.with_socket(|socket| socket.send(b"now").map(drop)); }
    const _: fn(&Transport) = hurry;'
}
notice() { reads tidy; }
