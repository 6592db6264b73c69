//! Whole messages: what comes out was sealed, whatever came in; and what a holder of the Fernet key can put into a token, and
//! one of a trusted key under a signature.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::message::BOUND_CONTENT_TYPE;
use taskseal::pss::Scheme;
use taskseal::{
    Certificate, Destination, Envelope, Fernet, Format, KombuMessage, MemoryCertStore,
    MessageOpener, MultiFernet, Opener, Sealer, Signer as _, SoftwareKey, SoftwareSigner,
};

struct Fixture {
    fernet: MultiFernet,
    signer: Arc<SoftwareSigner>,
    signed: MessageOpener,
    encrypted: MessageOpener,
    both: MessageOpener,
    at: SystemTime,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let certificate =
        Certificate::from_pem(include_bytes!("../../docs/examples/worker.pem")).expect("it is one");
    let key = SoftwareKey::from_pem(
        include_bytes!("../../docs/examples/worker.key"),
        None,
        Scheme::default(),
    );
    let signer =
        SoftwareSigner::new(key.expect("it is one"), certificate.clone()).expect("they are a pair");
    let at = certificate.not_before() + Duration::from_secs(3600);
    let store = MemoryCertStore::new();
    store.add(certificate).expect("the store is empty");
    let keys =
        SoftwareKeys::from_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("it is one");
    let fernet = MultiFernet::from(Fernet::new(keys));
    let opener = Opener::new(store);
    Fixture {
        signer: Arc::new(signer),
        signed: MessageOpener::signed(opener.clone()),
        encrypted: MessageOpener::encrypted(fernet.clone()),
        both: MessageOpener::signed_and_encrypted(opener, fernet.clone()),
        fernet,
        at,
    }
});

fuzz_target!(|data: &[u8]| {
    let fixture = &*FIXTURE;
    let any = [Destination::any()];
    // Nothing was ever sealed with these, so nothing opens.
    let token = fixture
        .fernet
        .encrypt_at(data, fixture.at)
        .expect("the keys work");
    for wire in [data, token.as_bytes()] {
        for opener in [&fixture.signed, &fixture.both] {
            let error = opener
                .open_at(wire, &any, fixture.at)
                .expect_err("it was not signed");
            assert!(error.to_string().len() < 2000);
            assert!(
                opener
                    .open_payload_at(wire, "result", "x", fixture.at)
                    .is_err()
            );
        }
    }
    if let Ok(opened) = fixture
        .encrypted
        .open_at(token.as_bytes(), &any, fixture.at)
    {
        assert_eq!(opened.payload(), data);
    }
    let _ = fixture
        .encrypted
        .open_payload_at(token.as_bytes(), "result", "x", fixture.at);
    // A message that is read is written and read again as the same.
    if let Ok(message) = KombuMessage::from_json(data) {
        let json = message.to_json().expect("it is not longer");
        let again = KombuMessage::from_json(&json).expect("it was just written");
        assert_eq!(again.to_json().expect("as before"), json);
        let _ = message.body();
    }
    if data.starts_with(b"\xc1taskseal\0") {
        // The two scopes never meet.
        let sealer = Sealer::new(fixture.signer.clone());
        assert!(sealer.seal_bytes(data).is_err());
        bound(fixture, data);
    }
});

/// Content that a trusted signer has bound in whatever way: its header is read behind the signature alone.
fn bound(fixture: &Fixture, content: &[u8]) {
    let signature = fixture.signer.sign(content).expect("the key works");
    let wire = Format::Celery
        .pack(&Envelope {
            signer_id: signature.certificate().id(),
            signature: signature.as_bytes(),
            content_type: BOUND_CONTENT_TYPE,
            content_encoding: "binary",
            body: content,
        })
        .expect("it is short");
    let opener = fixture
        .signed
        .clone()
        .with_max_age(Duration::MAX)
        .with_clock_skew(Duration::MAX);
    let any = [Destination::any()];
    if let Ok(opened) = opener.open_at(&wire, &any, fixture.at) {
        assert!(content.ends_with(opened.payload()));
        assert!(opened.signer().is_some() && opened.id().is_some());
        let _ = opened.message();
    }
    if let Ok(opened) = opener.open_payload_at(&wire, "result", "x", fixture.at) {
        assert!(content.ends_with(opened.payload()));
    }
}
