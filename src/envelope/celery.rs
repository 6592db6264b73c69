//! The wire forms of Celery's `auth` serializer.
//!
//! ```text
//! celery       base64( base64(signer id) 00 01 base64(signature) 00 01 content type 00 01 content encoding 00 01 body )
//! celery-raw           base64(signer id) 00 01 base64(signature) 00 01 content type 00 01 content encoding 00 01 body
//! celery-5.4   base64( signer id 00 01 signature 00 01 content type 00 01 content encoding 00 01 body )
//! ```
//!
//! A message tells which it is: only the raw form has a zero byte; a signer id ends in a space and the serial number, and
//! base64 has no space, so a space before the first separator means `celery-5.4`.

use std::borrow::Cow;
use std::ops::Range;

use super::error::{EnvelopeError, Field};
use super::format::Format;
use super::parts::{Envelope, Unpacked};
use crate::base64::{decode, encode, encoded_len};
use crate::error::Untrusted;
use crate::pss::KeySizes;

/// What stands between two fields.
pub(crate) const SEPARATOR: [u8; 2] = [0, 1];

/// The longest signer id, in bytes. A name in a certificate has no limit, but a lookup key needs one.
const MAX_SIGNER_ID: usize = 8 * 1024;
/// The longest signature, in bytes.
const MAX_SIGNATURE: usize = KeySizes::MAX / 8;
/// The longest content type or content encoding, in bytes (RFC 6838, 4.2: 127 for each half of the type).
const MAX_LABEL: usize = 255;

pub(super) fn pack(format: Format, envelope: &Envelope<'_>) -> Result<Vec<u8>, EnvelopeError> {
    check_signer_id(envelope.signer_id.as_bytes())?;
    if format == Format::Celery54 && find_separator(envelope.signer_id.as_bytes()).is_some() {
        return Err(EnvelopeError::Separator {
            field: Field::SignerId,
            format,
        });
    }
    check_len(Field::Signature, envelope.signature, MAX_SIGNATURE)?;
    check_label(Field::ContentType, envelope.content_type.as_bytes())?;
    check_label(Field::ContentEncoding, envelope.content_encoding.as_bytes())?;

    let (signer_id, signature): (Cow<'_, [u8]>, Cow<'_, [u8]>) = match format {
        Format::Celery | Format::CeleryRaw => (
            encode(envelope.signer_id.as_bytes()).into(),
            encode(envelope.signature).into(),
        ),
        Format::Celery54 => (
            envelope.signer_id.as_bytes().into(),
            envelope.signature.into(),
        ),
    };
    let fields: [&[u8]; 5] = [
        &signer_id,
        &signature,
        envelope.content_type.as_bytes(),
        envelope.content_encoding.as_bytes(),
        envelope.body,
    ];
    let raw = fields.join(&SEPARATOR[..]);
    Ok(if format.is_text() { encode(&raw) } else { raw })
}

/// Unpacks a wire form that is in one of `accepted`.
pub(crate) fn unpack<'w>(
    accepted: &[Format],
    wire: &'w [u8],
    signature_len: &dyn Fn(&str) -> Option<usize>,
) -> Result<Unpacked<'w>, EnvelopeError> {
    // The first field of the raw form is base64 and ends at a zero byte; the text forms have no zero byte at all.
    let head = wire.get(..encoded_len(MAX_SIGNER_ID) + 1).unwrap_or(wire);
    // `contains` looks at many bytes at a time, which an iterator does not.
    let is_raw = head.contains(&0);
    if is_raw {
        let buffer = Cow::Borrowed(wire);
        return match accepted.contains(&Format::CeleryRaw) {
            true => unpack_fields(Format::CeleryRaw, buffer, signature_len),
            // A text form with a zero byte in it is damaged text; say that, unless only its kind is the trouble.
            false => Err(EnvelopeError::Base64 {
                field: Field::Envelope,
            }),
        };
    }
    if !accepted.iter().any(|format| format.is_text()) {
        return Err(if wire.is_empty() {
            EnvelopeError::Empty {
                field: Field::Envelope,
            }
        } else {
            EnvelopeError::MissingSeparator {
                after: Field::SignerId,
            }
        });
    }
    if wire.is_empty() {
        return Err(EnvelopeError::Empty {
            field: Field::Envelope,
        });
    }
    let buffer = decode(wire).ok_or(EnvelopeError::Base64 {
        field: Field::Envelope,
    })?;
    let found = match accepted {
        // Told, not found out: then the error is about the field and not about the format.
        [only] => *only,
        _ if buffer
            .iter()
            .take_while(|byte| **byte != 0)
            .any(|byte| *byte == b' ') =>
        {
            Format::Celery54
        }
        _ => Format::Celery,
    };
    if !accepted.contains(&found) {
        return Err(EnvelopeError::Format { found });
    }
    unpack_fields(found, Cow::Owned(buffer), signature_len)
}

fn unpack_fields<'w>(
    format: Format,
    buffer: Cow<'w, [u8]>,
    signature_len: &dyn Fn(&str) -> Option<usize>,
) -> Result<Unpacked<'w>, EnvelopeError> {
    let mut cursor = Cursor {
        buffer: &buffer,
        at: 0,
    };
    let (signer_id, signature) = if format == Format::Celery54 {
        let signer_id = signer_id_text(cursor.slice(Field::SignerId, MAX_SIGNER_ID)?.to_vec())?;
        let len = signature_len(&signer_id).ok_or_else(|| EnvelopeError::SignatureLength {
            signer_id: Untrusted::new(&signer_id),
        })?;
        (signer_id, cursor.exactly(Field::Signature, len)?.to_vec())
    } else {
        let signer_id = cursor.base64(Field::SignerId, MAX_SIGNER_ID)?;
        (
            signer_id_text(signer_id)?,
            cursor.base64(Field::Signature, MAX_SIGNATURE)?,
        )
    };
    if signature.is_empty() {
        return Err(EnvelopeError::Empty {
            field: Field::Signature,
        });
    }
    let content_type = cursor.label(Field::ContentType)?;
    let content_encoding = cursor.label(Field::ContentEncoding)?;
    let body_start = cursor.at;
    Ok(Unpacked {
        format,
        signer_id,
        signature,
        buffer,
        content_type,
        content_encoding,
        body_start,
    })
}

/// Walks over the fields of a message.
struct Cursor<'b> {
    buffer: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn rest(&self) -> &'b [u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// The range up to the next separator, which may be `max` bytes on at the most.
    fn field(&mut self, field: Field, max: usize) -> Result<Range<usize>, EnvelopeError> {
        let rest = self.rest();
        let len = find_separator(rest.get(..max + SEPARATOR.len()).unwrap_or(rest)).ok_or(
            if rest.len() > max + 1 {
                EnvelopeError::TooLong { field, max }
            } else {
                EnvelopeError::MissingSeparator { after: field }
            },
        )?;
        let start = self.at;
        self.at += len + SEPARATOR.len();
        Ok(start..start + len)
    }

    fn slice(&mut self, field: Field, max: usize) -> Result<&'b [u8], EnvelopeError> {
        let range = self.field(field, max)?;
        Ok(self.buffer.get(range).unwrap_or_default())
    }

    /// A field of at most `max` bytes in base64.
    fn base64(&mut self, field: Field, max: usize) -> Result<Vec<u8>, EnvelopeError> {
        let encoded = self.slice(field, encoded_len(max))?;
        decode(encoded).ok_or(EnvelopeError::Base64 { field })
    }

    /// A field of exactly `len` bytes, which may hold the separator, and the separator after it.
    fn exactly(&mut self, field: Field, len: usize) -> Result<&'b [u8], EnvelopeError> {
        let rest = self.rest();
        let missing = EnvelopeError::MissingSeparator { after: field };
        let (bytes, after) = rest.split_at_checked(len).ok_or(missing.clone())?;
        if !after.starts_with(&SEPARATOR) {
            return Err(missing);
        }
        self.at += len + SEPARATOR.len();
        Ok(bytes)
    }

    fn label(&mut self, field: Field) -> Result<Range<usize>, EnvelopeError> {
        let range = self.field(field, MAX_LABEL)?;
        check_label(field, self.buffer.get(range.clone()).unwrap_or_default())?;
        Ok(range)
    }
}

fn signer_id_text(bytes: Vec<u8>) -> Result<String, EnvelopeError> {
    check_signer_id(&bytes)?;
    String::from_utf8(bytes).map_err(|_| EnvelopeError::NotText {
        field: Field::SignerId,
        wanted: "UTF-8",
    })
}

fn check_signer_id(bytes: &[u8]) -> Result<(), EnvelopeError> {
    check_len(Field::SignerId, bytes, MAX_SIGNER_ID)
}

fn check_label(field: Field, bytes: &[u8]) -> Result<(), EnvelopeError> {
    check_len(field, bytes, MAX_LABEL)?;
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(EnvelopeError::NotText {
            field,
            wanted: "visible ASCII",
        });
    }
    Ok(())
}

fn check_len(field: Field, bytes: &[u8], max: usize) -> Result<(), EnvelopeError> {
    match bytes.len() {
        0 => Err(EnvelopeError::Empty { field }),
        len if len > max => Err(EnvelopeError::TooLong { field, max }),
        _ => Ok(()),
    }
}

/// Where the first separator begins.
fn find_separator(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let zero = from + bytes.get(from..)?.iter().position(|byte| *byte == 0)?;
        if bytes.get(zero..)?.starts_with(&SEPARATOR) {
            return Some(zero);
        }
        from = zero + 1;
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const PARTS: Envelope<'static> = Envelope {
        signer_id: "worker 7",
        signature: &[0xab; 256],
        content_type: "application/json",
        content_encoding: "utf-8",
        body: b"[[1], {}, {}]",
    };

    fn len_of(_: &str) -> Option<usize> {
        Some(256)
    }

    #[test]
    fn packs_byte_for_byte() {
        let raw = Format::CeleryRaw.pack(&PARTS).unwrap();
        let mut expected = b"d29ya2VyIDc=\0\x01".to_vec();
        expected.extend(STANDARD.encode([0xab; 256]).bytes());
        expected.extend(b"\0\x01application/json\0\x01utf-8\0\x01[[1], {}, {}]");
        assert_eq!(raw, expected);
        assert_eq!(
            Format::Celery.pack(&PARTS).unwrap(),
            STANDARD.encode(&raw).into_bytes()
        );

        let old = STANDARD
            .decode(Format::Celery54.pack(&PARTS).unwrap())
            .unwrap();
        let mut expected = b"worker 7\0\x01".to_vec();
        expected.extend([0xab; 256]);
        expected.extend(b"\0\x01application/json\0\x01utf-8\0\x01[[1], {}, {}]");
        assert_eq!(old, expected);
    }

    #[test]
    fn unpacks_what_it_packed_and_tells_the_formats_apart() {
        for body in [&b"[1]"[..], b"", b"a\0\x01b\0\x01", &[0xff; 3000]] {
            for signature in [[0xab; 256], [0; 256]].iter().chain([&{
                let mut tricky = [0; 256];
                tricky
                    .iter_mut()
                    .skip(1)
                    .step_by(2)
                    .for_each(|byte| *byte = 1);
                tricky
            }]) {
                let parts = Envelope {
                    body,
                    signature,
                    ..PARTS
                };
                for format in Format::ALL {
                    let wire = format.pack(&parts).unwrap();
                    let unpacked = format.unpack(&wire, len_of).unwrap();
                    assert_eq!(unpacked.envelope(), parts);
                    let unpacked = unpack(&Format::ALL, &wire, &len_of).unwrap();
                    assert_eq!((unpacked.format(), unpacked.envelope()), (format, parts));
                    assert_eq!(unpacked.into_body(), body);
                }
            }
        }
    }

    #[test]
    fn a_format_that_is_not_accepted_is_named() {
        let old = Format::Celery54.pack(&PARTS).unwrap();
        let error = unpack(&[Format::Celery, Format::CeleryRaw], &old, &len_of).unwrap_err();
        assert_eq!(
            error,
            EnvelopeError::Format {
                found: Format::Celery54
            }
        );
    }

    #[test]
    fn every_truncation_is_an_error_that_names_a_field() {
        let raw = Format::CeleryRaw.pack(&PARTS).unwrap();
        let body_at = raw.len() - PARTS.body.len();
        for len in 0..body_at {
            let cut = raw.get(..len).unwrap();
            let text = STANDARD.encode(cut);
            let errors = [
                Format::CeleryRaw.unpack(cut, len_of).unwrap_err(),
                Format::Celery.unpack(text.as_bytes(), len_of).unwrap_err(),
            ];
            // The field that is cut is the one that has no end, or nothing in it.
            let ends = [
                Field::SignerId,
                Field::Signature,
                Field::ContentType,
                Field::ContentEncoding,
            ];
            for error in errors {
                let (EnvelopeError::MissingSeparator { after: field }
                | EnvelopeError::Base64 { field }
                | EnvelopeError::Empty { field }) = error
                else {
                    panic!("{len}: {error}");
                };
                let expected = if len == 0 {
                    field == Field::Envelope
                } else {
                    ends.contains(&field)
                };
                assert!(expected, "{len}: {error}");
            }
        }
        let text = Format::Celery.pack(&PARTS).unwrap();
        for len in (0..text.len()).filter(|len| len % 4 != 0) {
            let error = Format::Celery
                .unpack(text.get(..len).unwrap(), len_of)
                .unwrap_err();
            assert_eq!(
                error,
                EnvelopeError::Base64 {
                    field: Field::Envelope
                }
            );
        }
    }

    #[test]
    fn leniencies_of_the_stock_decoder_are_refused() {
        let good = String::from_utf8(Format::Celery.pack(&PARTS).unwrap()).unwrap();
        let outer = EnvelopeError::Base64 {
            field: Field::Envelope,
        };
        for bad in [
            format!("{good}\n"),
            format!("{good}="),
            format!("{}\r\n{}", &good[..64], &good[64..]),
            format!("{}!{}", &good[..64], &good[64..]),
            good.replace('A', "-"),
            format!("{good}QQ=="),
        ] {
            assert_eq!(
                Format::Celery.unpack(bad.as_bytes(), len_of).unwrap_err(),
                outer
            );
        }
        // "QR==" decodes to the same byte as "QQ==" when trailing bits are ignored.
        let inner = |signer: &str| {
            let raw = format!("{signer}\0\x01QQ==\0\x01application/json\0\x01utf-8\0\x01[]");
            Format::Celery
                .unpack(STANDARD.encode(raw).as_bytes(), len_of)
                .map(drop)
        };
        assert_eq!(inner("QQ=="), Ok(()));
        let signer = Err(EnvelopeError::Base64 {
            field: Field::SignerId,
        });
        for bad in ["QR==", "Q Q=", "QQ", "QQ==\n", "Q_=="] {
            assert_eq!(inner(bad), signer, "{bad}");
        }
    }

    #[test]
    fn limits_are_checked_before_anything_is_decoded() {
        let fields = |signer: usize, signature: usize, label: usize| {
            let raw = [
                STANDARD.encode(vec![b'a'; signer]).as_bytes(),
                STANDARD.encode(vec![1; signature]).as_bytes(),
                &vec![b'a'; label],
                b"utf-8",
                b"",
            ]
            .join(&SEPARATOR[..]);
            Format::CeleryRaw
                .unpack(&raw, len_of)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        assert_eq!(fields(8192, 1024, 255), Ok(()));
        assert!(fields(8196, 1, 1).is_err());
        assert_eq!(
            fields(1, 1027, 1).unwrap_err(),
            "the signature is longer than 1368 bytes"
        );
        assert_eq!(
            fields(1, 1, 256).unwrap_err(),
            "the content type is longer than 255 bytes"
        );
        assert_eq!(fields(1, 1, 0).unwrap_err(), "the content type is empty");
        assert_eq!(fields(1, 0, 1).unwrap_err(), "the signature is empty");
        assert_eq!(fields(0, 1, 1).unwrap_err(), "the signer id is empty");
    }

    #[test]
    fn parts_that_cannot_be_read_back_are_not_packed() {
        let id = "a\0\u{1}b 7";
        let parts = Envelope {
            signer_id: id,
            ..PARTS
        };
        assert!(Format::Celery.pack(&parts).is_ok());
        assert_eq!(
            Format::Celery54.pack(&parts),
            Err(EnvelopeError::Separator {
                field: Field::SignerId,
                format: Format::Celery54
            })
        );
        for label in ["", "a b", "a\0\u{1}b", "ä"] {
            assert!(
                Format::Celery
                    .pack(&Envelope {
                        content_type: label,
                        ..PARTS
                    })
                    .is_err()
            );
            assert!(
                Format::Celery
                    .pack(&Envelope {
                        content_encoding: label,
                        ..PARTS
                    })
                    .is_err()
            );
        }
        assert!(
            Format::Celery
                .pack(&Envelope {
                    signature: &[],
                    ..PARTS
                })
                .is_err()
        );
        assert!(
            Format::Celery
                .pack(&Envelope {
                    signer_id: "",
                    ..PARTS
                })
                .is_err()
        );
    }

    #[test]
    fn an_unknown_signer_of_the_old_format_is_named() {
        let wire = Format::Celery54.pack(&PARTS).unwrap();
        let error = Format::Celery54.unpack(&wire, |_| None).unwrap_err();
        assert!(error.to_string().contains("\"worker 7\""), "{error}");
    }

    #[test]
    fn inspection_guesses_the_length_of_an_old_signature() {
        for len in [128, 256, 384, 512, 1024] {
            let signature = vec![9; len];
            let parts = Envelope {
                signature: &signature,
                ..PARTS
            };
            let wire = Format::Celery54.pack(&parts).unwrap();
            let unpacked = super::super::dangerous_inspect_unverified(&wire, None).unwrap();
            assert_eq!(unpacked.envelope(), parts);
        }
    }
}
