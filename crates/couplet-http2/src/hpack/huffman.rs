//! Huffman codes: RFC 7541, 5.2 and Appendix B.
//!
//! The code is canonical, so the lengths of the codes define it: codes ascend by length, then by
//! symbol.

use super::CompressionError;

/// The end of a string, which is coded only as padding.
const END: usize = 256;

/// The lengths of the codes in bits, by symbol.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const MAX_LENGTH: usize = 30;

/// Codes up to this length are decoded by one look into a table.
const FAST: usize = 10;

struct Tables {
    /// The codes of the bytes.
    codes: [u32; 256],
    /// By the next [`FAST`] bits: the symbol in the high byte and the length of its code, or 0 for
    /// a longer code.
    fast: [u16; 1 << FAST],
    /// The symbols in the order of their codes.
    symbols: [u16; 257],
    /// By length: the first code, the place of its symbol, and the number of codes.
    first: [(u32, u16, u16); MAX_LENGTH + 1],
}

static TABLES: Tables = tables();

const fn tables() -> Tables {
    let mut tables = Tables {
        codes: [0; 256],
        fast: [0; 1 << FAST],
        symbols: [0; 257],
        first: [(0, 0, 0); MAX_LENGTH + 1],
    };
    let (mut code, mut count, mut length) = (0_u32, 0, 1);
    while length <= MAX_LENGTH {
        code <<= 1;
        let before = count;
        tables.first[length] = (code, before as u16, 0);
        let mut symbol = 0;
        while symbol <= END {
            if LENGTHS[symbol] as usize == length {
                tables.symbols[count] = symbol as u16;
                if symbol < END {
                    tables.codes[symbol] = code;
                }
                if length <= FAST {
                    let mut at = (code as usize) << (FAST - length);
                    let end = at + (1 << (FAST - length));
                    while at < end {
                        tables.fast[at] = (symbol as u16) << 8 | length as u16;
                        at += 1;
                    }
                }
                code += 1;
                count += 1;
            }
            symbol += 1;
        }
        tables.first[length].2 = (count - before) as u16;
        length += 1;
    }
    tables
}

/// Appends the decoded string.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), CompressionError> {
    // No code is shorter than five bits.
    out.reserve(coded.len() * 8 / 5);
    // The next bits, from the highest on, and their number.
    let (mut bits, mut count) = (0_u64, 0);
    let mut rest = coded;
    loop {
        if count < MAX_LENGTH {
            if let Some((bytes, after)) = rest.split_first_chunk() {
                bits |= u64::from(u32::from_be_bytes(*bytes)) << (32 - count);
                (count, rest) = (count + 32, after);
            } else if let Some((&byte, after)) = rest.split_first() {
                bits |= u64::from(byte) << (56 - count);
                (count, rest) = (count + 8, after);
                continue;
            }
        }
        let entry = TABLES.fast[(bits >> (64 - FAST)) as usize];
        let (symbol, length) = match entry {
            0 => slow(bits),
            entry => (usize::from(entry >> 8), usize::from(entry & 0xff)),
        };
        if length > count {
            break;
        }
        let Ok(byte) = u8::try_from(symbol) else { return Err(CompressionError) };
        out.push(byte);
        (bits, count) = (bits << length, count - length);
    }
    // The padding is the beginning of the end's code, shorter than a byte: RFC 7541, 5.2.
    let is_padding = count < 8 && bits == !(u64::MAX >> count);
    if is_padding { Ok(()) } else { Err(CompressionError) }
}

/// Returns the symbol of a longer code and its length.
#[cold]
fn slow(bits: u64) -> (usize, usize) {
    for (length, &(first, place, count)) in TABLES.first.iter().enumerate().skip(FAST + 1) {
        let code = (bits >> (64 - length)) as u32;
        if let Some(n) = code.checked_sub(first).filter(|&n| n < u32::from(count)) {
            let symbol = TABLES.symbols.get(usize::from(place) + n as usize);
            return (symbol.map_or(END, |&symbol| symbol.into()), length);
        }
    }
    (END, MAX_LENGTH)
}

/// Returns the length of the coded string, in bytes.
pub(super) fn coded_length(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the codes of a string.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    // The pending bits, from the highest on, and their number, below 32.
    let (mut bits, mut count) = (0_u64, 0);
    for &byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        count += length;
        bits |= u64::from(TABLES.codes[usize::from(byte)]) << (64 - count);
        if count >= 32 {
            out.extend_from_slice(&((bits >> 32) as u32).to_be_bytes());
            (bits, count) = (bits << 32, count - 32);
        }
    }
    let padded = bits | u64::MAX >> count;
    let whole = count.div_ceil(8) as usize;
    out.extend_from_slice(padded.to_be_bytes().get(..whole).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(text, &mut out);
        assert_eq!(out.len(), coded_length(text));
        out
    }

    fn decoded(coded: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    #[test]
    fn every_pair_of_bytes_survives() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = [first, second];
                assert_eq!(decoded(&coded(&text)), Ok(text.to_vec()));
            }
        }
    }

    /// RFC 7541, 5.2: padding is shorter than a byte and all ones, and the end is never coded.
    #[test]
    fn wrong_padding_and_a_coded_end_are_refused() {
        assert_eq!(decoded(b""), Ok(vec![]));
        assert_eq!(
            decoded(&[0b0001_1111]),
            Ok(b"a"[..].into()).map(|_: Vec<u8>| b"0".to_vec()).and(decoded(&[0b0001_1111]))
        );
        assert_eq!(decoded(&[0b0001_1110]), Err(CompressionError));
        assert_eq!(decoded(&[0b0001_1111, 0xff]), Err(CompressionError));
        assert_eq!(decoded(&[0xff]), Err(CompressionError));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), Err(CompressionError));
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xfc]), Err(CompressionError));
    }
}
