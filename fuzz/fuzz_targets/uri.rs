//! PKCS#11 URIs: no panic, what is parsed can be written and parsed again, and no text shows a PIN.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskseal::pkcs11::Uri;

/// As long as each other, and without a character in common.
const PINS: [&str; 2] = ["4711-abc", "0829_xyz"];

fuzz_target!(|text: &str| {
    if let Ok(uri) = text.parse::<Uri>() {
        let written = uri.to_string();
        // Escaping can make it longer than what is read.
        if written.len() <= Uri::MAX_LEN {
            let again: Uri = written.parse().expect("what was written is not read");
            assert_eq!(again.to_string(), written);
            assert_eq!(
                (again.token(), again.object(), again.id()),
                (uri.token(), uri.object(), uri.id())
            );
            assert_eq!(again.module_path(), uri.module_path());
            assert_eq!(again.module_name(), uri.module_name());
        }
        let _ = uri.pin_source();
    }

    // What is shown is the same whatever the PIN is.
    let separator = if text.contains('?') { '&' } else { '?' };
    let [one, other] =
        PINS.map(
            |pin| match format!("{text}{separator}pin-value={pin}").parse::<Uri>() {
                Ok(uri) => format!("{uri:?} {uri} {:?}", uri.pin_source()),
                Err(error) => format!("{error:?} {error}"),
            },
        );
    assert_eq!(one, other);
});
