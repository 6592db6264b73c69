//! How much memory opening takes: one buffer of the body's size, whatever the message is, and nothing for what is refused
//! by its length.
//!
//! Counts what Rust code allocates on the thread that opens. `aws-lc` allocates with C's `malloc`, which is not counted;
//! of the message it sees the finished buffer alone, and keeps the state of a hash.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::keys::signer;
use taskseal::pss::Scheme;
use taskseal::{CertStore, Format, MemoryCertStore, Opened, Opener, Policy, Sealer};

const MIB: usize = 1 << 20;

/// The system's allocator, and what each thread has asked of it.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    // A thread that is ending has no counters any more; nothing is measured there.
    let _ = NOW.try_with(|now| {
        now.set(now.get().wrapping_add(more).wrapping_sub(less));
        TOTAL.with(|total| total.set(total.get() + more));
        // What was allocated elsewhere and is freed here makes the counter wrap; that is no peak.
        let signed = now.get() as isize;
        PEAK.with(|peak| peak.set(peak.get().max(signed.max(0) as usize)));
    });
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: every call goes to the system's allocator with the arguments it came with, and what that returns is returned;
// counting touches nothing but thread-local integers and allocates nothing. The trait itself is unsafe, so a counting
// allocator cannot be written without.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps `alloc`'s contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // As if it were always moved: the worst case.
        count(new_size, 0);
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What a call allocated, in bytes.
#[derive(Debug, Clone, Copy)]
struct Used {
    /// The most that it held at one time.
    peak: usize,
    /// All that it asked for, freed or not.
    total: usize,
}

fn measure<T>(call: impl FnOnce() -> T) -> (T, Used) {
    NOW.set(0);
    PEAK.set(0);
    TOTAL.set(0);
    let result = call();
    let used = Used {
        peak: PEAK.get(),
        total: TOTAL.get(),
    };
    (result, used)
}

fn sealer_and_opener() -> (Sealer, Opener) {
    let signer = signer(2048, Scheme::default(), "CN=worker,O=Example");
    let store = MemoryCertStore::new();
    store.add(signer.certificate().clone()).unwrap();
    assert!(store.get(signer.certificate().id()).is_some());
    let policy = Policy::new()
        .formats(Format::ALL)
        .max_message_len(160 * MIB);
    (Sealer::new(signer), Opener::new(store).with_policy(policy))
}

#[test]
fn the_counting_counts() {
    let (kept, used) = measure(|| {
        drop(vec![1_u8; 1000]);
        let mut grown = Vec::<u8>::with_capacity(100);
        grown.reserve_exact(500);
        (grown, vec![0_u8; 3000])
    });
    assert_eq!(used.total, 1000 + 100 + 500 + 3000);
    assert_eq!(used.peak, 500 + 3000);
    drop(kept);
}

#[test]
fn a_body_of_64_mib_is_opened_in_one_buffer() {
    let (sealer, opener) = sealer_and_opener();
    let body = vec![b' '; 64 * MIB];
    for format in Format::ALL {
        let wire = sealer
            .clone()
            .with_format(format)
            .seal_bytes(&body)
            .unwrap();
        // The first message of a signer prepares its key; that belongs to the store, not to the message.
        opener
            .open(
                sealer
                    .clone()
                    .with_format(format)
                    .seal(&1)
                    .unwrap()
                    .as_bytes(),
            )
            .unwrap();
        let (opened, used) = measure(|| opener.open(wire.as_bytes()).unwrap());
        assert_eq!(opened.body().len(), body.len());
        // The raw form is borrowed from the wire, the text forms are decoded once. 5 % is far more than the fields need.
        let allowed = match format {
            Format::CeleryRaw => 16 * 1024,
            _ => body.len() + body.len() / 20,
        };
        assert!(
            used.peak <= allowed && used.total <= allowed,
            "{format}: {used:?}"
        );
        // Taking the body over takes no second buffer either.
        let (taken, used) = measure(|| opened.into_body());
        assert!(taken == body);
        let allowed = match format {
            Format::CeleryRaw => body.len(),
            _ => 0,
        };
        assert!(used.total <= allowed, "{format}: {used:?}");
    }
}

/// The cost of the fields does not grow with the body.
#[test]
fn a_small_body_takes_little_more_than_its_wire() {
    let (sealer, opener) = sealer_and_opener();
    let wire = sealer.seal(&[1, 2, 3]).unwrap();
    opener.open(wire.as_bytes()).unwrap();
    let (opened, used) = measure(|| opener.open(wire.as_bytes()).map(Opened::into_body));
    assert!(opened.is_ok());
    assert!(used.total < 2 * wire.as_bytes().len(), "{used:?}");
}

#[test]
fn hostile_input_of_60_mib_takes_at_most_twice_its_size() {
    let (sealer, opener) = sealer_and_opener();
    let mut forged = sealer
        .seal_bytes(&vec![b' '; 48 * MIB])
        .unwrap()
        .into_bytes();
    let last = forged.len() - 9;
    forged[last] ^= 2;
    let long_label = [&b"QQ==\0\x01QQ==\0\x01"[..], &vec![b'a'; 60 * MIB]].concat();
    let long_id = vec![b'Q'; 60 * MIB];
    let inputs: [(&str, Vec<u8>); 10] = [
        ("forged", forged),
        ("zeros", vec![0; 60 * MIB]),
        ("separators", [0, 1].repeat(30 * MIB)),
        ("base64 of zeros", vec![b'A'; 60 * MIB]),
        ("padding", vec![b'='; 60 * MIB]),
        (
            "bad at the end",
            [vec![b'A'; 60 * MIB], b"!".to_vec()].concat(),
        ),
        (
            "base64 of separators",
            STANDARD.encode([0, 1].repeat(24 * MIB)).into(),
        ),
        ("long label", long_label.clone()),
        ("base64 of a long label", STANDARD.encode(long_label).into()),
        (
            "base64 of a long signer id",
            STANDARD.encode(long_id).into(),
        ),
    ];
    for (name, wire) in inputs {
        assert!(wire.len() >= 60 * MIB, "{name}");
        let (error, used) = measure(|| opener.open(&wire).map(drop).unwrap_err());
        // Beside the wire itself, which the caller holds: at most as much again, so twice the input in all.
        assert!(
            used.peak <= wire.len() && used.total <= wire.len(),
            "{name}: {error}: {used:?} for {}",
            wire.len()
        );
        assert!(error.to_string().len() < 1000, "{name}");
    }
}

#[test]
fn a_wire_over_the_limit_allocates_next_to_nothing() {
    let (_, opener) = sealer_and_opener();
    let opener = opener.with_policy(Policy::new());
    let wire = vec![b'A'; 70 * MIB];
    let (error, used) = measure(|| opener.open(&wire).map(drop).unwrap_err());
    assert_eq!(error.reason(), "too-large");
    assert!(used.total < 4096, "{used:?}");
    let (error, used) = measure(|| {
        opener
            .open_message("application/json", &wire)
            .map(drop)
            .unwrap_err()
    });
    assert_eq!(error.reason(), "not-sealed");
    assert!(used.total < 4096, "{used:?}");
}

/// A token is decoded once and decrypted in place; the envelope in it is borrowed, and its body the end of that buffer.
#[test]
fn a_whole_message_is_opened_in_one_buffer() {
    use taskseal::fernet::software::SoftwareKeys;
    use taskseal::{Destination, Fernet, MessageOpener, MessageSealer};

    let (sealer, opener) = sealer_and_opener();
    let fernet = Fernet::new(SoftwareKeys::generate().unwrap());
    let forms = [
        (
            MessageSealer::encrypted(fernet.clone()),
            MessageOpener::encrypted(fernet.clone()),
        ),
        (
            MessageSealer::signed(sealer.signer().clone()),
            MessageOpener::signed(opener.clone()),
        ),
        (
            MessageSealer::signed_and_encrypted(sealer.signer().clone(), fernet.clone()),
            MessageOpener::signed_and_encrypted(opener, fernet),
        ),
    ];
    let json = format!(r#"{{"body": "{}"}}"#, "x".repeat(6 * MIB));
    let any = [Destination::any()];
    for (sealer, opener) in forms {
        let opener = opener.with_max_len(16 * MIB);
        let wire = sealer.seal_json(json.as_bytes(), &any[0]).unwrap();
        // The first message of a signer prepares its key.
        let small = sealer.seal_json(br#"{"body": ""}"#, &any[0]).unwrap();
        opener.open(small.as_bytes(), &any).unwrap();
        let (opened, used) = measure(|| opener.open(wire.as_bytes(), &any).unwrap());
        assert_eq!(opened.payload().len(), json.len());
        let allowed = json.len() + json.len() / 20;
        assert!(used.peak <= allowed && used.total <= allowed, "{used:?}");

        let mut forged = wire.into_bytes();
        let last = forged.len() - 9;
        forged[last] ^= 2;
        for hostile in [
            forged,
            vec![b'A'; 12 * MIB],
            vec![b'='; 12 * MIB],
            [vec![b'A'; 12 * MIB], b"!".to_vec()].concat(),
        ] {
            let (error, used) = measure(|| opener.open(&hostile, &any).unwrap_err());
            assert!(used.peak <= hostile.len(), "{error}: {used:?}");
        }
        let (_, used) = measure(|| opener.open(&vec![b'A'; 17 * MIB], &any).unwrap_err());
        assert!(
            used.peak <= 17 * MIB + 4096,
            "nothing but the vector: {used:?}"
        );
    }
}

/// Reading the JSON takes a copy of what is in it and little more, also where it is made of fields.
#[test]
fn a_message_takes_a_bounded_multiple_of_its_json() {
    use taskseal::KombuMessage;
    let body = format!(r#"{{"body": "{}"}}"#, "x".repeat(6 * MIB));
    let nested = format!(
        r#"{{"body": "", "headers": {{"x": {}}}}}"#,
        "[".repeat(6 * MIB)
    );
    let fields: Vec<String> = (0..200_000).map(|at| format!(r#""{at}":0"#)).collect();
    let fields = format!(r#"{{"body": "", "headers": {{{}}}}}"#, fields.join(","));
    for (json, good) in [(body, true), (nested, false), (fields, false)] {
        let (message, used) = measure(|| KombuMessage::from_json(json.as_bytes()));
        assert_eq!(message.is_ok(), good);
        // A text grows by doubling while it is read.
        assert!(
            used.peak <= 3 * json.len() + MIB,
            "{used:?} for {}",
            json.len()
        );
    }
}
