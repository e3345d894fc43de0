broken='a queue that a peer can fill, through an import and an alias'
apply() {
    append crates/couplet-core/src/driver/mio/slots.rs 'mod line {
        use std::collections::BinaryHeap as Line;
        pub(super) type Pieces = Line<u8>;
    }
    struct Backlog { pieces: line::Pieces }
    const _: fn(&Backlog) -> usize = |all| all.pieces.len();'
}
notice() { reads tidy; }
