broken='discarded foreign buffers are dropped while the outbox is borrowed'
apply() {
    swap crates/couplet-core/src/transport '^            outbox\.take_spent\(\)$' \
        '            drop(outbox.take_spent()); Vec::<bytes::Bytes>::new()'
}
notice() { runs c50_an; }
