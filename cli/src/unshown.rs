//! What must not be printed of the command line: a PKCS#11 URI may hold a PIN (`pin-value`), well written or not.
//!
//! Messages quote arguments: the parser's own, and those about files that are not there. So each text that is printed goes
//! through here.

use std::ffi::OsString;

use anstream::adapter::strip_str;

use crate::escape::escaped;

/// The text without the arguments of this process that may hold a PIN.
pub(crate) fn without_secrets(text: &str) -> String {
    without(text, std::env::args_os().skip(1))
}

fn without(text: &str, arguments: impl Iterator<Item = OsString>) -> String {
    let mut secrets: Vec<String> = arguments.filter_map(secret_of).flat_map(forms).collect();
    // One may be the beginning of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
        .iter()
        .fold(text.to_owned(), |text, secret| text.replace(secret, SHOWN))
}

/// The part of an argument that may hold a PIN. The parser quotes the value of --name=value alone.
fn secret_of(argument: OsString) -> Option<String> {
    let argument = argument.to_string_lossy();
    let value = match argument.strip_prefix('-').and(argument.split_once('=')) {
        Some((_, value)) => value,
        None => &argument,
    };
    may_hold_a_pin(value).then(|| value.to_owned())
}

/// A text as messages quote it: as it is, escaped, and without what a terminal obeys.
fn forms(value: String) -> [String; 4] {
    let debug = format!("{value:?}");
    [
        escaped(&value),
        debug.trim_matches('"').to_owned(),
        strip_str(&value).to_string(),
        value,
    ]
}

/// What stands in its place.
const SHOWN: &str = "pkcs11:…";

/// A URI, however it is written, or whatever names a PIN.
fn may_hold_a_pin(value: &str) -> bool {
    let value = value.to_lowercase();
    value.contains("pkcs11:") || (value.contains('=') && value.contains("pin"))
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn arguments_that_may_hold_a_pin_are_not_repeated() {
        for argument in [
            "pkcs11:token=t?pin-value=1234",
            "--key=pkcs11:token=t?pin-value=1234",
            " PKCS11:token=t?pin-vlaue=1234",
            "pkcs1:token=t?pin-value=1234",
            "token=t?pin-value=12\u{1b}34",
            "--seconds=pkcs11:token=t?pin-value=12\"34",
        ] {
            let value = argument.strip_prefix("--key=").unwrap_or(argument);
            for text in [
                format!("error: invalid value '{value}' for x"),
                format!("unexpected argument '{argument}' found"),
                format!(
                    "cannot read {}: no such file",
                    crate::escape::escaped(value)
                ),
                format!("no such thing as {value:?}"),
            ] {
                let shown = without(&text, std::iter::once(argument.into()));
                assert!(!shown.contains("34"), "{shown}");
            }
        }
        let text = "cannot read /run/pin/x: no such file";
        for argument in ["/run/pin/x", "--pin-file=/run/pin/x"] {
            assert_eq!(without(text, std::iter::once(argument.into())), text);
        }
    }
}
