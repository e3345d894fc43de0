//! [`every_split`]: the same input, split in many ways.

/// Calls `feed` with `input` in pieces: whole, byte by byte, split in two at every offset, and 32
/// times at random offsets from a fixed seed. A framer must produce the same result for all of
/// them.
///
/// ```
/// use couplet::testing::every_split;
///
/// every_split(b"one\r\ntwo\r\n", |pieces| {
///     let mut text = Vec::new();
///     for piece in pieces {
///         text.extend_from_slice(piece);
///     }
///     assert_eq!(text, b"one\r\ntwo\r\n", "cut as {pieces:?}");
/// });
/// ```
pub fn every_split(input: &[u8], mut feed: impl FnMut(&[&[u8]])) {
    feed(&[input]);
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    feed(&bytes);
    for at in 1..input.len() {
        let (before, after) = input.split_at(at);
        feed(&[before, after]);
    }
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..32 {
        let mut rest = input;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            // xorshift64
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let (piece, after) = rest.split_at(1 + (seed % rest.len() as u64) as usize);
            pieces.push(piece);
            rest = after;
        }
        feed(&pieces);
    }
}
