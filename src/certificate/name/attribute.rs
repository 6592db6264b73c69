//! [`Kind`]: the attribute types that have a name here, and what their values may be.

use const_oid::ObjectIdentifier;

use crate::certificate::asn1::tag;

/// An attribute type of X.520 (RFC 5280, A.1), RFC 4519 or PKCS#9.
#[derive(Debug)]
pub(super) struct Kind {
    oid: ObjectIdentifier,
    /// The first one is written, all are read, in any case.
    names: &'static [&'static str],
    syntax: Syntax,
    /// The largest number of characters.
    max: usize,
}

/// Which string type a value has, and which characters it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// `DirectoryString`, written as UTF8String.
    Directory,
    /// PrintableString.
    Printable,
    /// PrintableString of two letters.
    Country,
    /// IA5String.
    Ascii,
}

/// Without a limit of its own; RFC 5280 names this one for names of persons.
const LONG: usize = 32_768;

const KINDS: [Kind; 25] = {
    use Syntax::{Ascii, Country, Directory, Printable};
    [
        kind("2.5.4.3", &["CN", "commonName"], Directory, 64),
        kind("2.5.4.4", &["SN", "surname"], Directory, LONG),
        kind("2.5.4.5", &["serialNumber"], Printable, 64),
        kind("2.5.4.6", &["C", "countryName"], Country, 2),
        kind("2.5.4.7", &["L", "localityName"], Directory, 128),
        kind(
            "2.5.4.8",
            &["ST", "S", "stateOrProvinceName"],
            Directory,
            128,
        ),
        kind("2.5.4.9", &["STREET", "streetAddress"], Directory, 128),
        kind("2.5.4.10", &["O", "organizationName"], Directory, 64),
        kind("2.5.4.11", &["OU", "organizationalUnitName"], Directory, 64),
        kind("2.5.4.12", &["title"], Directory, 64),
        kind("2.5.4.13", &["description"], Directory, 1024),
        kind("2.5.4.15", &["businessCategory"], Directory, 128),
        kind("2.5.4.17", &["postalCode"], Directory, 40),
        kind("2.5.4.41", &["name"], Directory, LONG),
        kind("2.5.4.42", &["GN", "givenName"], Directory, LONG),
        kind("2.5.4.43", &["initials"], Directory, LONG),
        kind("2.5.4.44", &["generationQualifier"], Directory, LONG),
        kind("2.5.4.46", &["dnQualifier"], Printable, LONG),
        kind("2.5.4.65", &["pseudonym"], Directory, 128),
        kind("2.5.4.97", &["organizationIdentifier"], Directory, LONG),
        kind(
            "0.9.2342.19200300.100.1.1",
            &["UID", "userId"],
            Directory,
            256,
        ),
        kind("0.9.2342.19200300.100.1.3", &["mail"], Ascii, 256),
        kind(
            "0.9.2342.19200300.100.1.25",
            &["DC", "domainComponent"],
            Ascii,
            LONG,
        ),
        kind(
            "1.2.840.113549.1.9.1",
            &["emailAddress", "E", "email"],
            Ascii,
            255,
        ),
        kind(
            "1.3.6.1.4.1.311.60.2.1.3",
            &["jurisdictionCountryName"],
            Country,
            2,
        ),
    ]
};

const fn kind(oid: &str, names: &'static [&'static str], syntax: Syntax, max: usize) -> Kind {
    Kind {
        oid: ObjectIdentifier::new_unwrap(oid),
        names,
        syntax,
        max,
    }
}

/// What is wrong with a value, and from which of its bytes on.
#[derive(Debug)]
pub(super) struct BadValue {
    pub(super) at: usize,
    pub(super) reason: String,
}

impl Kind {
    /// The one with that OID, as it is encoded.
    pub(super) fn of(oid: &[u8]) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.oid.as_bytes() == oid)
    }

    /// The one with that name, in any case.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let has = |kind: &&Self| kind.names.iter().any(|one| one.eq_ignore_ascii_case(name));
        KINDS.iter().find(has)
    }

    /// As it is written: short where RFC 4514 has a short one.
    pub(super) fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    pub(super) const fn oid(&self) -> ObjectIdentifier {
        self.oid
    }

    /// The string type that values are written in.
    pub(super) const fn tag(&self) -> u8 {
        match self.syntax {
            Syntax::Directory => tag::UTF8_STRING,
            Syntax::Printable | Syntax::Country => tag::PRINTABLE_STRING,
            Syntax::Ascii => tag::IA5_STRING,
        }
    }

    /// Whether a value may have that string type: RFC 5280, 4.1.2.4 leaves two for new names.
    pub(super) fn allows(&self, tag: u8) -> bool {
        tag == self.tag() || (self.syntax == Syntax::Directory && tag == tag::PRINTABLE_STRING)
    }

    /// Whether such an attribute may have that value, of that string type.
    pub(super) fn check(&self, value: &str, tag: u8) -> Result<(), BadValue> {
        let name = self.name();
        if value.is_empty() {
            let reason = format!("{name} must not be empty");
            return Err(BadValue { at: 0, reason });
        }
        let fits: fn(char) -> bool = match (self.syntax, tag) {
            (Syntax::Country, _) => |c| c.is_ascii_alphabetic(),
            (_, tag::PRINTABLE_STRING) => is_printable,
            (_, tag::IA5_STRING) => |c| c.is_ascii(),
            _ => |_| true,
        };
        if let Some((at, bad)) = value.char_indices().find(|(_, c)| !fits(*c)) {
            let allowed = match self.syntax {
                Syntax::Country => "two letters",
                Syntax::Ascii => "ASCII",
                Syntax::Printable | Syntax::Directory => "letters, digits, blanks and '()+,-./:=?",
            };
            let reason = format!("{name} must not have {bad:?}: it is made of {allowed}");
            return Err(BadValue { at, reason });
        }
        if self.syntax == Syntax::Country && value.len() < self.max {
            let reason = format!("{name} has two letters (ISO 3166)");
            return Err(BadValue { at: 0, reason });
        }
        if let Some((at, _)) = value.char_indices().nth(self.max) {
            let reason = format!("{name} has at most {} characters", self.max);
            return Err(BadValue { at, reason });
        }
        Ok(())
    }
}

/// The characters of PrintableString (X.680, 41.4).
fn is_printable(c: char) -> bool {
    c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c)
}
