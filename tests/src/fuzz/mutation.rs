//! Inputs from inputs: flips, splices, words, lengths, repetitions. Deterministic in its seed; knows no format.

use super::Target;

/// SplitMix64: ours, so that a seed means the same inputs whatever crates we use.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`; 0 when that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        let [byte, ..] = self.next().to_le_bytes();
        byte
    }

    /// Usually small.
    fn length(&mut self) -> usize {
        let bound = [1, 2, 4, 8, 16, 64, 256];
        let bound = bound.get(self.below(bound.len())).copied().unwrap_or(1);
        1 + self.below(bound)
    }
}

/// Bytes at the edges of what parsers distinguish.
const EDGES: &[u8] = b"\0\x01\x09\n\r \"#%&+,-./09:;=?@AFZ[\\]^_az{|}~\x7f\x80\xbf\xc0\xff";

/// Makes inputs of a pool that grows.
#[derive(Debug)]
pub(super) struct Mutator<'t> {
    random: Random,
    target: &'t Target,
    pool: Vec<Vec<u8>>,
    seeds: usize,
}

impl<'t> Mutator<'t> {
    pub(super) fn new(random: Random, target: &'t Target, corpus: Vec<Vec<u8>>) -> Self {
        Self {
            random,
            target,
            seeds: corpus.len(),
            pool: corpus,
        }
    }

    pub(super) fn keep(&mut self, input: Vec<u8>) {
        self.pool.push(input);
    }

    pub(super) fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.parent().to_vec();
        for _ in 0..1 + self.random.below(4) {
            self.mutate(&mut input);
        }
        input.truncate(self.target.longest);
        input
    }

    /// Seeds and finds are equally likely, however many there are of each.
    fn parent(&mut self) -> &[u8] {
        let at = match self.random.below(2) {
            0 => self.random.below(self.seeds),
            _ => self.random.below(self.pool.len()),
        };
        self.pool.get(at).map(Vec::as_slice).unwrap_or_default()
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        match self.random.below(12) {
            0 => self.flip_bit(input),
            1 => self.set_byte(input),
            2 => self.insert_edge(input),
            3 | 4 => self.insert_word(input),
            5 => self.overwrite_with_word(input),
            6 => self.remove(input),
            7 => self.repeat(input),
            8 => self.splice(input),
            9 => self.step_number(input),
            10 => self.move_piece(input),
            _ => input.truncate(self.random.below(input.len() + 1)),
        }
    }

    fn flip_bit(&mut self, input: &mut [u8]) {
        let (at, bit) = (self.random.below(input.len()), self.random.below(8));
        if let Some(byte) = input.get_mut(at) {
            *byte ^= 1 << bit;
        }
    }

    fn set_byte(&mut self, input: &mut [u8]) {
        let at = self.random.below(input.len());
        let new = self.edge();
        if let Some(byte) = input.get_mut(at) {
            *byte = new;
        }
    }

    fn edge(&mut self) -> u8 {
        let at = self.random.below(EDGES.len() * 2);
        EDGES.get(at).copied().unwrap_or_else(|| self.random.byte())
    }

    fn insert_edge(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let byte = self.edge();
        input.insert(at, byte);
    }

    fn word(&mut self) -> &'static [u8] {
        let words = self.target.words;
        words
            .get(self.random.below(words.len()))
            .copied()
            .unwrap_or_default()
    }

    fn insert_word(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let word = self.word();
        input.splice(at..at, word.iter().copied());
    }

    fn overwrite_with_word(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let word = self.word();
        let end = at.saturating_add(word.len()).min(input.len());
        input.splice(at..end, word.iter().copied());
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let at = self.random.below(length);
        at..at.saturating_add(self.random.length()).min(length)
    }

    fn remove(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        input.drain(range);
    }

    fn repeat(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        let end = range.end;
        let times = self.random.length();
        let piece = input.get(range).unwrap_or_default().repeat(times);
        let room = self.target.longest.saturating_sub(input.len());
        input.splice(end..end, piece.into_iter().take(room));
    }

    /// The start of this one and the end of another.
    fn splice(&mut self, input: &mut Vec<u8>) {
        let keep = self.random.below(input.len() + 1);
        let other = self.parent().to_vec();
        let from = self.random.below(other.len() + 1);
        input.truncate(keep);
        input.extend_from_slice(other.get(from..).unwrap_or_default());
    }

    /// A digit, or a byte of a binary length, becomes a little more or less.
    fn step_number(&mut self, input: &mut [u8]) {
        let digits: Vec<usize> = (0..input.len())
            .filter(|at| input.get(*at).is_some_and(u8::is_ascii_digit))
            .collect();
        let at = match digits.get(self.random.below(digits.len() + 2)) {
            Some(at) => *at,
            None => self.random.below(input.len()),
        };
        let step = [1, 255, 2, 254, 16, 240];
        let step = step.get(self.random.below(step.len())).copied().unwrap_or(1);
        if let Some(byte) = input.get_mut(at) {
            *byte = byte.wrapping_add(step);
        }
    }

    fn move_piece(&mut self, input: &mut Vec<u8>) {
        let range = self.range(input.len());
        let piece: Vec<u8> = input.drain(range).collect();
        let at = self.random.below(input.len() + 1);
        input.splice(at..at, piece);
    }
}
