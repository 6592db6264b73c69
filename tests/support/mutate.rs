//! Damaged copies of valid bytes, the same ones in every run.

/// SplitMix64 (Steele, Lea, Flood 2014): a few lines, no dependency, good enough to choose what to damage.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// What a parser stumbles over: separators, base64's edges, DER's long forms, the ends of integer types.
const TOKENS: [&[u8]; 14] = [
    b"\0\x01",
    b"\0",
    b"=",
    b"==",
    b"\n",
    b" ",
    b"-_",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x02\x01\x00",
    b"\x05\x00",
    b"-----BEGIN CERTIFICATE-----\n",
];

/// Damages `bytes` in one to four places.
pub fn mutate(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.byte(),
            2 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let token = TOKENS[random.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            _ => {
                let other = random.below(bytes.len());
                if at < bytes.len() {
                    bytes.swap(at, other);
                }
            }
        }
    }
    bytes
}
