//! Everything that needs a token, on a SoftHSM token of its own.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use support::{BODY, Place, json_on_stderr, json_on_stdout, softhsm, stderr, stdout};

const PIN: &str = "user-pin-83";
const KEY: &str = "pkcs11:token=test;object=worker";

/// A place with an initialised token `test`, the module named by the variable, and the PIN in the file `pin`.
fn place() -> Option<Place> {
    let module = softhsm()?;
    let mut place = Place::new();
    std::fs::create_dir(place.path("tokens")).unwrap();
    let tokens = place.path("tokens");
    place.write(
        "softhsm2.conf",
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        ),
    );
    let configuration = place.path("softhsm2.conf");
    place.set_env("SOFTHSM2_CONF", configuration);
    place.set_env("TASKSEAL_MODULE", module);
    place.write("pin", format!("{PIN}\n"));
    place.write("so-pin", "officer-pin-83\n");
    place.write("task.json", BODY);
    restrict(&place, "pin");
    restrict(&place, "so-pin");
    place
        .run("token init --label test --so-pin-file so-pin --pin-file pin")
        .success();
    Some(place)
}

fn restrict(place: &Place, name: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(place.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// The same, with the PIN's file named by the variable.
fn place_with_pin() -> Option<Place> {
    let mut place = place()?;
    let pin = place.path("pin");
    place.set_env("TASKSEAL_PIN_FILE", pin);
    Some(place)
}

#[test]
fn from_a_blank_token_to_an_opened_message() {
    let Some(place) = place_with_pin() else {
        return;
    };
    let made = json_on_stdout(
        &place
            .run(&format!("key generate --json --key {KEY};id=%01%02"))
            .success(),
    );
    for (name, value) in [("sensitive", true), ("extractable", false), ("local", true)] {
        assert_eq!(made[name], value, "{made}");
    }
    assert_eq!((&made["id"], &made["bits"]), (&"0102".into(), &2048.into()));

    place
        .run(&format!(
            "cert self-sign --key {KEY} --subject CN=w,O=E --days 30 --out w.pem"
        ))
        .success();
    place
        .run(&format!(
            "cert request --key {KEY} --subject CN=w,O=E --out w.csr"
        ))
        .success();
    for (format, salt) in [("celery", "digest"), ("celery-5.4", "max")] {
        let seal = format!("seal --json --key {KEY} --cert w.pem --format {format} task.json");
        let sealed = place.run(&seal).success();
        assert_eq!(json_on_stderr(&sealed)["salt"], salt);
        place.write("sealed", &sealed.get_output().stdout);
        let opened = place.run(&format!(
            "open --json --store w.pem --format {format} sealed"
        ));
        assert_eq!(json_on_stderr(&opened.success().stdout(BODY))["salt"], salt);
    }

    // The certificate may be in the token; before it is, the error says so.
    let seal = format!("seal --key {KEY} task.json");
    place
        .run(&seal)
        .code(1)
        .stderr(contains("no certificate for key").and(contains("cert import")));
    let key = |place: &Place| {
        json_on_stdout(&place.run(&format!("key list --json --key {KEY}")).success())[0].clone()
    };
    assert_eq!(key(&place)["certificates"], 0);
    place
        .run(&format!("cert import --key {KEY} w.pem"))
        .success()
        .stdout(contains("imported").and(contains("0102")));
    place
        .run(&format!("cert import --key {KEY} w.pem"))
        .code(1)
        .stderr(contains("already"));
    assert_eq!(key(&place)["certificates"], 1);
    let sealed = place.run(&seal).success();
    place.write("sealed", &sealed.get_output().stdout);
    place
        .run("open --store w.pem sealed")
        .success()
        .stdout(BODY);
}

#[test]
fn tokens_and_keys_are_listed() {
    let Some(place) = place_with_pin() else {
        return;
    };
    let tokens = json_on_stdout(&place.run("token list --json").success());
    let test = tokens
        .as_array()
        .unwrap()
        .iter()
        .find(|token| token["label"] == "test")
        .unwrap();
    assert_eq!(test["initialized"], true);
    let uri = test["uri"].as_str().unwrap();
    assert!(uri.starts_with("pkcs11:token=test;serial="), "{uri}");
    let listed = stdout(&place.run("token list").success());
    assert!(
        listed.contains("ready") && listed.contains("blank"),
        "{listed}"
    );

    place
        .run(&format!("key list --key {uri}"))
        .success()
        .stdout("")
        .stderr(contains("no such private key"));
    place
        .run(&format!("key generate --key {KEY} --bits 3072"))
        .success()
        .stdout(contains("3072 bits"));
    let keys = stdout(&place.run(&format!("key list --key {uri}")).success());
    assert!(
        keys.contains("worker") && keys.contains("RSA-3072"),
        "{keys}"
    );
    place
        .run(&format!("key list --key {uri};object=other"))
        .success()
        .stdout("");
}

#[test]
fn what_is_there_is_not_made_again() {
    let Some(place) = place_with_pin() else {
        return;
    };
    place
        .run("token init --label test --so-pin-file so-pin --pin-file pin")
        .code(1)
        .stderr(contains("already"));
    place.run(&format!("key generate --key {KEY}")).success();
    let again = json_on_stderr(
        &place
            .run(&format!("key generate --json --key {KEY}"))
            .code(1),
    );
    assert_eq!(again["reason"], "exists");
    place
        .run("key generate --key pkcs11:token=test")
        .code(1)
        .stderr(contains("object=LABEL"));
    place
        .run(&format!("key generate --key {KEY} --bits 1024"))
        .code(2);
}

#[test]
fn the_pin_comes_from_uri_file_or_variable_and_its_lack_is_explained() {
    let Some(place) = place() else { return };
    let list = |name: &str, value: &str| {
        let mut command = place.command();
        command
            .args(["key", "list", "--key", KEY])
            .env(name, value)
            .assert()
    };
    let file = place.path("pin");
    place
        .run(&format!(
            "key list --key {KEY}?pin-source=file:{}",
            file.display()
        ))
        .success();
    list("TASKSEAL_PIN_FILE", file.to_str().unwrap()).success();
    list("TASKSEAL_PIN", PIN).success();

    // No terminal here, so nobody is asked.
    let missing = place.run(&format!("key list --key {KEY}")).code(1);
    for word in ["pin-source", "TASKSEAL_PIN_FILE", "TASKSEAL_PIN"] {
        assert!(stderr(&missing).contains(word), "{}", stderr(&missing));
    }
    let json = json_on_stderr(&place.run(&format!("key list --json --key {KEY}")).code(1));
    assert_eq!(
        (&json["reason"], &json["class"]),
        (&"pin".into(), &"credential".into())
    );
    list("TASKSEAL_PIN", "")
        .code(1)
        .stderr(contains("gives no PIN: it is empty"));
    list("TASKSEAL_PIN_FILE", "/nowhere/pin")
        .code(1)
        .stderr(contains("/nowhere/pin"));

    let wrong = list("TASKSEAL_PIN", "wrong-pin-83").code(1);
    let text = stderr(&wrong);
    assert!(
        text.contains("CKR_PIN_INCORRECT") && text.contains("TASKSEAL_PIN"),
        "{text}"
    );
    assert!(
        !text.contains("wrong-pin-83") && !text.contains(PIN),
        "{text}"
    );
    let verbose = place
        .command()
        .args(["-vvv", "key", "list", "--key", KEY])
        .env("TASKSEAL_PIN", PIN)
        .assert();
    assert!(!stderr(&verbose.success()).contains(PIN));
}

#[test]
fn tokens_keys_and_modules_that_are_not_there_are_named() {
    let Some(place) = place_with_pin() else {
        return;
    };
    for (words, reason, message) in [
        (
            "key list --key pkcs11:token=nope",
            "token-not-found",
            "no token with label \"nope\"",
        ),
        (
            "seal --key pkcs11:token=test;object=nope task.json",
            "key-not-found",
            "label \"nope\"",
        ),
        ("token list --module /nowhere.so", "module", "/nowhere.so"),
        (
            "key list --key pkcs11:token=test?module-path=/nowhere.so",
            "module",
            "/nowhere.so",
        ),
    ] {
        let failed = json_on_stderr(&place.run(&format!("--json {words}")).code(1).stdout(""));
        assert_eq!(failed["reason"], reason, "{failed}");
        assert!(
            failed["error"].as_str().unwrap().contains(message),
            "{failed}"
        );
    }
    let mut without = place.command();
    without
        .env_remove("TASKSEAL_MODULE")
        .args(["key", "list", "--key", KEY]);
    without
        .assert()
        .code(1)
        .stderr(contains("module-path").and(contains("--module")));
}

#[test]
fn pins_of_a_new_token_may_come_from_variables() {
    let Some(place) = place() else { return };
    let init = |so: &str, user: &str| {
        let mut command = place.command();
        command.args(["token", "init", "--json", "--label", "second"]);
        command
            .env("TASKSEAL_SO_PIN", so)
            .env("TASKSEAL_PIN", user)
            .assert()
    };
    init("", PIN).code(1).stderr(contains("TASKSEAL_SO_PIN"));
    let made = json_on_stdout(&init("officer-pin-2", PIN).success());
    assert_eq!(made["label"], "second");
    place
        .run(&format!("token init --label {}", "x".repeat(33)))
        .code(1);
}

#[test]
fn a_newline_or_a_mark_is_no_part_of_a_pin_in_any_source() {
    use std::os::unix::ffi::OsStringExt as _;

    let Some(place) = place() else {
        return;
    };
    let new = |name: &'static str, content: &[u8]| {
        place.write(name, content);
        restrict(&place, name);
        name
    };
    let text = |content: &[u8]| std::ffi::OsString::from_vec(content.to_vec());
    // A token that was made with a newline after its PINs is logged in to without one, and the other way round.
    let mut command = place.command();
    command
        .args(["token", "init", "--label", "second"])
        .env("TASKSEAL_SO_PIN", "officer-pin-84\r\n")
        .env("TASKSEAL_PIN", "\u{feff}user-pin-83\n")
        .assert()
        .success();
    let good: [&[u8]; 4] = [
        b"user-pin-83",
        b"user-pin-83\n",
        b"user-pin-83\r\n",
        b"\xef\xbb\xbfuser-pin-83\n",
    ];
    let bad: [(&[u8], &str); 6] = [
        (b" user-pin-83", "blank"),
        (b"user-pin-83 \n", "blank"),
        (b"user-\tpin-83", "cannot be seen"),
        (b"\xff\xfeu\0s\0e\0r", "UTF-16"),
        (b"user-pin-83\xff", "UTF-8"),
        (b"\n", "empty"),
    ];
    for label in ["test", "second"] {
        let list = ["key", "list", "--key"];
        let uri = format!("pkcs11:token={label}");
        for content in good {
            let file = new("try", content);
            let path = place.path(file);
            place
                .command()
                .args(list)
                .arg(&uri)
                .env("TASKSEAL_PIN_FILE", &path)
                .assert()
                .success();
            place
                .command()
                .args(list)
                .arg(&uri)
                .env("TASKSEAL_PIN", text(content))
                .assert()
                .success();
            let source = format!("{uri}?pin-source=file:{}", path.display());
            place.command().args(list).arg(source).assert().success();
            let value: String = content.iter().map(|byte| format!("%{byte:02X}")).collect();
            place
                .command()
                .args(list)
                .arg(format!("{uri}?pin-value={value}"))
                .assert()
                .success();
        }
        for (content, reason) in bad {
            let file = new("try", content);
            let path = place.path(file);
            for done in [
                place
                    .command()
                    .args(list)
                    .arg(&uri)
                    .env("TASKSEAL_PIN_FILE", &path)
                    .assert()
                    .failure(),
                place
                    .command()
                    .args(list)
                    .arg(format!("{uri}?pin-source=file:{}", path.display()))
                    .assert()
                    .failure(),
            ] {
                assert!(
                    stderr(&done).contains(reason),
                    "{reason}: {}",
                    stderr(&done)
                );
            }
            if !content.contains(&0) {
                let done = place
                    .command()
                    .args(list)
                    .arg(&uri)
                    .env("TASKSEAL_PIN", text(content))
                    .assert();
                let done = done.failure();
                assert!(
                    stderr(&done).contains(reason),
                    "{reason}: {}",
                    stderr(&done)
                );
                // Nor is a token made with it.
                let made = place
                    .command()
                    .args([
                        "token",
                        "init",
                        "--label",
                        "third",
                        "--so-pin-file",
                        "so-pin",
                    ])
                    .env("TASKSEAL_PIN", text(content))
                    .assert()
                    .failure();
                assert!(
                    stderr(&made).contains(reason),
                    "{reason}: {}",
                    stderr(&made)
                );
            }
        }
    }
    // The PIN has cost no try.
    let tokens = json_on_stdout(&place.run("token list --json").success());
    for token in tokens.as_array().unwrap() {
        assert_ne!(token["label"], "third");
        assert_eq!(token["user_pin_final_try"], false);
    }
}

#[test]
fn the_pin_of_a_uri_goes_before_file_and_variable() {
    let Some(place) = place() else {
        return;
    };
    place.write("wrong", "wrong-pin-1\n");
    restrict(&place, "wrong");
    let sources = |which: &str| {
        let file = place.path(which);
        [
            (
                format!("{KEY}?pin-source=file:{}", file.display()),
                None,
                None,
            ),
            (KEY.to_owned(), Some(file), None),
            (
                KEY.to_owned(),
                None,
                Some(String::from_utf8(place.read(which)).unwrap()),
            ),
        ]
    };
    // In their order: each with the right PIN, and all that come after it with a wrong one.
    let (right, wrong) = (sources("pin"), sources("wrong"));
    for first in 0..3 {
        let mut command = place.command();
        let mut uri = KEY.to_owned();
        for (at, source) in right
            .iter()
            .zip(&wrong)
            .map(|(right, wrong)| [right, wrong])
            .enumerate()
        {
            if at < first {
                continue;
            }
            let (named, file, value) = source[usize::from(at > first)];
            if at == 0 {
                uri.clone_from(named);
            }
            if let Some(file) = file {
                command.env("TASKSEAL_PIN_FILE", file);
            }
            if let Some(value) = value {
                command.env("TASKSEAL_PIN", value);
            }
        }
        command
            .args(["key", "list", "--key", &uri])
            .assert()
            .success();
    }
}

#[test]
fn fernet_keys_in_the_token_encrypt_decrypt_rotate_and_are_not_made_twice() {
    let Some(place) = place_with_pin() else {
        return;
    };
    let (old, new) = (
        "pkcs11:token=test;object=old",
        "pkcs11:token=test;object=queue",
    );
    for uri in [old, new] {
        let made = place.run(&format!("fernet key generate --json --key {uri}"));
        let made = json_on_stdout(&made.success());
        assert_eq!(made.as_array().unwrap().len(), 2, "{made}");
        for key in made.as_array().unwrap() {
            assert_eq!(
                (&key["sensitive"], &key["extractable"]),
                (&true.into(), &false.into())
            );
        }
    }
    place
        .run(&format!("fernet key generate --key {new}"))
        .failure()
        .stderr(contains("a secret key with label \"queue\""));
    let listed = stdout(&place.run(&format!("fernet key list --key {new}")).success());
    assert!(
        listed.contains("generic secret") && listed.contains("AES"),
        "{listed}"
    );
    assert!(!listed.contains("old"), "{listed}");

    let token = place.run(&format!("fernet encrypt --key {old} task.json"));
    place.write("old.token", stdout(&token.success()));
    let rotated = place.run(&format!("fernet rotate --key {new} --key {old} old.token"));
    place.write("token", stdout(&rotated.success()));
    place
        .run(&format!("fernet decrypt --key {new} token"))
        .success()
        .stdout(BODY);
    place
        .run(&format!("fernet decrypt --key {old} token"))
        .code(1)
        .stdout("");
    place
        .run("fernet encrypt --key pkcs11:token=test;object=nothing task.json")
        .failure()
        .stderr(contains("no generic secret with label \"nothing\""));
}

#[test]
fn a_message_is_signed_and_encrypted_with_keys_in_the_token_alone() {
    let Some(place) = place_with_pin() else {
        return;
    };
    const MESSAGE: &str = r#"{"body": "W10=", "content-encoding": "utf-8", "content-type": "application/json", "headers": {}, "properties": {}}"#;
    place.write("message.json", MESSAGE);
    let queue = "pkcs11:token=test;object=queue";
    for command in [
        format!("key generate --key {KEY}"),
        format!("cert self-sign --key {KEY} --subject CN=w,O=E --days 30 --out w.pem"),
        format!("fernet key generate --key {queue}"),
        "fernet key generate --key pkcs11:token=test;object=other".to_owned(),
    ] {
        place.run(&command).success();
    }
    let sealed = place.run(&format!(
        "seal --key {KEY} --cert w.pem --encrypt-key {queue} --queue celery message.json"
    ));
    let sealed = stdout(&sealed.success());
    assert!(sealed.starts_with("gAAAA"), "{sealed}");
    place.write("sealed", sealed);
    let open = |key: &str| {
        place.run(&format!(
            "open --store w.pem --encrypt-key {key} --queue celery sealed"
        ))
    };
    open(queue).success().stdout(MESSAGE);
    open("pkcs11:token=test;object=other")
        .code(1)
        .stdout("")
        .stderr(contains("refused (token)"));
}

#[cfg(feature = "software")]
#[test]
fn a_fernet_key_in_a_file_goes_into_the_token_and_is_the_same_there() {
    let Some(place) = place_with_pin() else {
        return;
    };
    place.run("fernet key generate --out old.key").success();
    let token = place.run("fernet encrypt --key old.key task.json");
    place.write("old.token", stdout(&token.success()));
    let copy = "pkcs11:token=test;object=copy";
    place
        .run(&format!("fernet key import --key {copy} old.key"))
        .success()
        .stderr(contains("whoever had it before"));
    place
        .run(&format!("fernet decrypt --key {copy} old.token"))
        .success()
        .stdout(BODY);
    // From a key in a file to keys in the token.
    let queue = "pkcs11:token=test;object=queue";
    place
        .run(&format!("fernet key generate --key {queue}"))
        .success();
    let rotated = place.run(&format!(
        "fernet rotate --key {queue} --key old.key old.token"
    ));
    place.write("token", stdout(&rotated.success()));
    place
        .run(&format!("fernet decrypt --key {queue} token"))
        .success()
        .stdout(BODY);
    place
        .run("fernet decrypt --key old.key token")
        .code(1)
        .stdout("");
    for (from, error) in [
        (queue, "cannot be taken out of a token"),
        ("task.json", "holds no Fernet key"),
        ("env:NOTHING", "is not set"),
    ] {
        place
            .run(&format!(
                "fernet key import --key pkcs11:token=test;object=bad {from}"
            ))
            .code(1)
            .stderr(contains(error));
    }
}
