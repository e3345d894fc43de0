broken='a foreign buffer is dropped as soon as it was sent, while the outbox is borrowed'
apply() {
    swap crates/couplet-core/src/outbox.rs 'Some\(Piece::Bytes\(bytes\)\) => spent\.push\(bytes\)' \
        'Some(Piece::Bytes(bytes)) => { let _ = &spent; drop(bytes) }'
}
notice() { runs c50_an; }
