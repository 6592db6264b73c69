//! The command line itself: help, versions, mistakes, colours.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

#[cfg(not(feature = "software"))]
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use support::{Place, json_on_stderr, stderr, stdout};

#[test]
fn every_command_has_help_with_examples() {
    let place = Place::new();
    let mut commands = vec![
        "",
        "seal",
        "open",
        "inspect",
        "cert self-sign",
        "cert request",
        "fernet encrypt",
        "fernet decrypt",
        "fernet rotate",
        "fernet key generate",
        "store check",
        "completions",
    ];
    if cfg!(feature = "pkcs11") {
        commands.extend([
            "token list",
            "token init",
            "key generate",
            "key list",
            "cert import",
            "demo",
        ]);
    }
    for command in commands {
        let help = stdout(&place.run(&format!("{command} --help")).success().stderr(""));
        assert!(help.contains("Examples:\n  taskseal "), "{command}: {help}");
        assert!(
            help.lines().all(|line| line.chars().count() <= 110),
            "{command}: {help}"
        );
    }
    place
        .run("--version")
        .success()
        .stdout(contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_ends_with_2() {
    let place = Place::new();
    for words in [
        "",
        "frobnicate",
        "open",
        "open --store x --format nope f",
        "open --store x --clock-skew soon",
        "seal --cert x",
        "seal --key x --digest md5",
        "seal --key x --salt 20",
        "store",
        "cert self-sign --key x --subject CN=x --days 1 --force",
    ] {
        let wrong = place.run(words).code(2).stdout("");
        assert!(!stderr(&wrong).is_empty(), "{words}");
    }
    let error = json_on_stderr(&place.run("--json open --store x --frobnicate").code(2));
    assert_eq!(error["class"], "usage");
    assert!(
        error["error"].as_str().unwrap().contains("--frobnicate"),
        "{error}"
    );
}

#[cfg(feature = "pkcs11")]
#[test]
fn a_bad_uri_is_wrong_usage() {
    let place = Place::new();
    for (uri, message) in [
        ("pkcs11:tokn=x", "\"tokn\""),
        ("pkcs11:token=x;token=y", "stands twice"),
        ("PKCS11:token=x?object=y", "belongs"),
    ] {
        place
            .run(&format!("seal --key {uri}"))
            .code(2)
            .stderr(contains(message));
        place
            .run(&format!("key list --key {uri}"))
            .code(2)
            .stderr(contains(message));
    }
    place
        .run("key list --key worker.key")
        .code(2)
        .stderr(contains("pkcs11:"));
}

#[cfg(not(feature = "software"))]
#[test]
fn a_build_without_software_keys_says_so() {
    let place = Place::with_worker();
    place
        .run("seal --key worker.key --cert worker.pem task.json")
        .code(1)
        .stderr(contains("built without code that loads private keys"));
    place.write(
        "fernet.key",
        "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n",
    );
    #[cfg(feature = "pkcs11")]
    place
        .run("fernet key import --key pkcs11:token=x fernet.key")
        .code(1)
        .stderr(contains("no key is imported"));
    for words in [
        "fernet encrypt --key fernet.key task.json",
        "fernet decrypt --key env:MY_KEY task.json",
        "fernet rotate task.json",
        "fernet key generate",
        "fernet key generate --out new.key",
    ] {
        place.run(words).code(1).stdout("").stderr(
            contains("built without code that loads keys into memory").and(contains("pkcs11:")),
        );
    }
    assert!(!place.path("new.key").exists());
}

#[cfg(not(feature = "pkcs11"))]
#[test]
fn a_build_without_tokens_says_so() {
    let place = Place::with_worker();
    place
        .run("seal --key pkcs11:token=x")
        .code(2)
        .stderr(contains("without support for PKCS#11"));
    place
        .run("fernet encrypt --key pkcs11:token=x task.json")
        .code(2)
        .stderr(contains("without support for PKCS#11"));
}

#[test]
fn colours_are_for_terminals_or_on_demand() {
    let place = Place::with_worker();
    let is_coloured = |words: &str| stderr(&place.run(words).failure()).contains('\u{1b}');
    assert!(!is_coloured("open --store nowhere"));
    assert!(is_coloured("open --store nowhere --color always"));
    assert!(is_coloured("--color=always frobnicate"));
    assert!(!is_coloured("--color never frobnicate"));
    let listed = place.run("store check worker.pem --color always").success();
    assert!(stdout(&listed).contains("\u{1b}["));
    let no_color = place
        .command()
        .args(["store", "check", "worker.pem"])
        .env("NO_COLOR", "1")
        .assert();
    assert!(!stdout(&no_color.success()).contains('\u{1b}'));
}

#[test]
fn completions_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&place.run(&format!("completions {shell}")).success());
        assert!(
            script.contains("taskseal") && script.contains("inspect"),
            "{shell}"
        );
    }
}

#[test]
fn verbose_tells_what_the_library_does_on_stderr() {
    let place = Place::with_worker();
    let quiet = place.run_with("open --store worker.pem", "x").code(1);
    assert!(!stderr(&quiet).contains("certificate store read"));
    let told = place.run_with("-v open --store worker.pem", "x").code(1);
    assert!(
        stderr(&told).contains("certificate store read"),
        "{}",
        stderr(&told)
    );
    assert!(
        stderr(&told).contains("message refused"),
        "{}",
        stderr(&told)
    );
}
