//! `fernet`, and whole messages with `seal` and `open`.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use support::{Place, json_on_stderr, stderr, stdout};

const MESSAGE: &str = r#"{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"task": "t"}, "properties": {"body_encoding": "base64"}}"#;

/// With `new.key` and `old.key`.
fn place() -> Place {
    let place = Place::with_worker();
    for name in ["new.key", "old.key"] {
        place
            .run(&format!("fernet key generate --out {name}"))
            .success()
            .stdout("")
            .stderr("");
    }
    place.write("message.json", MESSAGE);
    place
}

fn key(place: &Place, name: &str) -> String {
    String::from_utf8(place.read(name))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_key_is_44_characters_and_its_file_is_readable_for_its_owner_alone() {
    let place = place();
    assert_eq!(key(&place, "new.key").len(), 44);
    assert_ne!(key(&place, "new.key"), key(&place, "old.key"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(place.path("new.key"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    let before = key(&place, "new.key");
    place
        .run("fernet key generate --out new.key")
        .code(1)
        .stderr(contains("new.key"));
    assert_eq!(key(&place, "new.key"), before, "it is left alone");
    let printed = stdout(&place.run("fernet key generate").success());
    assert_eq!((printed.len(), printed.ends_with('\n')), (45, true));
}

#[test]
fn what_is_encrypted_is_decrypted_and_rotated() {
    let place = place();
    let token = stdout(
        &place
            .run("fernet encrypt --key old.key task.json")
            .success(),
    );
    assert!(token.starts_with("gAAAA") && !token.contains('\n'));
    place.write("token", format!("{token}\n"));
    let both = "--key new.key --key old.key";
    for options in ["--key old.key", both, "--key old.key --ttl 60"] {
        place
            .run(&format!("fernet decrypt {options} token"))
            .success()
            .stdout(support::BODY);
    }
    place
        .run("fernet decrypt --key new.key token")
        .code(1)
        .stdout("");

    let other = stdout(
        &place
            .run("fernet encrypt --key new.key task.json")
            .success(),
    );
    place.write("tokens", format!("{token}\r\n\n{other}\n"));
    let rotated = place
        .run(&format!("fernet rotate --json {both} tokens"))
        .success();
    assert_eq!(json_on_stderr(&rotated)["tokens"], 2);
    for line in stdout(&rotated).lines() {
        place
            .run_with("fernet decrypt --key new.key", line)
            .success()
            .stdout(support::BODY);
    }
    place
        .run_with(
            &format!("fernet rotate {both}"),
            format!("{token}\nbroken\n"),
        )
        .code(1)
        .stdout(contains("\n").count(1))
        .stderr(contains("line 2: refused (token)"));
}

/// More than are rotated at once; one is refused in the second thousand.
#[test]
fn of_many_tokens_those_before_one_that_is_refused_are_rotated() {
    let place = place();
    let token = place.run("fernet encrypt --key old.key task.json");
    let token = stdout(&token.success());
    let both = "--key new.key --key old.key";
    let mut lines = vec![token.as_str(); 2100];
    let all = format!("{}\n", lines.join("\n"));
    let rotated = place.run_with(&format!("fernet rotate --json {both}"), all);
    let rotated = rotated.success();
    assert_eq!(json_on_stderr(&rotated)["tokens"], 2100);
    let made = stdout(&rotated);
    let different: std::collections::BTreeSet<&str> = made.lines().collect();
    assert_eq!(different.len(), 2100, "each has an IV of its own");
    let last = made.lines().last().unwrap();
    place
        .run_with("fernet decrypt --key new.key", last)
        .success()
        .stdout(support::BODY);

    lines[1503] = "broken";
    place
        .run_with(&format!("fernet rotate {both}"), lines.join("\n"))
        .code(1)
        .stdout(contains("\n").count(1503))
        .stderr(contains("line 1504: refused (token)"));
}

#[test]
fn keys_come_from_files_and_variables_and_never_from_the_command_line() {
    let mut place = place();
    let (new, old) = (key(&place, "new.key"), key(&place, "old.key"));
    let error = place.run(&format!("fernet encrypt --key {new} task.json"));
    let error = error.code(1).stdout("");
    assert!(!stderr(&error).contains(&new), "{}", stderr(&error));
    assert!(stderr(&error).contains("process list"));

    place.write("both.key", format!("# the present one\n{new}\n\n{old}\n"));
    let token = stdout(
        &place
            .run("fernet encrypt --key old.key task.json")
            .success(),
    );
    place.write("token", &token);
    place
        .run("fernet decrypt --key both.key token")
        .success()
        .stdout(support::BODY);
    for (file, content) in [("empty.key", "\n# nothing\n"), ("bad.key", "no key\n")] {
        place.write(file, content);
        place
            .run(&format!("fernet decrypt --key {file} token"))
            .code(1)
            .stderr(contains(file).and(contains("no key\n").not()));
    }
    place.run("fernet decrypt --key nowhere.key token").code(1);
    place.run("fernet decrypt --key env:NOT_SET token").code(1);
    place.run("fernet decrypt --key env: token").code(2);
    place
        .run("fernet decrypt token")
        .code(1)
        .stderr(contains("KOMBU_FERNET_KEY is not set"));

    place.set_env("MY_KEY", &old);
    place
        .run("fernet decrypt --key env:MY_KEY token")
        .success()
        .stdout(support::BODY);
    place.set_env("KOMBU_FERNET_KEY", &new);
    place.run("fernet decrypt token").code(1);
    place.set_env("KOMBU_FERNET_KEY_PREVIOUS", &old);
    place
        .run("fernet decrypt token")
        .success()
        .stdout(support::BODY);
}

#[test]
fn sizes_are_limited() {
    let place = place();
    for command in ["encrypt", "decrypt", "rotate"] {
        place
            .run_with(
                &format!("fernet {command} --key new.key --max-size 10"),
                "x".repeat(11),
            )
            .code(1)
            .stdout("")
            .stderr(contains("too-large"));
    }
}

#[test]
fn a_whole_message_is_signed_or_signed_and_encrypted() {
    let place = place();
    for (options, hidden) in [("--message", false), ("--encrypt-key new.key", true)] {
        let seal = format!(
            "seal --key worker.key --cert worker.pem {options} --queue celery --routing-key celery message.json"
        );
        let sealed = stdout(&place.run(&seal).success());
        assert_eq!(sealed.starts_with("gAAAA"), hidden);
        place.write("sealed", &sealed);
        let open = format!("open --store worker.pem {options}");
        let opened = place.run(&format!("{open} --json --queue celery sealed"));
        let opened = opened.success().stdout(MESSAGE);
        let facts = json_on_stderr(&opened);
        assert_eq!(facts["signer_id"], "Example CA worker-7 7");
        assert_eq!(facts["queue"], "celery");
        assert_eq!(facts["exchange"], serde_json::Value::Null);
        assert_eq!(facts["id"].as_str().unwrap().len(), 32);
        place
            .run(&format!("{open} sealed"))
            .success()
            .stderr(contains("was not checked").and(contains("queue        \"celery\"")));
        for (more, reason) in [
            ("--queue other", "destination"),
            ("--queue celery --exchange x", "destination"),
            ("--queue celery --domain production", "domain"),
            ("--max-size 100", "too-large"),
        ] {
            place
                .run(&format!("{open} {more} sealed"))
                .code(1)
                .stdout("")
                .stderr(contains(format!("({reason})")));
        }
        // Neither is taken for the other, nor for the body of a task.
        let other = if hidden {
            "--message"
        } else {
            "--encrypt-key new.key"
        };
        place
            .run(&format!("open --store worker.pem {other} sealed"))
            .code(1)
            .stdout("");
        place
            .run("open --store worker.pem sealed")
            .code(1)
            .stdout("");
    }
    place
        .run("seal --key worker.key --cert worker.pem --message task.json")
        .code(1)
        .stderr(contains("cannot be sealed"));
    place
        .run("seal --key worker.key --cert worker.pem --queue celery task.json")
        .code(1)
        .stderr(contains("bound to no destination or domain"));
    place
        .run("seal --key worker.key --cert worker.pem --message --format celery-raw message.json")
        .code(2);
}

/// What is taken and ignored would be believed.
#[test]
fn options_that_are_not_about_what_is_sealed_are_refused() {
    let place = place();
    let seal = "seal --key worker.key --cert worker.pem";
    let open = "open --store worker.pem";
    for whole in ["--message", "--encrypt-key new.key"] {
        for options in [
            format!("{seal} {whole} --content-type text/plain"),
            format!("{seal} {whole} --content-encoding binary"),
            format!("{seal} {whole} --format celery-raw"),
            format!("{open} {whole} --accept text/plain"),
            format!("{open} {whole} --outer-content-type application/data"),
            format!("{open} {whole} --format auto"),
        ] {
            let refused = place.run(&format!("{options} message.json")).code(2);
            refused.stdout("").stderr(contains("cannot be used with"));
        }
    }
    for options in ["--max-age 60", "--queue celery", "--domain production"] {
        place
            .run(&format!("{open} {options} sealed"))
            .code(1)
            .stdout("")
            .stderr(contains("the body of a task"));
    }
}

#[test]
fn a_whole_message_opens_in_its_domain_alone() {
    let place = place();
    let sealed = stdout(
        &place
            .run("seal --key worker.key --cert worker.pem --message --domain production message.json")
            .success(),
    );
    place.write("sealed", &sealed);
    let open = "open --store worker.pem --message";
    place
        .run(&format!("{open} --domain production sealed"))
        .success()
        .stdout(MESSAGE);
    for other in ["--domain staging", ""] {
        place
            .run(&format!("{open} {other} sealed"))
            .code(1)
            .stdout("")
            .stderr(contains("(domain)").and(contains("production")));
    }
    place
        .run("seal --key worker.key --cert worker.pem --domain production task.json")
        .code(1)
        .stderr(contains("bound to no destination or domain"));
}

#[test]
fn the_plain_scheme_is_encrypting_the_json() {
    let place = place();
    let token = stdout(
        &place
            .run("fernet encrypt --key new.key message.json")
            .success(),
    );
    place
        .run_with("fernet decrypt --key new.key", token)
        .success()
        .stdout(MESSAGE);
}
