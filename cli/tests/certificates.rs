//! `cert` and `store check`, with keys in PEM files.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use predicates::prelude::PredicateBooleanExt as _;
use predicates::str::contains;
use support::{Place, json_on_stderr, json_on_stdout, other_key, stderr, stdout};

#[test]
fn a_self_signed_certificate_opens_what_its_key_seals() {
    let place = Place::with_worker();
    let made = place
        .run("cert self-sign --json --key worker.key --subject CN=w,O=Örg --days 30 --out new.pem");
    let made = made.success().stdout("");
    let facts = json_on_stderr(&made);
    assert!(
        facts["id"].as_str().unwrap().starts_with("Örg w "),
        "{facts}"
    );
    assert_eq!(facts["key_bits"], 2048);
    assert_eq!(
        facts["pem"].as_str().unwrap().as_bytes(),
        place.read("new.pem")
    );
    let sealed = place
        .run("seal --key worker.key --cert new.pem task.json")
        .success();
    place.write("sealed", &sealed.get_output().stdout);
    place.run("open --store new.pem sealed").success();
    place.run("store check new.pem").success();
    // It counts at once for a machine whose clock is behind.
    let certificate = taskseal::Certificate::from_pem(&place.read("new.pem")).unwrap();
    let ahead = std::time::SystemTime::now().duration_since(certificate.not_before());
    assert!(ahead.unwrap().as_secs() >= 300);
    let lasts = certificate
        .not_after()
        .duration_since(certificate.not_before());
    assert_eq!(lasts.unwrap().as_secs(), 30 * 24 * 3600 + 300);
}

#[test]
fn without_out_the_certificate_goes_to_stdout_alone() {
    let place = Place::with_worker();
    let made = place
        .run("cert self-sign --key worker.key --subject CN=w --days 1")
        .success();
    assert!(stdout(&made).starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(stdout(&made).ends_with("-----END CERTIFICATE-----\n"));
    assert!(stderr(&made).contains("signer id"), "{}", stderr(&made));
    let request = place
        .run("cert request --key worker.key --subject CN=w")
        .success();
    assert!(stdout(&request).starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
}

#[test]
fn a_file_that_is_there_is_overwritten_only_by_force() {
    let place = Place::with_worker();
    let make = "cert self-sign --key worker.key --subject CN=w --days 1 --out worker.pem";
    let before = place.read("worker.pem");
    place
        .run(make)
        .code(1)
        .stderr(contains("worker.pem is there already").and(contains("--force")));
    assert_eq!(place.read("worker.pem"), before);
    place.run(&format!("{make} --force")).success();
    assert_ne!(place.read("worker.pem"), before);
    place
        .run("cert self-sign --key worker.key --subject CN=w --days 1 --out no/such/dir.pem")
        .code(1)
        .stderr(contains("cannot write no/such/dir.pem"));
    let left: Vec<_> = std::fs::read_dir(place.path("")).unwrap().collect();
    assert_eq!(left.len(), 3, "no temporary file stays: {left:?}");
}

#[test]
fn a_subject_that_is_no_name_is_refused() {
    let place = Place::with_worker();
    place
        .run("cert self-sign --key worker.key --subject worker --days 1")
        .code(1)
        .stderr(
            contains("no distinguished name such as")
                .and(contains("at character 7: '=' is missing")),
        );
    // Other notations are told from a name, for both commands, and before the key is asked for.
    for (subject, character) in [
        ("C=US;O=Example;CN=w", 5),
        ("/C=US/O=Example/CN=w", 1),
        ("O=Example/CN=w", 10),
        ("C=USA", 5),
    ] {
        for command in ["self-sign --days 1", "request"] {
            place
                .run(&format!(
                    "cert {command} --key nowhere.key --subject {subject}"
                ))
                .code(1)
                .stdout("")
                .stderr(contains(format!("at character {character}: ")));
        }
    }
    place
        .run("cert self-sign --key worker.key --subject CN=w --days 0")
        .code(2);
}

#[test]
fn a_good_store_is_listed_and_ends_with_0() {
    let place = Place::with_worker();
    let listed = stdout(&place.run("store check worker.pem").success());
    for part in [
        "STATUS",
        "ok",
        "Example CA worker-7 7",
        "RSA-2048",
        "worker.pem",
    ] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let listed = place.run("store check --json worker.pem").success();
    let report = json_on_stdout(&listed);
    assert_eq!(
        (&report["ok"], &report["failed"]),
        (&1.into(), &0.into()),
        "{report}"
    );
}

/// The fixture is a leaf, the EC authority that issued it, and the root of that one.
#[test]
fn a_store_check_says_what_each_certificate_counts_as() {
    let place = Place::with_worker();
    std::fs::create_dir(place.path("store")).unwrap();
    let chain = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/chain.pem");
    std::fs::copy(chain, place.path("store/chain.pem")).unwrap();
    place.write("store/worker.pem", place.read("worker.pem"));
    let checked = place.run("store check --json store").success();
    let report = json_on_stdout(&checked);
    let of = |name: &str| -> Vec<String> {
        let all = report["certificates"].as_array().unwrap().iter();
        all.map(|one| one[name].as_str().unwrap_or("-").to_owned())
            .collect()
    };
    assert_eq!(of("counts_as"), ["signer", "chain", "chain", "signer"]);
    assert_eq!(of("status"), ["ok"; 4], "{report}");
    assert_eq!(
        of("subject")[..2],
        ["CN=worker-8,O=Example", "CN=Intermediate,O=Example"]
    );
    assert_eq!(report["signers"], 2);
    let table = stdout(&place.run("store check store").success());
    assert!(table.contains("COUNTS AS"), "{table}");
    assert!(
        table.contains("chain: it issued another one of its file"),
        "{table}"
    );

    // The chain alone, and a section of it that is damaged.
    let text = String::from_utf8(place.read("store/chain.pem")).unwrap();
    let (_, authorities) = text.split_at(text.find("-----END").unwrap() + 26);
    place.write("authorities.pem", authorities);
    place
        .run("store check authorities.pem")
        .code(1)
        .stderr(contains("no certificate in it is a signer's"));
    place.write("glued.pem", text.replace("-----\n-----", "----------"));
    place.run("store check glued.pem").success();
    place.write("cut.pem", text.replacen("-----END", "", 1));
    place
        .run("store check cut.pem")
        .code(1)
        .stdout(contains("line 1: the PEM text is damaged"));
}

#[test]
fn every_problem_of_a_store_is_listed_not_only_the_first() {
    let place = Place::with_worker();
    std::fs::create_dir(place.path("store")).unwrap();
    let worker = place.read("worker.pem");
    place.write("store/a.pem", &worker);
    // The same certificate again, followed by one that ends soon, in one file.
    place.write("other.key", other_key());
    place
        .run("cert self-sign --key other.key --subject CN=soon --days 10 --out soon.pem")
        .success();
    place.write("store/b.pem", [worker, place.read("soon.pem")].concat());
    place.write("store/c.pem", "no certificate\n");
    place.write("store/.hidden", "not looked at");
    let small = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/ca-only.pem");
    std::fs::copy(small, place.path("store/d.pem")).unwrap();

    let checked = place.run("store check --json store").code(1);
    let report = json_on_stdout(&checked);
    let of = |at: usize| {
        let one = &report["certificates"][at];
        (one["status"].as_str().unwrap(), one["problems"].to_string())
    };
    assert_eq!(
        report["certificates"].as_array().unwrap().len(),
        5,
        "{report}"
    );
    for (at, status, problem) in [
        (0, "ok", "[]"),
        (1, "ok", "[]"),
        (2, "warning", "ends soon"),
        (3, "failed", "there is no certificate in it"),
        (4, "failed", "key usage"),
    ] {
        assert_eq!(of(at).0, status, "{at}: {report}");
        assert!(of(at).1.contains(problem), "{at}: {report}");
    }
    let notes = &report["certificates"][1]["notes"];
    assert_eq!(
        notes[1], "the same certificate as in store/a.pem",
        "{report}"
    );
    let error = json_on_stderr(&checked);
    assert_eq!(error["error"], "2 of 5 cannot be used to open messages");
    let table = stdout(&place.run("store check store").code(1));
    assert_eq!(table.lines().count(), 6, "{table}");
    place.run("store check --warn-days 5 soon.pem").success();
}

/// A critical extension that nobody here understands: the store says it, messages are refused, and there is a way out.
#[test]
fn an_unknown_critical_extension_is_said_and_can_be_named() {
    const IGNORED: &str = "--dangerous-ignore-critical 1.3.6.1.4.1.99999.1";
    let place = Place::with_worker();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/critical.pem");
    std::fs::copy(data, place.path("critical.pem")).unwrap();
    place
        .run("store check critical.pem")
        .code(1)
        .stdout(contains(
            "its extension 1.3.6.1.4.1.99999.1 is critical and not understood",
        ));
    place
        .run(&format!("store check {IGNORED} critical.pem"))
        .success();
    let sealed = place
        .run("seal --key worker.key --cert critical.pem task.json")
        .success()
        .stderr(contains("openers will refuse the message"));
    place.write("sealed", &sealed.get_output().stdout);
    place
        .run("open --store critical.pem sealed")
        .code(1)
        .stdout("")
        .stderr(contains("refused (critical-extension)").and(contains(format!("hint: {IGNORED}"))));
    place
        .run(&format!("open {IGNORED} --store critical.pem sealed"))
        .success();
    for command in [
        "open --store critical.pem sealed",
        "store check critical.pem",
    ] {
        place
            .run(&format!("{command} --dangerous-ignore-critical 2.5.29.15"))
            .code(1)
            .stderr(contains("what a key is for, and that is checked"));
    }
}

#[test]
fn a_store_that_is_not_there_is_an_error() {
    let place = Place::new();
    place
        .run("store check nowhere")
        .code(1)
        .stderr(contains("does not exist"));
    std::fs::create_dir(place.path("empty")).unwrap();
    place
        .run("store check empty")
        .code(1)
        .stderr(contains("holds no certificate files"));
    place
        .run("store check *.pem")
        .code(1)
        .stderr(contains("holds no certificate files"));
}
