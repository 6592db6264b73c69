//! `seal`, `open` and `inspect`, with a key in a PEM file.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use support::{BODY, Place, json_on_stderr, json_on_stdout, other_key, stderr, stdout};

const ID: &str = "Example CA worker-7 7";

#[test]
fn what_is_sealed_opens_in_every_format_with_the_body_as_it_was() {
    let place = Place::with_worker();
    for format in ["celery", "celery-raw", "celery-5.4"] {
        place.seal_as("sealed", &format!("--format {format}"));
        for accepted in [format, "auto"] {
            let opened = place.run(&format!(
                "open --store worker.pem --format {accepted} sealed"
            ));
            let opened = opened.success().stdout(BODY);
            assert!(
                stderr(&opened).contains(&format!("signed by {ID}")),
                "{}",
                stderr(&opened)
            );
        }
    }
}

#[test]
fn who_signed_it_is_one_json_object_on_stderr() {
    let place = Place::with_worker();
    place.seal_as("sealed", "--digest sha384 --salt max");
    let opened = place
        .run("open --json --store worker.pem --digest sha384 sealed")
        .success();
    let facts = json_on_stderr(&opened);
    for (name, value) in [
        ("signer_id", ID),
        ("digest", "sha384"),
        ("salt", "max"),
        ("format", "celery"),
        ("content_type", "application/json"),
        ("content_encoding", "utf-8"),
    ] {
        assert_eq!(facts[name], value, "{facts}");
    }
    assert_eq!(facts["verified"], true);
    assert_eq!(facts["thumbprint_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn stdin_is_read_for_a_dash_and_for_nothing() {
    let place = Place::with_worker();
    for file in ["", "-"] {
        let seal = format!("seal --key worker.key --cert worker.pem {file}");
        let sealed = place.run_with(&seal, BODY).success();
        let wire = sealed.get_output().stdout.clone();
        assert_ne!(wire.last(), Some(&b'\n'));
        place
            .run_with(&format!("open --store worker.pem {file}"), wire)
            .success()
            .stdout(BODY);
    }
}

#[test]
fn one_newline_after_an_envelope_of_text_is_ignored_and_nothing_else() {
    let place = Place::with_worker();
    place.seal_as("sealed", "");
    let wire = place.read("sealed");
    let open = |end: &str| {
        place.run_with(
            "open --store worker.pem",
            [&wire[..], end.as_bytes()].concat(),
        )
    };
    open("\n").success().stdout(BODY);
    open("\r\n").success().stdout(BODY);
    for end in ["\n\n", " ", "\r", "\n\r\n"] {
        open(end).failure().code(1).stdout("");
    }
    // A raw envelope ends with its body, and a newline there is signed.
    place.write("task.json", "[]\n");
    place.seal_as("raw", "--format celery-raw");
    place
        .run("open --store worker.pem --format celery-raw raw")
        .success()
        .stdout("[]\n");
}

#[test]
fn a_sealed_message_says_what_its_broker_has_to_know() {
    let place = Place::with_worker();
    let sealed =
        place.run("seal --json --key worker.key --cert worker.pem --format celery-raw task.json");
    let facts = json_on_stderr(&sealed.success());
    assert_eq!(facts["content_type"], "application/data");
    assert_eq!(facts["content_encoding"], "binary");
    assert_eq!(facts["signer_id"], ID);
}

#[test]
fn each_refusal_gives_its_reason_exit_code_1_and_no_body() {
    let place = Place::with_worker();
    place.seal_as("good", "");
    place.seal_as("yaml", "--content-type application/x-yaml");
    place.seal_as("sha512", "--digest sha512");
    place.seal_as("old", "--format celery-5.4");
    place.write("stranger.key", other_key());
    place
        .run("cert self-sign --key stranger.key --subject CN=stranger --days 1 --out stranger.pem")
        .success();
    let mut cut = place.read("good");
    cut.truncate(40);
    place.write("cut", cut);
    for (options, reason) in [
        ("--store stranger.pem good", "unknown-signer"),
        ("--store worker.pem yaml", "content-type"),
        (
            "--store worker.pem --accept text/plain good",
            "content-type",
        ),
        ("--store worker.pem sha512", "bad-signature"),
        ("--store worker.pem --digest sha384 good", "bad-signature"),
        ("--store worker.pem cut", "malformed"),
        ("--store worker.pem task.json", "malformed"),
        ("--store worker.pem old", "malformed"),
        ("--store worker.pem --max-size 100 good", "too-large"),
        (
            "--store worker.pem --outer-content-type application/json good",
            "not-sealed",
        ),
    ] {
        let refused = place.run(&format!("open {options}")).code(1).stdout("");
        let text = stderr(&refused);
        assert!(
            text.starts_with(&format!("taskseal: error: refused ({reason}): ")),
            "{text}"
        );
        let refused = place
            .run(&format!("--json open {options}"))
            .code(1)
            .stdout("");
        let error = json_on_stderr(&refused);
        assert_eq!(error["reason"], reason, "{error}");
        assert_eq!(error["class"], "rejected", "{error}");
    }
    // What is accepted is what is named.
    place
        .run("open --store worker.pem --accept application/x-yaml yaml")
        .success()
        .stdout(BODY);
    place
        .run("open --store worker.pem --digest sha512 sha512")
        .success()
        .stdout(BODY);
    place
        .run("open --store worker.pem --outer-content-type application/data good")
        .success()
        .stdout(BODY);
}

#[test]
fn a_refusal_for_its_format_names_the_option_that_accepts_it() {
    let place = Place::with_worker();
    place.seal_as("new", "");
    place.seal_as("old", "--format celery-5.4");
    for (accepted, file, found) in [
        ("celery", "old", "celery-5.4"),
        ("celery-5.4", "new", "celery"),
    ] {
        place
            .run(&format!(
                "open --store worker.pem --format {accepted} {file}"
            ))
            .code(1)
            .stderr(contains(format!(
                "hint: it looks like the format {found}; --format {found} accepts it"
            )));
    }
}

#[test]
fn mistakes_are_told_in_words_that_help() {
    let place = Place::with_worker();
    place.seal_as("sealed", "");
    place.write("other.key", other_key());
    for (words, message) in [
        (
            "open --store nowhere sealed",
            "the certificate store nowhere does not exist",
        ),
        (
            "open --store worker.pem nowhere",
            "cannot read nowhere: No such file",
        ),
        (
            "open --store worker.key sealed",
            "there is no certificate in it",
        ),
        (
            "seal --key worker.key task.json",
            "name it with --cert FILE",
        ),
        (
            "seal --key nowhere --cert worker.pem task.json",
            "cannot read nowhere: No such file",
        ),
        (
            "seal --key token=x --cert worker.pem task.json",
            "begins with \"pkcs11:\"",
        ),
        (
            "seal --key worker.pem --cert worker.pem task.json",
            "there is no private key in it",
        ),
        (
            "seal --key other.key --cert worker.pem task.json",
            "does not belong to the certificate",
        ),
        (
            "seal --key worker.key --cert nowhere task.json",
            "cannot read nowhere: No such file",
        ),
        (
            "seal --key worker.key --cert worker.pem nowhere",
            "cannot read nowhere: No such file",
        ),
        (
            "seal --key worker.key --cert worker.pem --max-size 100 task.json",
            "the limit is 100",
        ),
        (
            "seal --key worker.key --cert worker.pem --max-size 10 task.json",
            "longer than 10 bytes",
        ),
        ("inspect task.json", "not canonical base64"),
    ] {
        let failed = place.run(words).code(1).stdout("");
        let text = stderr(&failed);
        assert!(
            text.starts_with("taskseal: error: ") && text.contains(message),
            "{words}: {text}"
        );
        let json: serde_json::Value =
            json_on_stderr(&place.run(&format!("{words} --json")).code(1));
        assert!(
            json["error"].is_string() && json["class"].is_string(),
            "{json}"
        );
    }
}

#[test]
fn a_body_that_is_no_json_is_sealed_with_a_warning() {
    let place = Place::with_worker();
    let seal = "seal --key worker.key --cert worker.pem";
    place
        .run_with(seal, "hello")
        .success()
        .stderr(contains("warning: the body is no JSON"));
    place
        .run_with(&format!("{seal} --content-type text/plain"), "hello")
        .success()
        .stderr("");
    place.run_with(seal, "[1]\n").success().stderr("");
}

#[test]
fn inspect_shows_everything_and_says_that_nothing_is_verified() {
    let place = Place::with_worker();
    place.seal_as("sealed", "");
    let shown = stdout(&place.run("inspect sealed").success());
    assert!(shown.starts_with("NOT VERIFIED"), "{shown}");
    for part in [
        "celery",
        ID,
        "(256 bytes)",
        "application/json",
        "utf-8",
        r#"[["ä", 1], {}, {"chain": null}]"#,
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let facts = json_on_stdout(&place.run("inspect --json sealed").success());
    assert_eq!(facts["verified"], false);
    assert_eq!(facts["body"], BODY);
    assert_eq!(facts["signature"].as_str().unwrap().len(), 512);
}

#[test]
fn inspect_lets_no_terminal_sequence_through() {
    let place = Place::with_worker();
    place.write("task.json", "\u{1b}[31mred\u{7}\u{202e}");
    place.seal_as("sealed", "--content-type text/plain");
    let shown = stdout(&place.run("inspect sealed").success());
    assert!(shown.contains("red"), "{shown}");
    assert!(
        !shown.contains(['\u{1b}', '\u{7}', '\u{202e}']),
        "{shown:?}"
    );
    place.write("task.json", [0xff, 0x00, 0x01]);
    place.seal_as(
        "sealed",
        "--content-type application/octet-stream --content-encoding binary",
    );
    let facts = json_on_stdout(&place.run("inspect --json sealed").success());
    assert_eq!(facts["body_hex"], "ff0001");
}

#[test]
fn nothing_hidden_gets_through_json_either() {
    let place = Place::with_worker();
    let odd = "a\u{1b}[2J\u{7f}\u{9b}31m\u{200b}\u{202e}\u{2028}\u{feff}\u{e0041}";
    let (id, signature) = (STANDARD.encode(odd), STANDARD.encode([1; 256]));
    place.write(
        "odd",
        [&id, &signature, "text/plain", "utf-8", odd].join("\u{0}\u{1}"),
    );
    let done = place
        .run("inspect --json --format celery-raw odd")
        .success();
    let text = stdout(&done);
    assert!(
        text.chars()
            .all(|c| c == '\n' || !taskseal::error::is_hidden(c)),
        "{text}"
    );
    let facts = json_on_stdout(&done);
    for name in ["signer_id", "body"] {
        assert_eq!(facts[name], odd, "{name}");
    }
    let text = stdout(
        &place
            .run("inspect --full --format celery-raw odd")
            .success(),
    );
    assert!(
        text.chars()
            .all(|c| c == '\n' || !taskseal::error::is_hidden(c)),
        "{text}"
    );
}

#[test]
fn a_pipe_that_closes_early_ends_it_quietly() {
    let place = Place::with_worker();
    place.write("task.json", format!("[{}1]", "1,".repeat(2_000_000)));
    place.seal_as("sealed", "");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_taskseal"))
        .args(["open", "--store", "worker.pem", "sealed"])
        .current_dir(place.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

#[test]
fn a_key_under_a_password_is_opened_by_file_or_variable_and_by_nothing_else() {
    const PASSWORD: &str = "correct horse";
    let place = Place::with_worker();
    let encrypted = std::process::Command::new("openssl")
        .args([
            "pkcs8",
            "-topk8",
            "-in",
            "worker.key",
            "-out",
            "locked.key",
            "-passout",
        ])
        .arg(format!("pass:{PASSWORD}"))
        .current_dir(place.path(""))
        .output();
    match encrypted {
        Ok(done) if done.status.success() => {}
        other => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "no openssl, and CI=true: {other:?}"
            );
            return;
        }
    }
    let seal = "seal --key locked.key --cert worker.pem task.json";
    place
        .run(seal)
        .code(1)
        .stderr(contains("has a password").and(contains("TASKSEAL_KEY_PASSWORD")));
    place.write("password", format!("{PASSWORD}\n"));
    place
        .run(&format!("{seal} --key-password-file password"))
        .success();
    place
        .run("seal --key worker.key --cert worker.pem --key-password-file password task.json")
        .code(1);
    let with = |password: &str| {
        let mut command = place.command();
        command
            .args(seal.split(' '))
            .env("TASKSEAL_KEY_PASSWORD", password)
            .assert()
    };
    with(PASSWORD).success();
    let refused = with("wrong horse").code(1);
    assert!(
        stderr(&refused).contains("password is wrong"),
        "{}",
        stderr(&refused)
    );
    assert!(!stderr(&refused).contains("wrong horse"));
}
