//! The source of a life's random choices: a seed, or the fuzzer's bytes.

use std::cell::Cell;

/// Rolls numbers.
pub enum Dice {
    /// An endless splitmix64 stream.
    Seeded(Cell<u64>),
    /// Consumes the bytes; once they are used up, every roll is the highest number.
    Bytes { bytes: Vec<u8>, at: Cell<usize> },
}

impl Dice {
    pub fn seeded(seed: u64) -> Dice {
        Dice::Seeded(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d))
    }

    pub fn bytes(bytes: &[u8]) -> Dice {
        Dice::Bytes { bytes: bytes.to_vec(), at: Cell::new(0) }
    }

    /// A number below `n`. Consumes as few bytes as `n` needs.
    pub fn roll(&self, n: usize) -> usize {
        match self {
            Dice::Seeded(state) => {
                state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
                let z = state.get();
                let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) % n as u64) as usize
            }
            Dice::Bytes { bytes, at } => {
                let width = match n {
                    0..=256 => 1,
                    257..=65_536 => 2,
                    _ => 4,
                };
                let start = at.get().min(bytes.len());
                at.set(start + width);
                match bytes.get(start..start + width) {
                    Some(bytes) => bytes.iter().fold(0, |sum, byte| sum << 8 | *byte as usize) % n,
                    None => n - 1,
                }
            }
        }
    }

    /// The bytes are used up: every further roll is the highest number.
    pub fn are_spent(&self) -> bool {
        match self {
            Dice::Seeded(_) => false,
            Dice::Bytes { bytes, at } => at.get() >= bytes.len(),
        }
    }
}
