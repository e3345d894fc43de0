//! Creates new inputs from old ones.

/// Longest input, in bytes.
const MOST: usize = 5000;
/// Number of new inputs that are kept for further mutation.
const RECENT: usize = 64;
/// Boundary values.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 9, 10, 127, 128, 255, 256, 65_535, 65_536, 99_999, 100_000, u32::MAX as u64];

/// Deterministic: the same seed, corpus and words give the same inputs.
pub(crate) struct Mutator<'a> {
    random: u64,
    corpus: &'a [Vec<u8>],
    words: &'a [&'a str],
    recent: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(seed: u64, corpus: &'a [Vec<u8>], words: &'a [&'a str]) -> Mutator<'a> {
        Mutator { random: seed, corpus, words, recent: Vec::new(), input: Vec::new() }
    }

    /// A new input.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.input = self.any();
        for _ in 0..1 + self.below(4) {
            self.mutate();
        }
        self.input.truncate(MOST);
        let place = self.below(RECENT);
        if place < self.recent.len() {
            self.recent[place].clone_from(&self.input);
        } else {
            self.recent.push(self.input.clone());
        }
        &self.input
    }

    /// An input of the corpus, or a recent one.
    fn any(&mut self) -> Vec<u8> {
        let from_recent = self.below(4) == 0 || self.corpus.is_empty();
        let inputs = if from_recent { self.recent.len() } else { self.corpus.len() };
        if inputs == 0 {
            return Vec::new();
        }
        let at = self.below(inputs);
        if from_recent { self.recent[at].clone() } else { self.corpus[at].clone() }
    }

    fn mutate(&mut self) {
        match self.below(9) {
            0 => self.flip_a_bit(),
            1 => self.set_a_byte(),
            2 => self.insert_bytes(),
            3 => self.delete(),
            4 => self.double(),
            5 => self.splice(),
            6 => self.change_a_number(),
            7 => self.swap(),
            _ => self.insert_a_word(),
        }
    }

    fn flip_a_bit(&mut self) {
        let bit = self.below(8);
        if let Some(byte) = self.any_byte() {
            *byte ^= 1 << bit;
        }
    }

    fn set_a_byte(&mut self) {
        let to = self.below(256) as u8;
        if let Some(byte) = self.any_byte() {
            *byte = to;
        }
    }

    fn insert_bytes(&mut self) {
        let bytes: Vec<u8> = (0..1 + self.below(8)).map(|_| self.below(256) as u8).collect();
        self.insert(&bytes);
    }

    fn delete(&mut self) {
        let (from, to) = self.range();
        self.input.drain(from..to);
    }

    fn double(&mut self) {
        let (from, to) = self.range();
        let part = self.input[from..to].to_vec();
        self.insert(&part);
    }

    /// Joins the beginning of this input and the end of another.
    fn splice(&mut self) {
        let other = self.any();
        let (keep, from) = (self.below(self.input.len() + 1), self.below(other.len() + 1));
        self.input.truncate(keep);
        self.input.extend_from_slice(&other[from..]);
    }

    /// Changes a decimal number, or bytes if there is no number.
    fn change_a_number(&mut self) {
        let number =
            NUMBERS[self.below(NUMBERS.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1);
        let at = self.below(self.input.len() + 1);
        let digit = self.input[at..].iter().position(u8::is_ascii_digit);
        if let Some(first) = digit.map(|first| at + first) {
            let digits = self.input[first..].iter().take_while(|byte| byte.is_ascii_digit());
            let end = first + digits.count();
            self.input.splice(first..end, number.to_string().into_bytes());
        } else {
            let bytes = number.to_be_bytes();
            let width = [1, 2, 4][self.below(3)];
            self.insert(&bytes[8 - width..]);
        }
    }

    fn swap(&mut self) {
        let (a, b) = (self.below(self.input.len().max(1)), self.below(self.input.len().max(1)));
        if !self.input.is_empty() {
            self.input.swap(a, b);
        }
    }

    fn insert_a_word(&mut self) {
        if !self.words.is_empty() {
            let word = self.words[self.below(self.words.len())];
            self.insert(word.as_bytes());
        }
    }

    fn insert(&mut self, bytes: &[u8]) {
        let at = self.below(self.input.len() + 1);
        self.input.splice(at..at, bytes.iter().copied());
    }

    fn any_byte(&mut self) -> Option<&mut u8> {
        let at = self.below(self.input.len().max(1));
        self.input.get_mut(at)
    }

    /// A range of the input, usually a short one.
    fn range(&mut self) -> (usize, usize) {
        let from = self.below(self.input.len() + 1);
        let left = self.input.len() - from;
        let most = if self.below(4) == 0 { left } else { left.min(8) };
        (from, from + self.below(most + 1))
    }

    fn below(&mut self, n: usize) -> usize {
        // splitmix64
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.random;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}
