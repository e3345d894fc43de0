broken='`unsafe` in the library, with a SAFETY comment and without the `forbid`'
apply() {
    swap crates/couplet-core/src/lib.rs '^#!\[forbid\(unsafe_code\)\]$' ''
    append crates/couplet-core/src/reactor/turn/steps.rs '// SAFETY: it is not used.
    const _: u8 = unsafe { std::mem::transmute::<i8, u8>(0) };'
}
notice() { lints; }
