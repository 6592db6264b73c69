//! `taskseal demo` keeps every promise that it makes.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use predicates::str::contains;
use support::{Place, json_on_stdout, softhsm, stdout};

#[test]
fn it_shows_the_whole_way_and_every_refusal() {
    if softhsm().is_none() {
        return;
    }
    let place = Place::new();
    let shown = stdout(&place.run("demo").success().stderr(""));
    for part in [
        " 7  ",
        "sensitive      yes",
        "extractable    no",
        "verified       signed by Example worker-7 ",
        "bad-signature: ",
        "unknown-signer: ",
        "expired: ",
        "content-type: ",
        "not-sealed: ",
        "6 refused",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\u{1b}'));
    assert!(
        shown.lines().all(|line| line.chars().count() <= 110),
        "{shown}"
    );
}

#[test]
fn its_facts_as_json() {
    if softhsm().is_none() {
        return;
    }
    let facts = json_on_stdout(&Place::new().run("demo --json").success().stderr(""));
    let reasons: Vec<_> = facts["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "bad-signature",
            "unknown-signer",
            "bad-signature",
            "expired",
            "content-type",
            "not-sealed"
        ]
    );
    assert_eq!(facts["key"]["extractable"], false);
    assert_eq!(facts["opened"]["body_is_the_same"], true);
}

#[test]
fn it_shows_what_can_be_read_in_each_scope() {
    if softhsm().is_none() {
        return;
    }
    let place = Place::new();
    let shown = stdout(&place.run("demo --encrypt").success().stderr(""));
    for part in [
        "plain                            13 of 14",
        "signed body                      14 of 14",
        "encrypted body                   13 of 14",
        "whole message, encrypted          0 of 14",
        "whole message, signed+encrypted   0 of 14",
        "What remains: the queue's name",
        "celery-task-meta-5f0c7d6e-",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(
        shown.lines().all(|line| line.chars().count() <= 110),
        "{shown}"
    );
    let facts = json_on_stdout(&place.run("demo --encrypt --json").success());
    let counts = |of: &str| -> Vec<usize> {
        let scopes = facts["readable"].as_array().unwrap().iter();
        let count = |scope: &serde_json::Value| scope[of]["readable"].as_array().unwrap().len();
        scopes.map(count).collect()
    };
    assert_eq!(counts("message"), [13, 14, 13, 14, 0, 0]);
    assert_eq!(counts("results"), [4, 5, 0, 5, 0, 0]);
}

#[test]
fn what_it_keeps_can_be_used_and_is_not_overwritten() {
    let Some(module) = softhsm() else { return };
    let mut place = Place::new();
    place
        .run("demo --keep kept --color always")
        .success()
        .stdout(contains("\u{1b}["));
    place
        .run("demo --keep kept")
        .code(1)
        .stderr(contains("is not empty"));
    place
        .run("open --store kept/trusted kept/task.sealed")
        .success()
        .stdout(contains("report-7.pdf"));
    let configuration = place.path("kept/softhsm2.conf");
    place.set_env("SOFTHSM2_CONF", configuration);
    place.set_env("TASKSEAL_MODULE", module);
    let pin = place.path("kept/pin");
    let uri = format!(
        "pkcs11:token=taskseal-demo;object=worker-7?pin-source=file:{}",
        pin.display()
    );
    let sealed = place
        .run_with(&format!("seal --key {uri}"), "[[1], {}, {}]")
        .success();
    let wire = sealed.get_output().stdout.clone();
    place
        .run_with("open --store kept/trusted", wire)
        .success()
        .stdout("[[1], {}, {}]");
}

#[test]
fn a_module_that_is_none_is_an_error() {
    let place = Place::new();
    place.write("module.so", "no library");
    place
        .run("demo --module nowhere.so")
        .code(1)
        .stderr(contains("nowhere.so"));
    place
        .run("demo --module module.so")
        .code(1)
        .stderr(contains("cannot be used"));
}
