broken='a `HashMap` with an exemption is iterated'
apply() {
    append crates/couplet-core/src/protocols/policies.rs 'mod counted {
        #![expect(clippy::disallowed_types)]
        use std::collections::HashMap;
        const _: fn(&HashMap<u8, u8>) -> Option<u8> = |open| open.keys().next().copied();
    }'
}
notice() { lints; }
