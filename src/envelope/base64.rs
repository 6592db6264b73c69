//! The one base64 of every format (RFC 4648, section 4): standard alphabet, padded, no line breaks, and canonical, so that
//! each value has one text.
//!
//! A large message costs mostly this and its hash, so the crate's vector instructions are used where the processor has
//! them: four times as fast as the tables. What they take and refuse is the same; a test below compares the two.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::sync::LazyLock;

use base64::Engine as _;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::general_purpose::PAD;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::simd::Simd;

/// Asks the processor once.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::standard(PAD));

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use base64::engine::general_purpose::STANDARD as ENGINE;

/// Encodes into a buffer of exactly the right size.
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![0; encoded_len(bytes.len())];
    // It fails for a buffer that is too short, and this one has the right length.
    let len = ENGINE.encode_slice(bytes, &mut text).unwrap_or_default();
    debug_assert_eq!(len, text.len());
    text.truncate(len);
    text
}

/// Decodes into one buffer; `None` for what is not canonical.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

/// Length of the padded base64 of `len` bytes.
pub(super) const fn encoded_len(len: usize) -> usize {
    len.div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{decode, encode};

    #[test]
    fn every_length_is_encoded_and_decoded_as_by_the_tables() {
        let bytes: Vec<u8> = (0..400_usize).map(|at| (at * 73 % 251) as u8).collect();
        for len in 0..bytes.len() {
            let bytes = bytes.get(..len).unwrap();
            let text = encode(bytes);
            assert_eq!(text, STANDARD.encode(bytes).into_bytes());
            assert_eq!(decode(&text).unwrap(), bytes);
            for cut in 1..=4.min(text.len()) {
                let cut = text.get(..text.len() - cut).unwrap();
                assert_eq!(decode(cut), STANDARD.decode(cut).ok(), "{len}");
            }
        }
    }

    /// Each of the 256 byte values at each place of texts that span several vectors and their remainder.
    #[test]
    fn every_byte_at_every_place_is_taken_or_refused_as_by_the_tables() {
        for len in [1, 2, 3, 24, 46, 47, 48, 97, 98] {
            let text = encode(&vec![0xa5; len]);
            for at in 0..text.len() {
                for byte in 0..=255 {
                    let mut text = text.clone();
                    *text.get_mut(at).unwrap() = byte;
                    let decoded = decode(&text);
                    assert_eq!(decoded, STANDARD.decode(&text).ok(), "{byte} at {at}");
                    // Canonical: what is taken has no other text.
                    assert!(decoded.is_none_or(|decoded| encode(&decoded) == text));
                }
            }
        }
    }
}
