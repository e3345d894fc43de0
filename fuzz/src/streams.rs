//! Cuts streams: whole, byte by byte, and at lengths chosen by the input.

use crate::framers::cut;

/// Calls `f` with `stream` cut in several ways; `choice` determines the last one.
pub(crate) fn for_each_split(stream: &[u8], choice: u8, mut f: impl FnMut(&[&[u8]])) {
    f(&[stream]);
    if stream.len() <= 64 {
        f(&cut(stream, &[1]));
    }
    f(&cut(stream, &lengths(choice)));
}

/// A few lengths, short and long.
fn lengths(choice: u8) -> Vec<usize> {
    let mut state = u64::from(choice).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |n: u64| {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n) as usize
    };
    (0..1 + next(7)).map(|_| 1 + if next(4) == 0 { next(1100) } else { next(9) }).collect()
}
