//! `taskseal doctor` and `taskseal bench`, on a SoftHSM token of their own.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use predicates::str::contains;
use support::{Place, json_on_stdout, softhsm, stdout};

const KEY: &str = "pkcs11:token=test;object=worker";

/// A token `test` with the key `worker`, and its certificate of so many days in `worker.pem`.
fn place(days: u32) -> Option<Place> {
    let module = softhsm()?;
    let mut place = Place::new();
    std::fs::create_dir(place.path("tokens")).unwrap();
    let tokens = place.path("tokens");
    place.write(
        "softhsm2.conf",
        format!("directories.tokendir = {}\n", tokens.display()),
    );
    for (name, value) in [
        ("SOFTHSM2_CONF", place.path("softhsm2.conf")),
        ("TASKSEAL_MODULE", module),
        ("TASKSEAL_SO_PIN", "officer-pin-83".into()),
        ("TASKSEAL_PIN", "user-pin-83".into()),
    ] {
        place.set_env(name, value);
    }
    place.run("token init --label test").success();
    place.run(&format!("key generate --key {KEY}")).success();
    place
        .run(&format!(
            "cert self-sign --key {KEY} --subject CN=worker --days {days} --out worker.pem"
        ))
        .success();
    Some(place)
}

/// The statuses of the lines about one thing.
fn statuses(report: &serde_json::Value, what: &str) -> Vec<String> {
    let lines = report["lines"].as_array().unwrap();
    let of = lines.iter().filter(|line| line["what"] == what);
    of.map(|line| line["status"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_healthy_token_passes_with_a_line_for_everything() {
    let Some(place) = place(365) else { return };
    let done = place
        .run(&format!("doctor {KEY} --cert worker.pem --json"))
        .code(0);
    let report = json_on_stdout(&done);
    assert_eq!(report["status"], "ok");
    for (what, lines) in [
        ("module", 1),
        ("library", 1),
        ("token", 1),
        ("sessions", 1),
        ("PIN", 1),
        ("login", 1),
        ("signature", 2),
        ("certificate", 1),
        ("speed", 2),
    ] {
        assert_eq!(statuses(&report, what), vec!["ok"; lines], "{what}");
    }
    assert!(statuses(&report, "mechanism").len() >= 6);

    place
        .run(&format!("cert import --key {KEY} worker.pem"))
        .success();
    let done = place.run(&format!("doctor {KEY} --seconds 0")).code(0);
    let shown = stdout(&done);
    assert!(
        shown.contains("days left"),
        "the certificate on the token: {shown}"
    );
    assert!(!shown.contains("signatures/s"), "{shown}");
    assert!(shown.contains("writable: not told (any number)"), "{shown}");
}

#[test]
fn warnings_and_failures_have_exit_codes_of_their_own() {
    let Some(place) = place(5) else { return };
    place
        .run(&format!("doctor {KEY} --cert worker.pem --seconds 0"))
        .code(3)
        .stdout(contains("warning  certificate"));
    place
        .run(&format!("doctor {KEY} --seconds 0"))
        .code(3)
        .stdout(contains("none on the token"));
    place
        .run("doctor pkcs11:token=other")
        .code(1)
        .stdout(contains("failed"));
    place
        .run("doctor pkcs11:token=test;object=other")
        .code(1)
        .stdout(contains("failed  key"));
    place.run("doctor").code(2);

    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/worker.pem");
    place
        .run(&format!("doctor {KEY} --cert {examples} --seconds 0"))
        .code(1)
        .stdout(contains("is for another key"));
}

#[test]
fn a_wrong_pin_is_shown_to_the_token_once() {
    let Some(mut place) = place(365) else { return };
    place.set_env("TASKSEAL_PIN", "wrong");
    let done = place.run(&format!("doctor {KEY} --json")).code(1);
    let report = json_on_stdout(&done);
    assert_eq!(statuses(&report, "login"), ["failed"]);
    assert!(
        statuses(&report, "signature").is_empty(),
        "nothing is tried after that: {report}"
    );
    place.set_env("TASKSEAL_PIN", "user-pin-83");
    place
        .run(&format!("doctor {KEY} --cert worker.pem --seconds 0"))
        .code(3)
        .stdout(contains("wrong PIN"));
    place
        .run(&format!("doctor {KEY} --cert worker.pem --seconds 0"))
        .code(0);
}

#[test]
fn bench_counts_signatures() {
    let Some(place) = place(365) else { return };
    let done = place
        .run(&format!("bench --key {KEY} --threads 2 --seconds 1 --json"))
        .success();
    let speed = json_on_stdout(&done);
    assert_eq!(speed["threads"], 2);
    assert!(speed["signatures"].as_u64().unwrap() > 0);
    place
        .run(&format!("bench --key {KEY} --seconds 1"))
        .success()
        .stdout(contains("per second"));
    place.run(&format!("bench --key {KEY} --threads 0")).code(2);
}
