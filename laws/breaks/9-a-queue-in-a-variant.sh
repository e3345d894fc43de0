broken='a queue in the variant of a state'
apply() {
    append crates/couplet-http/src/http2/streams.rs 'enum Backlog { Waiting { frames: Vec<Vec<u8>> } }
    const _: fn(&Backlog) -> usize = |Backlog::Waiting { frames }| frames.len();'
}
notice() { reads tidy; }
