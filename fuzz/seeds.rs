//! Writes the seed corpora in `fuzz/seeds`: `cargo run --manifest-path fuzz/Cargo.toml --bin seeds`. They are checked in;
//! run it again when a format or a target changes.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use taskseal::issue;
use taskseal::pss::{Salt, Scheme};
use taskseal::{Certificate, Envelope, Format, Sealer, SoftwareKey, SoftwareSigner};

mod signed;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    envelopes()?;
    uris()?;
    certificates()?;
    messages()?;
    tokens()?;
    whole_messages()
}

fn envelopes() -> Result<()> {
    for (name, signer_id, body) in [
        ("plain", "Example CA worker-7 7", &b"[[1], {}, {}]"[..]),
        ("empty-body", "w 1", b""),
        ("separators", "w 2", b"a\0\x01b\0\x01\0\x01"),
        ("no-issuer", " 7", b"[]"),
        ("words", "\u{e4}\u{1f511} -128", "[\"\u{e4}\"]".as_bytes()),
    ] {
        for format in Format::ALL {
            let wire = format.pack(&Envelope {
                signer_id,
                signature: &[0, 1, 2, 0xff, 0, 1, 0x80, 0],
                content_type: "application/json",
                content_encoding: "utf-8",
                body,
            })?;
            write("envelope", &format!("{name}.{format}"), &wire)?;
            // What the target encodes itself.
            if format == Format::Celery54 {
                use base64::Engine as _;
                let raw = base64::engine::general_purpose::STANDARD.decode(&wire)?;
                write("envelope", &format!("{name}.{format}.raw"), &raw)?;
            }
        }
    }
    Ok(())
}

fn uris() -> Result<()> {
    let all = [
        "pkcs11:",
        "pkcs11:object=my-pubkey;type=public",
        "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
        "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-\
         certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
        "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
        "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1&pin-value=the-pin",
        "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
        "pkcs11:slot-description=Sun%20Metaslot",
        "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;library-version=1.23",
        "pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
        "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1;object=my-certificate;type=cert",
        "pkcs11:slot-id=327;slot-manufacturer=x;type=secret-key",
        "PKCS11:id=%00%ff;type=data?module-name=softhsm2&vendor=x",
    ];
    for (at, uri) in all.iter().enumerate() {
        write("uri", &format!("{at:02}"), uri.as_bytes())?;
    }
    Ok(())
}

fn certificates() -> Result<()> {
    let key = key(Scheme::default())?;
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for (name, subject) in [
        ("one", "CN=worker"),
        ("two", "CN=worker-7,O=Example"),
        ("words", "CN=w\u{f6}rker \u{1f511},O=\u{c4},C=DE"),
        ("several-in-one", "CN=a+O=b+OU=c,DC=example,DC=org"),
    ] {
        let end = start + Duration::from_secs(86_400);
        let certificate = issue::self_sign(&key, subject, start, end)?;
        write("certificate_id", &format!("{name}.der"), certificate.der())?;
        if name == "one" {
            write("certificate_id", "one.pem", certificate.to_pem().as_bytes())?;
        }
    }
    for file in [
        "docs/examples/worker.pem",
        "tests/data/ca-only.pem",
        "tests/data/rsa1024.pem",
    ] {
        let path = root().join("..").join(file);
        let certificate = Certificate::from_pem(&fs::read(&path)?)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        write("certificate_id", &format!("{name}.der"), certificate.der())?;
    }
    Ok(())
}

fn messages() -> Result<()> {
    let certificate = Certificate::from_pem(include_bytes!("../docs/examples/worker.pem"))?;
    for salt in Salt::ALL {
        let key = key(Scheme {
            salt,
            ..Scheme::default()
        })?;
        let signer = Arc::new(SoftwareSigner::new(key, certificate.clone())?);
        for format in Format::ALL {
            let sealer = Sealer::new(signer.clone()).with_format(format);
            for (at, body) in signed::BODIES.iter().enumerate() {
                let sealed = sealer.seal_bytes(body)?;
                write("open", &format!("{at}.{salt}.{format}"), sealed.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// Tokens of the target's two keys, one damaged, and bodies.
fn tokens() -> Result<()> {
    use base64::Engine as _;
    use taskseal::fernet::Fernet;
    use taskseal::fernet::software::SoftwareKeys;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for (name, key) in [
        ("first", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("other", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="),
    ] {
        let fernet = Fernet::new(SoftwareKeys::from_text(key)?);
        for len in [0, 15, 16, 100] {
            let token = fernet.dangerous_encrypt_with_iv(&vec![b'x'; len], at, [7; 16])?;
            write("fernet", &format!("{name}.{len}"), token.as_bytes())?;
            // Without its tag, which the target makes.
            let raw = base64::engine::general_purpose::URL_SAFE.decode(&token)?;
            let signed = &raw[..raw.len() - 32];
            write("fernet", &format!("{name}.{len}.signed"), signed)?;
            write(
                "fernet",
                &format!("{name}.{len}.cut"),
                &token.as_bytes()[..token.len() - 4],
            )?;
        }
    }
    write("fernet", "json", br#"["a", "b"]"#)?;
    write("fernet", "msgpack", b"\x92\xa1a\xc0")
}

/// JSON of kombu's, and bound content.
fn whole_messages() -> Result<()> {
    let json = br#"{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"task": "t", "timelimit": [null, null]}, "properties": {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "celery"}}, "more": 1e5}"#;
    write("message", "json", json)?;
    write("message", "small", br#"{"body": ""}"#)?;
    let mut bound = b"\xc1taskseal\0\x01\x07message".to_vec();
    bound.extend([0; 24]);
    bound.extend(b"\x01\x05queue\0\x06celery{\"body\": \"\"}");
    write("message", "bound", &bound)?;
    let mut payload = b"\xc1taskseal\0\x01\x06result".to_vec();
    payload.extend([0xff; 24]);
    payload.extend(b"\x01\x07context\0\x01xpayload");
    write("message", "payload", &payload)
}

fn key(scheme: Scheme) -> Result<SoftwareKey> {
    let pem = include_bytes!("../docs/examples/worker.key");
    Ok(SoftwareKey::from_pem(pem, None, scheme)?)
}

fn write(target: &str, name: &str, bytes: &[u8]) -> Result<()> {
    let directory = root().join("seeds").join(target);
    fs::create_dir_all(&directory)?;
    Ok(fs::write(directory.join(name), bytes)?)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
