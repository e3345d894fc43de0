//! Cuts streams: whole, byte by byte, and at lengths chosen by the input.

use std::fmt::Debug;

use crate::framers::cut;

/// Calls `f` with `stream` cut in several ways; `choice` determines the last one.
pub(crate) fn for_each_split(stream: &[u8], choice: u8, mut f: impl FnMut(&[&[u8]])) {
    f(&[stream]);
    if stream.len() <= 64 {
        f(&cut(stream, &[1]));
    }
    f(&cut(stream, &lengths(choice)));
}

/// Calls `run` with `stream` cut in several ways.
///
/// # Panics
///
/// If the cut changes the result.
pub(crate) fn same_for_each_split<T: PartialEq + Debug>(
    stream: &[u8],
    choice: u8,
    run: impl Fn(&[&[u8]]) -> T,
) {
    let whole = run(&[stream]);
    for_each_split(stream, choice, |pieces| assert_eq!(whole, run(pieces)));
}

/// The units that a parser takes from pieces, as text, up to its first error. `check` gets each.
///
/// # Panics
///
/// If the parser leaves bytes of a piece.
pub(crate) fn take_all<T: Debug, E: ToString>(
    pieces: &[&[u8]],
    mut next: impl FnMut(&mut &[u8]) -> Result<Option<T>, E>,
    check: impl Fn(&T),
) -> Vec<String> {
    let mut seen = Vec::new();
    for piece in pieces {
        let mut data = *piece;
        loop {
            match next(&mut data) {
                Ok(None) => break,
                Ok(Some(unit)) => {
                    check(&unit);
                    seen.push(format!("{unit:?}"));
                }
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
        assert!(data.is_empty(), "bytes are left");
    }
    seen
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
