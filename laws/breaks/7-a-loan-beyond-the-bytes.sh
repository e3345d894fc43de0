broken='more bytes are lent than there are'
apply() {
    swap crates/couplet-os/src/lend.rs 'self\.rest\.set\(Some\(NonNull::from\(bytes\)\)\)' \
        'self.rest.set(Some(NonNull::slice_from_raw_parts(NonNull::from(bytes).cast(), bytes.len() + 1)))'
}
notice() { runs_os lend::; }
