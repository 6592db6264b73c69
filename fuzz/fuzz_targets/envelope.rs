//! Unpacking believes nothing, and what it takes has one encoding: packing it again gives the same bytes.
#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use taskseal::Format;
use taskseal::envelope::{Unpacked, dangerous_inspect_unverified};

/// The signature's length in the seeds' `celery-5.4` messages: short, so that the fuzzer gets past it.
const SIGNATURE_LEN: usize = 8;

fuzz_target!(|data: &[u8]| {
    for format in Format::ALL {
        if let Ok(unpacked) = unpack(format, data) {
            packs_again(&unpacked, data);
        }
    }

    // The fields, without having to guess base64 of them.
    let text = STANDARD.encode(data).into_bytes();
    for format in [Format::Celery, Format::Celery54] {
        if let Ok(unpacked) = unpack(format, &text) {
            packs_again(&unpacked, &text);
        }
    }
    // The outer base64 is all that tells these two apart.
    match (
        unpack(Format::Celery, &text),
        unpack(Format::CeleryRaw, data),
    ) {
        (Ok(text), Ok(raw)) => assert_eq!(text.envelope(), raw.envelope()),
        (Err(_), Err(_)) => {}
        (text, raw) => panic!("celery: {text:?}, celery-raw: {raw:?}"),
    }

    for wire in [data, &text] {
        if let Ok(unpacked) = dangerous_inspect_unverified(wire, None) {
            packs_again(&unpacked, wire);
            let _ = format!("{unpacked:?}");
            let body = unpacked.body().to_vec();
            assert_eq!(unpacked.into_body(), body);
        }
    }
});

fn unpack(format: Format, wire: &[u8]) -> Result<Unpacked<'_>, taskseal::EnvelopeError> {
    format
        .unpack(wire, |_| Some(SIGNATURE_LEN))
        .inspect_err(|error| assert!(error.to_string().len() < 2000))
}

fn packs_again(unpacked: &Unpacked<'_>, wire: &[u8]) {
    let packed = unpacked.format().pack(&unpacked.envelope());
    assert_eq!(packed.as_deref(), Ok(wire), "{unpacked:?}");
}
