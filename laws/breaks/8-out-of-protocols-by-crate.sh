broken='`crate::` out of `protocols` to a private type'
apply() {
    append crates/couplet-core/src/protocols/line.rs \
        'const _: usize = std::mem::size_of::<crate::transport::cell::ConnectionCell>();'
}
notice() { reads tidy; }
