broken='a `HashMap` with an exemption is iterated in a `for` loop'
apply() {
    append crates/couplet-core/src/protocols/policies.rs 'mod counted {
        #![expect(clippy::disallowed_types)]
        use std::collections::HashMap;
        fn all(open: HashMap<u8, u8>) -> Vec<u8> {
            let mut all = Vec::new();
            for (peer, count) in open { all.push(peer & count); }
            all
        }
        const _: fn(HashMap<u8, u8>) -> Vec<u8> = all;
    }'
}
notice() { lints; }
