//! The one base64 of every format (RFC 4648, sections 4 and 5): padded, no line breaks, and canonical, so that each value
//! has one text.
//!
//! A large message costs mostly this and its hash, so the crate's vector instructions are used where the processor has
//! them: four times as fast as the tables. What they take and refuse is the same; a test below compares the two.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::PAD;

/// Vector instructions, where there are some to use; each engine asks the processor once.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod engine {
    use super::{LazyLock, PAD};

    pub(super) type Engine = base64::engine::simd::Simd;
    pub(super) static STANDARD: LazyLock<Engine> = LazyLock::new(|| Engine::standard(PAD));
    pub(super) static URL_SAFE: LazyLock<Engine> = LazyLock::new(|| Engine::url_safe(PAD));
}

/// The tables, where there are none.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod engine {
    use super::{LazyLock, PAD};
    use base64::alphabet;

    pub(super) type Engine = base64::engine::GeneralPurpose;
    pub(super) static STANDARD: LazyLock<Engine> =
        LazyLock::new(|| Engine::new(&alphabet::STANDARD, PAD));
    pub(super) static URL_SAFE: LazyLock<Engine> =
        LazyLock::new(|| Engine::new(&alphabet::URL_SAFE, PAD));
}

use engine::{Engine, STANDARD, URL_SAFE};

/// Encodes in the standard alphabet, into a buffer of exactly the right size.
pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
    encode_with(&STANDARD, bytes)
}

/// Decodes the standard alphabet into one buffer; `None` for what is not canonical.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Encodes in the alphabet for URLs and file names.
#[expect(clippy::expect_used, reason = "an empty text would hide the bug")]
pub(crate) fn encode_url(bytes: &[u8]) -> String {
    String::from_utf8(encode_with(&URL_SAFE, bytes)).expect("base64 is ASCII")
}

/// Decodes the alphabet for URLs and file names; `None` for what is not canonical.
pub(crate) fn decode_url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE.decode(text).ok()
}

#[expect(clippy::expect_used, reason = "an empty text would hide the bug")]
fn encode_with(engine: &Engine, bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![0; encoded_len(bytes.len())];
    let len = engine.encode_slice(bytes, &mut text);
    let len = len.expect("the buffer is as long as the text");
    debug_assert_eq!(len, text.len());
    text.truncate(len);
    text
}

/// Length of the padded base64 of `len` bytes.
pub(crate) const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::{GeneralPurpose, STANDARD, URL_SAFE};

    use super::{decode, decode_url, encode, encode_url};

    type Encode = fn(&[u8]) -> Vec<u8>;
    type Decode = fn(&[u8]) -> Option<Vec<u8>>;

    /// Ours, and the tables to compare with.
    const ALPHABETS: [(Encode, Decode, &GeneralPurpose); 2] = [
        (encode, decode, &STANDARD),
        (
            |bytes| encode_url(bytes).into_bytes(),
            decode_url,
            &URL_SAFE,
        ),
    ];

    #[test]
    fn every_length_is_encoded_and_decoded_as_by_the_tables() {
        let bytes: Vec<u8> = (0..400_usize).map(|at| (at * 73 % 251) as u8).collect();
        for (encode, decode, tables) in ALPHABETS {
            for len in 0..bytes.len() {
                let bytes = bytes.get(..len).unwrap();
                let text = encode(bytes);
                assert_eq!(text, tables.encode(bytes).into_bytes());
                assert_eq!(decode(&text).unwrap(), bytes);
                for cut in 1..=4.min(text.len()) {
                    let cut = text.get(..text.len() - cut).unwrap();
                    assert_eq!(decode(cut), tables.decode(cut).ok(), "{len}");
                }
            }
        }
    }

    /// Each of the 256 byte values at each place of texts that span several vectors and their remainder.
    #[test]
    fn every_byte_at_every_place_is_taken_or_refused_as_by_the_tables() {
        for (encode, decode, tables) in ALPHABETS {
            for len in [1, 2, 3, 24, 46, 47, 48, 97, 98] {
                let text = encode(&vec![0xa5; len]);
                for at in 0..text.len() {
                    for byte in 0..=255 {
                        let mut text = text.clone();
                        *text.get_mut(at).unwrap() = byte;
                        let decoded = decode(&text);
                        assert_eq!(decoded, tables.decode(&text).ok(), "{byte} at {at}");
                        // Canonical: what is taken has no other text.
                        assert!(decoded.is_none_or(|decoded| encode(&decoded) == text));
                    }
                }
            }
        }
    }
}
