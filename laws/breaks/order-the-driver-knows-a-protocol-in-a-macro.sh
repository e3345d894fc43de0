law=order
broken='`crate::Protocol` in a macro of `driver`'
apply() {
    append crates/couplet-core/src/driver/mod.rs \
        'macro_rules! known { () => { const _: usize = std::mem::size_of::<&dyn crate::Protocol>(); } }
    known!();'
}
notice() { reads tidy; }
