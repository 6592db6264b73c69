//! No error path prints a PIN, a password or a key: each has a canary in it, and everything that is printed is searched.
#![cfg(all(feature = "pkcs11", feature = "software", unix))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use support::Place;

/// What must not come out, whole or in half.
const CANARY: &str = "kanarie83";

/// URIs with a PIN in them, each with another mistake.
const URIS: [&str; 29] = [
    "pkcs11:token=t?pin-value=kanarie83",
    "pkcs11:token=t;token=u?pin-value=kanarie83",
    "pkcs11:tokn=t?pin-value=kanarie83",
    "pkcs11:token=t?pin-value=kanarie83&pin-value=kanarie83",
    "pkcs11:token=t?pin-value=kanarie83&pin-source=file:/pin",
    "pkcs11:token=t?pin-value=kanarie83&object=o",
    "pkcs11:token=t;pin-value=kanarie83",
    "pkcs11:token=t?pin-vlaue=kanarie83",
    "pkcs11:token=t?PIN-VALUE=kanarie83",
    "pkcs11:token=t?pin=kanarie83",
    "pkcs11:token=t?password=kanarie83",
    "pkcs11:token=t?pin-value=%zzkanarie83",
    "pkcs11:token=t?pin-value=kanarie83%ff",
    "pkcs11:token=t?pin-value=kanarie83%20",
    "pkcs11:token=t?pin-value=kanarie83%00",
    "pkcs11:token=t?pin-value=kanarie 83 kanarie83",
    "pkcs11:token=t?pin-value=kanarie83\u{1b}\u{202e}\"'ä",
    "pkcs11:token=t?module-path=/no/such?pin-value=kanarie83",
    "pkcs11:token=t?module-path=/no/such;pin-value=kanarie83",
    "pkcs11:token=t?pin-source=file:/no/such?pin-value=kanarie83",
    "pkcs11:token=t&pin-value=kanarie83",
    "pkcs11:token=t;object=o&pni-value=kanarie83?module-path=/no/such",
    "pkcs11:token=t?pin-source=kanarie83",
    "pkcs11:token=t?pin-source=value:kanarie83",
    "pkcs11:token=t?module-path=/no/such&pin-value=kanarie83",
    "PKCS11:token=t?pin-value=kanarie83&x",
    " pkcs11:token=t?pin-value=kanarie83",
    "pkcs1:token=t?pin-value=kanarie83",
    "token=t?pin-value=kanarie83",
];

/// Commands with a place for an argument, `@`. Those where no URI belongs are mistakes that people make.
const COMMANDS: [&str; 38] = [
    "@",
    "seal --key @ --cert worker.pem task.json",
    "seal --key=@ --cert worker.pem task.json",
    "seal --key worker.key --cert @ task.json",
    "seal --key worker.key --cert worker.pem @",
    "seal --key worker.key --cert worker.pem --digest @ task.json",
    "seal --key worker.key --cert worker.pem --max-size @ task.json",
    "seal --key worker.key --cert worker.pem --encrypt-key @ task.json",
    "seal --kye @",
    "seal --kye=@",
    "seal --key worker.key --key-password-file @ --cert worker.pem task.json",
    "open --store @ task.json",
    "open --store worker.pem --encrypt-key @ task.json",
    "open --store worker.pem --accept @ --format @ task.json",
    "open --store worker.pem @",
    "inspect @",
    "inspect --format @",
    "fernet encrypt --key @ task.json",
    "fernet decrypt --key=@ task.json",
    "fernet rotate --key @ task.json",
    "fernet encrypt --key fernet.key @",
    "fernet key generate --key @",
    "fernet key generate --out @/x",
    "fernet key import --key @ fernet.key",
    "fernet key import --key pkcs11:token=t @",
    "fernet key list @",
    "token list --module @",
    "token init --module /no/such --label @ --pin-file @",
    "token init --module /no/such --label x --so-pin-file @",
    "key generate --key @ --bits 2048",
    "key generate --key pkcs11:token=t --bits @",
    "key list --key=@ --module /no/such",
    "cert self-sign --key @ --subject CN=x --days 1",
    "cert self-sign --key worker.key --subject @ --days 1",
    "cert request --key @ --subject CN=x --out @",
    "cert import --key pkcs11:token=t --module /no/such @",
    "doctor @ --cert @",
    "bench --key @ --threads @",
];

fn place() -> Place {
    let place = Place::with_worker();
    let key = place.run("fernet key generate").success();
    place.write("fernet.key", &key.get_output().stdout);
    place
}

/// Runs it and searches all that it prints.
fn search(place: &Place, arguments: &[OsString], variables: &[(&str, OsString)]) {
    for options in [&["-vvv"][..], &["--json"], &["--color=always"]] {
        let mut command = place.command();
        let done = command
            .args(options)
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .write_stdin("x")
            .assert();
        let output = done.get_output();
        for printed in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(printed);
            assert!(
                !text.contains(CANARY) && !text.contains("kanarie"),
                "{arguments:?} {variables:?}: {text}"
            );
        }
    }
}

#[test]
fn no_command_repeats_the_pin_of_a_uri() {
    let place = place();
    std::thread::scope(|scope| {
        for part in COMMANDS.chunks(10) {
            let place = &place;
            scope.spawn(move || {
                for words in part {
                    for uri in URIS {
                        let arguments: Vec<OsString> = words
                            .split(' ')
                            .map(|word| word.replace('@', uri).into())
                            .collect();
                        search(place, &arguments, &[]);
                    }
                }
            });
        }
    });
}

#[test]
fn no_file_and_no_variable_is_repeated() {
    let place = place();
    let bad: [&[u8]; 7] = [
        b"kanarie83\xff",
        b"kanarie83 ",
        b"kanarie83\nkanarie83",
        b"\xff\xfek\x00a\x00n\x00a\x00r\x00i\x00e\x008\x003\x00",
        b"kanarie83\x1b[2J",
        b" kanarie83",
        b"kanarie83",
    ];
    let token = "pkcs11:token=t?module-path=/no/such";
    for content in bad {
        place.write("bad", content);
        for words in [
            "seal --key worker.key --key-password-file bad --cert worker.pem task.json",
            "seal --key bad --cert worker.pem task.json",
            "fernet encrypt --key bad task.json",
            "fernet key import --key pkcs11:token=t --module /no/such bad",
            "token init --module /no/such --label x --so-pin-file bad --pin-file bad",
            "open --store bad task.json",
            "seal --key pkcs11:token=t?module-path=/no/such&pin-source=file:bad task.json",
        ] {
            let arguments: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            search(&place, &arguments, &[]);
        }
        if content.contains(&0) {
            continue;
        }
        let value = || OsString::from_vec(content.to_vec());
        for (words, names) in [
            (format!("key list --key {token}"), &["TASKSEAL_PIN"][..]),
            (
                "token init --module /no/such --label x".to_owned(),
                &["TASKSEAL_SO_PIN", "TASKSEAL_PIN"],
            ),
            (
                "fernet encrypt task.json".to_owned(),
                &["KOMBU_FERNET_KEY", "KOMBU_FERNET_KEY_PREVIOUS"],
            ),
            (
                "fernet encrypt --key env:OTHER task.json".to_owned(),
                &["OTHER"],
            ),
            (
                "seal --key worker.key --cert worker.pem task.json".to_owned(),
                &["TASKSEAL_KEY_PASSWORD"],
            ),
        ] {
            let arguments: Vec<OsString> = words.split(' ').map(OsString::from).collect();
            let variables: Vec<(&str, OsString)> =
                names.iter().map(|name| (*name, value())).collect();
            search(&place, &arguments, &variables);
        }
    }
}

#[test]
fn a_key_that_was_named_instead_of_its_file_is_not_repeated() {
    let place = place();
    let key = String::from_utf8(place.read("fernet.key")).unwrap();
    let key = key.trim();
    for named in [
        key.to_owned(),
        key.replace('-', "+").replace('_', "/"),
        format!("'{key}'"),
        key.trim_end_matches('=').to_owned(),
    ] {
        for words in [
            "fernet encrypt --key @ x",
            "seal --key worker.key --cert worker.pem --encrypt-key @ x",
        ] {
            let mut command = place.command();
            let done = command
                .args(words.split(' ').map(|word| word.replace('@', &named)))
                .assert()
                .failure();
            let text = support::stderr(&done);
            assert!(text.contains("a key itself was named"), "{text}");
            assert!(!text.contains(&key[..20]), "{text}");
        }
    }
}
