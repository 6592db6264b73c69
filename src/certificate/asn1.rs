//! DER (X.690) of any tag, read strictly and without copying.
//!
//! Certificates have string types in them that no crate of this field knows, in names that nobody here has to understand.
//! So the structure is read here, and only what matters of it is decoded.

use std::ops::Range;

use num_bigint::BigUint;

/// Bytes that are not DER, or another element than was wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The universal tags that are read here, with the bit for constructed ones.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const NUMERIC_STRING: u8 = 0x12;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const TELETEX_STRING: u8 = 0x14;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const VISIBLE_STRING: u8 = 0x1a;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;
}

/// The elements of a part of a document, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    document: &'a [u8],
    at: usize,
    end: usize,
}

/// One element: tag, length and value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Element<'a> {
    document: &'a [u8],
    tag: u8,
    start: usize,
    value: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(document: &'a [u8]) -> Self {
        Self {
            document,
            at: 0,
            end: document.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// The next element, whatever it is.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, Malformed> {
        let start = self.at;
        let tag = self.byte()?;
        if tag & 0x1f == 0x1f {
            // The number of the tag follows, in groups of seven bits.
            while self.byte()? & 0x80 != 0 {}
        }
        let len = self.length()?;
        let value = self.at;
        let end = value.checked_add(len).ok_or(Malformed)?;
        if end > self.end {
            return Err(Malformed);
        }
        self.at = end;
        Ok(Element {
            document: self.document,
            tag,
            start,
            value,
            end,
        })
    }

    /// The next element, which has that tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<Element<'a>, Malformed> {
        self.any().and_then(|element| element.tagged(tag))
    }

    /// The next element, if it has that tag.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, Malformed> {
        let mut ahead = self.clone();
        if ahead.is_empty() || ahead.any()?.tag != tag {
            return Ok(None);
        }
        self.any().map(Some)
    }

    /// Says that nothing may follow.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        self.is_empty().then_some(()).ok_or(Malformed)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = self.document.get(self.at).filter(|_| self.at < self.end);
        self.at += 1;
        byte.copied().ok_or(Malformed)
    }

    /// A definite length in its shortest form (X.690, 10.1).
    fn length(&mut self) -> Result<usize, Malformed> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(usize::from(first));
        }
        let bytes = usize::from(first & 0x7f);
        if !(1..=4).contains(&bytes) {
            return Err(Malformed);
        }
        let mut len = 0_usize;
        for _ in 0..bytes {
            len = (len << 8) | usize::from(self.byte()?);
        }
        let shortest = len >= 0x80 && len >> (8 * (bytes - 1)) != 0;
        shortest.then_some(len).ok_or(Malformed)
    }
}

impl<'a> Element<'a> {
    /// The only element of a document.
    pub(crate) fn only(document: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(document);
        let element = reader.any()?;
        reader.finish()?;
        Ok(element)
    }

    /// The first byte of the tag: class, constructed or not, number.
    pub(crate) const fn tag(self) -> u8 {
        self.tag
    }

    /// The same, if it has that tag.
    pub(crate) fn tagged(self, tag: u8) -> Result<Self, Malformed> {
        (self.tag == tag).then_some(self).ok_or(Malformed)
    }

    /// The value, without tag and length.
    pub(crate) fn value(self) -> &'a [u8] {
        self.document.get(self.value..self.end).unwrap_or_default()
    }

    /// Tag, length and value.
    pub(crate) fn whole(self) -> &'a [u8] {
        self.document.get(self.range()).unwrap_or_default()
    }

    /// Where it is in the document, with tag and length.
    pub(crate) const fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The elements inside.
    pub(crate) const fn inside(self) -> Reader<'a> {
        Reader {
            document: self.document,
            at: self.value,
            end: self.end,
        }
    }

    /// The one element inside.
    pub(crate) fn wrapped(self) -> Result<Self, Malformed> {
        let mut reader = self.inside();
        let element = reader.any()?;
        reader.finish()?;
        Ok(element)
    }

    /// The contents of an INTEGER: two's complement, big-endian, in its shortest form.
    pub(crate) fn integer(self) -> Result<&'a [u8], Malformed> {
        match self.tagged(tag::INTEGER)?.value() {
            [] | [0x00, 0x00..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => Err(Malformed),
            value => Ok(value),
        }
    }

    /// A BOOLEAN, which DER writes in two ways alone.
    pub(crate) fn boolean(self) -> Result<bool, Malformed> {
        match self.tagged(tag::BOOLEAN)?.value() {
            [0x00] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// The bits of a BIT STRING in whole bytes, those that are not used included.
    pub(crate) fn bits(self) -> Result<&'a [u8], Malformed> {
        match self.tagged(tag::BIT_STRING)?.value() {
            [0, bits @ ..] => Ok(bits),
            [1..=7, bits @ ..] if !bits.is_empty() => Ok(bits),
            _ => Err(Malformed),
        }
    }

    /// The contents of an OBJECT IDENTIFIER: numbers in groups of seven bits, none of them padded.
    pub(crate) fn oid(self) -> Result<&'a [u8], Malformed> {
        let value = self.tagged(tag::OID)?.value();
        let ends = value.last().is_some_and(|last| last & 0x80 == 0);
        let mut first = true;
        let padded = value.iter().any(|byte| {
            let bad = first && *byte == 0x80;
            first = byte & 0x80 == 0;
            bad
        });
        (ends && !padded).then_some(value).ok_or(Malformed)
    }
}

/// The contents of an OBJECT IDENTIFIER in dotted form. Numbers are of any size: those made of a UUID have 128 bits. One that
/// is longer than any in use is shown in hexadecimal, as making decimals of it would take seconds.
pub(crate) fn dotted(oid: &[u8]) -> String {
    const LONGEST: usize = 128;
    if oid.len() > LONGEST {
        return format!("#{}", crate::hex::hex(oid));
    }
    let mut arcs = Vec::new();
    let mut arc = BigUint::ZERO;
    for byte in oid {
        arc = (arc << 7_u8) | BigUint::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            arcs.push(std::mem::take(&mut arc));
        }
    }
    // The first two share a number (X.690, 8.19.4).
    if let Some(both) = arcs.first_mut() {
        let first = (&*both / 40_u8).min(BigUint::from(2_u8));
        *both -= &first * 40_u8;
        arcs.insert(0, first);
    }
    let arcs: Vec<_> = arcs.iter().map(BigUint::to_string).collect();
    arcs.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_lengths_are_read() {
        let read = |bytes: &[u8]| Element::only(bytes).map(|element| element.value().len());
        assert_eq!(read(&[0x04, 0x00]), Ok(0));
        assert_eq!(read(&[0x04, 0x01, 0x07]), Ok(1));
        let long = |header: &[u8], len: usize| [header, &vec![0; len]].concat();
        assert_eq!(read(&long(&[0x04, 0x81, 0x80], 0x80)), Ok(0x80));
        assert_eq!(read(&long(&[0x04, 0x82, 0x01, 0x00], 0x100)), Ok(0x100));
        for bad in [
            long(&[0x04, 0x81, 0x7f], 0x7f),
            long(&[0x04, 0x82, 0x00, 0x80], 0x80),
            vec![0x04, 0x80, 0x00, 0x00],
            vec![0x04, 0x02, 0x00],
            vec![0x04, 0x84, 0xff, 0xff, 0xff, 0xff],
            vec![0x04, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            vec![0x04],
            vec![0x1f, 0x81],
            vec![],
        ] {
            assert_eq!(read(&bad), Err(Malformed), "{bad:02x?}");
        }
    }

    #[test]
    fn tags_of_several_bytes_are_passed_over() {
        let element = Element::only(&[0x5f, 0x81, 0x01, 0x01, 0x07]).unwrap();
        assert_eq!((element.tag(), element.value()), (0x5f, &[7_u8][..]));
    }

    #[test]
    fn values_of_other_forms_are_refused() {
        let element = |bytes| Element::only(bytes).unwrap();
        assert!(element(&[0x02, 0x00]).integer().is_err());
        assert!(element(&[0x02, 0x02, 0x00, 0x7f]).integer().is_err());
        assert!(element(&[0x02, 0x02, 0xff, 0x80]).integer().is_err());
        assert_eq!(
            element(&[0x02, 0x02, 0x00, 0x80]).integer(),
            Ok(&[0, 0x80][..])
        );
        assert!(element(&[0x01, 0x01, 0x01]).boolean().is_err());
        assert!(element(&[0x03, 0x01, 0x01]).bits().is_err());
        assert!(element(&[0x03, 0x02, 0x08, 0x00]).bits().is_err());
        assert!(element(&[0x06, 0x00]).oid().is_err());
        assert!(element(&[0x06, 0x02, 0x55, 0x80]).oid().is_err());
        assert!(element(&[0x06, 0x03, 0x55, 0x80, 0x01]).oid().is_err());
    }

    #[test]
    fn object_identifiers_of_any_size_are_shown() {
        let oid = |text| const_oid::ObjectIdentifier::new_unwrap(text);
        for text in ["0.0", "0.39", "1.0", "1.2.840.113549", "2.5.4.3"] {
            assert_eq!(dotted(oid(text).as_bytes()), text);
        }
        assert_eq!(dotted(&[0x88, 0x37, 0x01]), "2.999.1");
        let uuid = [&[0x69], &[0x83][..], &[0xff; 17], &[0x7f]].concat();
        assert_eq!(
            dotted(&uuid),
            "2.25.340282366920938463463374607431768211455"
        );
    }
}
