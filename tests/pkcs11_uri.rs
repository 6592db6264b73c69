//! PKCS#11 URIs (RFC 7512): what is read, what is refused, and what is written again.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use taskseal::pkcs11::{ObjectType, PinSource, Uri, UriError};

fn parse(text: &str) -> Uri {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str) -> UriError {
    match text.parse::<Uri>() {
        Ok(uri) => panic!("{text} was read as {uri}"),
        Err(error) => error,
    }
}

/// The examples of RFC 7512, section 3, and how they are written again.
#[test]
fn examples_of_the_rfc() {
    for (text, canonical) in [
        ("pkcs11:", "pkcs11:"),
        (
            "pkcs11:object=my-pubkey;type=public",
            "pkcs11:object=my-pubkey;type=public",
        ),
        (
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
        ),
        (
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;\
             object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
            "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;serial=;model=1.0;\
             object=my-certificate;id=%69%95%3E%5C%F4%BD%EC%91;type=cert?pin-source=file:/etc/token_pin",
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
            "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
        ),
        (
            "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
            "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.",
        ),
        (
            "pkcs11:slot-description=Sun%20Metaslot",
            "pkcs11:slot-description=Sun%20Metaslot",
        ),
        (
            "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;\
             library-version=1.23",
            "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;\
             library-version=1.23",
        ),
        (
            "pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
            "pkcs11:library-version=3;token=My%20token%25%20created%20by%20Joe;id=%01%02%03%BA%DD%CA%FE%04%05%06",
        ),
        (
            "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
            "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
        ),
        (
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
        ),
    ] {
        let uri = parse(text);
        assert_eq!(uri.to_string(), canonical);
        assert_eq!(parse(canonical).to_string(), canonical);
    }
    // Vendors' path attributes narrow the choice in a way that is not understood here.
    let vendor = "pkcs11:token=my-token;object=my-certificate;type=cert;vendor-aaa=value-a?pin-source=file:/p&vendor-bbb=b";
    assert!(matches!(refused(vendor), UriError::Unknown { .. }));
}

#[test]
fn attributes_are_decoded() {
    let uri = parse(
        "PKCS11:token=a%3Bb;manufacturer=m;serial=0123456789abcdef;model=%c3%a4;slot-id=18446744073709551615;\
         object=o%2Fp;id=%00%ff;type=secret-key?module-path=/a%20b&module-name=n&pin-source=/pin&x-any=1&x-any=2&x-init-reserved=configdir%3D'sql:/d'%20flags%3D",
    );
    assert_eq!(uri.token(), Some("a;b"));
    assert_eq!(uri.manufacturer(), Some("m"));
    assert_eq!(uri.serial(), Some("0123456789abcdef"));
    assert_eq!(uri.model(), Some("ä"));
    assert_eq!(uri.slot_id(), Some(u64::MAX));
    assert_eq!(uri.object(), Some("o/p"));
    assert_eq!(uri.id(), Some(&[0, 0xff][..]));
    assert_eq!(uri.object_type(), Some(ObjectType::SecretKey));
    assert_eq!(uri.module_path().unwrap().to_str(), Some("/a b"));
    assert_eq!(uri.module_name(), Some("n"));
    assert_eq!(uri.init_reserved(), Some("configdir='sql:/d' flags="));
    assert!(
        matches!(uri.pin_source(), Ok(Some(PinSource::File(path))) if path.to_str() == Some("/pin"))
    );
    assert_eq!(parse(&uri.to_string()), uri);
    // An id may be printable too.
    assert_eq!(parse("pkcs11:id=abc").id(), Some(&b"abc"[..]));
    assert!(!parse("pkcs11:token=t").has_pin());
}

#[test]
fn the_parts_are_kept_apart() {
    for (text, name, belongs) in [
        ("pkcs11:pin-value=1234", "pin-value", "after"),
        ("pkcs11:token=t;module-path=/m", "module-path", "after"),
        ("pkcs11:?token=t", "token", "before"),
        ("pkcs11:token=t?id=%01", "id", "before"),
    ] {
        let text = refused(text).to_string();
        assert!(text.contains(name) && text.contains(belongs), "{text}");
    }
}

#[test]
fn bad_ones_are_refused_with_the_reason() {
    use UriError as E;
    type Check = fn(&UriError) -> bool;
    let table: &[(&str, Check)] = &[
        ("", |e| matches!(e, E::Scheme)),
        ("pkcs11", |e| matches!(e, E::Scheme)),
        ("pkcs1\u{e9}:token=t", |e| matches!(e, E::Scheme)),
        ("file:/etc/passwd", |e| matches!(e, E::Scheme)),
        ("pkcs11:token", |e| matches!(e, E::NoValue)),
        ("pkcs11:token=t;", |e| matches!(e, E::NoValue)),
        ("pkcs11:;token=t", |e| matches!(e, E::NoValue)),
        ("pkcs11:token=t?module-path=/m&", |e| {
            matches!(e, E::NoValue)
        }),
        ("pkcs11:token=a;token=a", |e| {
            matches!(e, E::Duplicate { name: "token" })
        }),
        ("pkcs11:?module-path=/a&module-path=/a", |e| {
            matches!(
                e,
                E::Duplicate {
                    name: "module-path"
                }
            )
        }),
        ("pkcs11:?pin-value=1&pin-value=1", |e| {
            matches!(e, E::Duplicate { name: "pin-value" })
        }),
        ("pkcs11:tokens=t", |e| matches!(e, E::Unknown { .. })),
        ("pkcs11:Token=t", |e| matches!(e, E::Unknown { .. })),
        ("pkcs11:x-vendor=t", |e| matches!(e, E::Unknown { .. })),
        ("pkcs11:?vendor=t", |e| matches!(e, E::Unknown { .. })),
        ("pkcs11:=t", |e| matches!(e, E::Unknown { .. })),
        ("pkcs11:token=a b", |e| {
            matches!(e, E::Character { found: ' ' })
        }),
        ("pkcs11:token=\u{e9}", |e| {
            matches!(e, E::Character { found: '\u{e9}' })
        }),
        ("pkcs11:token=a/b", |e| {
            matches!(e, E::Character { found: '/' })
        }),
        ("pkcs11:token=a#b", |e| {
            matches!(e, E::Character { found: '#' })
        }),
        ("pkcs11:token=a\n", |e| {
            matches!(e, E::Character { found: '\n' })
        }),
        ("pkcs11:token=%", |e| {
            matches!(e, E::Value { name: "token", .. })
        }),
        ("pkcs11:token=%4", |e| {
            matches!(e, E::Value { name: "token", .. })
        }),
        ("pkcs11:token=%4g", |e| {
            matches!(e, E::Value { name: "token", .. })
        }),
        ("pkcs11:token=%+1", |e| {
            matches!(e, E::Value { name: "token", .. })
        }),
        ("pkcs11:token=%ff", |e| {
            matches!(e, E::Value { name: "token", .. })
        }),
        ("pkcs11:?x-vendor=%zz", |e| matches!(e, E::Value { .. })),
        ("pkcs11:?x-init-reserved=a%00b", |e| {
            matches!(e, E::Value { .. })
        }),
        ("pkcs11:?x-init-reserved=a&x-init-reserved=a", |e| {
            matches!(e, E::Duplicate { .. })
        }),
        ("pkcs11:slot-id=", |e| {
            matches!(
                e,
                E::Value {
                    name: "slot-id",
                    ..
                }
            )
        }),
        ("pkcs11:slot-id=-1", |e| {
            matches!(
                e,
                E::Value {
                    name: "slot-id",
                    ..
                }
            )
        }),
        ("pkcs11:slot-id=+1", |e| {
            matches!(
                e,
                E::Value {
                    name: "slot-id",
                    ..
                }
            )
        }),
        ("pkcs11:slot-id=0x1", |e| {
            matches!(
                e,
                E::Value {
                    name: "slot-id",
                    ..
                }
            )
        }),
        ("pkcs11:slot-id=18446744073709551616", |e| {
            matches!(
                e,
                E::Value {
                    name: "slot-id",
                    ..
                }
            )
        }),
        ("pkcs11:library-version=1.2.3", |e| {
            matches!(
                e,
                E::Value {
                    name: "library-version",
                    ..
                }
            )
        }),
        ("pkcs11:library-version=256", |e| {
            matches!(
                e,
                E::Value {
                    name: "library-version",
                    ..
                }
            )
        }),
        ("pkcs11:type=key", |e| {
            matches!(e, E::Value { name: "type", .. })
        }),
        ("pkcs11:?module-path=", |e| {
            matches!(
                e,
                E::Value {
                    name: "module-path",
                    ..
                }
            )
        }),
        ("pkcs11:?module-path=/a%00b", |e| {
            matches!(
                e,
                E::Value {
                    name: "module-path",
                    ..
                }
            )
        }),
        ("pkcs11:?pin-source=file:/a%00b", |e| {
            matches!(
                e,
                E::Value {
                    name: "pin-source",
                    ..
                }
            )
        }),
        ("pkcs11:?module-name=a/b", |e| {
            matches!(
                e,
                E::Value {
                    name: "module-name",
                    ..
                }
            )
        }),
        ("pkcs11:?pin-value=", |e| {
            matches!(
                e,
                E::Value {
                    name: "pin-value",
                    ..
                }
            )
        }),
        ("pkcs11:?pin-value=1&pin-source=/p", |e| {
            matches!(e, E::TwoPins)
        }),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in table {
        match text.parse::<Uri>() {
            Err(error) if expected(&error) => {}
            other => wrong.push(format!("{text:?}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A '?' may stand in a query value (RFC 7512, pk11-query-res-avail).
    assert_eq!(
        parse("pkcs11:?module-name=m?x-a=b").module_name(),
        Some("m?x-a=b")
    );
}

#[test]
fn lengths_are_limited() {
    assert!(matches!(
        refused(&format!("pkcs11:token={}", "%41".repeat(3000))),
        UriError::TooLong { .. }
    ));
    assert!(matches!(
        refused(&format!("pkcs11:id={}", "%41".repeat(256))),
        UriError::Value { name: "id", .. }
    ));
    assert!(
        parse(&format!("pkcs11:id={}", "%41".repeat(255)))
            .id()
            .is_some()
    );
    let path = format!("pkcs11:?module-path=/{}", "a".repeat(4096));
    assert!(matches!(
        refused(&path),
        UriError::Value {
            name: "module-path",
            ..
        }
    ));
}

#[test]
fn the_pin_is_never_shown() {
    let uri = parse("pkcs11:token=t?pin-value=s3cret");
    assert!(!format!("{uri} {uri:?}").contains("s3cret"));
    assert!(format!("{uri:?}").contains("redacted"));
    assert_ne!(uri, parse("pkcs11:token=t?pin-value=another"));
    for bad in [
        "pkcs11:token=t?pin-value=s3cret&pin-source=/p",
        "pkcs11:pin-value=s3cret",
        "pkcs11:?pin-value=s3cret%",
        "pkcs11:token=t?module-path=/x?pin-value=s3cret",
        "pkcs11:token=t?module-path=/x;pin=s3cret",
        "pkcs11:token=t?pin-source=/x?pin-value=s3cret",
        "pkcs11:token=t&pin-value=s3cret",
        "pkcs11:token=t;object=o&pni-value=s3cret?module-path=/x",
    ] {
        let error = refused(bad);
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
    // Where the PIN is put that belongs in the file.
    let source = parse("pkcs11:token=t?pin-source=s3cret").pin_source();
    let error = source.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
}

/// Other separators may stand in values, as RFC 7512 allows, and where they must belong to the value.
#[test]
fn separators_in_values_that_begin_no_attribute_are_kept() {
    let uri = parse("pkcs11:token=R&D;object=a%26b=c?module-path=/opt/what?.so");
    assert_eq!(uri.object(), Some("a&b=c"));
    assert_eq!(uri, parse(&uri.to_string()));
}
