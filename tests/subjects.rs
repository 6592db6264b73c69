//! Subjects of the certificates and requests that are made here: stock Celery reads what was meant, or nothing is made.
#![cfg(feature = "software")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod support;

use std::time::{Duration, SystemTime};

use support::keys::key;
use support::mutate::Random;
use support::python::{self, Environment};
use taskseal::issue::{self, IssueError};
use taskseal::pss::Scheme;
use taskseal::{Certificate, ErrorClass, SoftwareKey};

fn made(key: &SoftwareKey, subject: &str) -> Result<Certificate, IssueError> {
    let now = SystemTime::now();
    issue::self_sign(key, subject, now, now + Duration::from_secs(3600))
}

/// What stock Celery reads in PEM texts: see `interop/subjects.py`.
fn read_by_celery(test: &str, pems: &[String]) -> Option<Vec<Result<String, String>>> {
    let python = Environment::Current.python(test)?;
    let input = serde_json::to_value(pems).unwrap();
    let answers = python::run_json_with(&python, "subjects.py", &input);
    let answer = |one: &serde_json::Value| match one.get("ok") {
        Some(text) => Ok(text.as_str().unwrap().to_owned()),
        None => Err(one["error"].as_str().unwrap().to_owned()),
    };
    Some(answers.as_array().unwrap().iter().map(answer).collect())
}

/// Every attribute type, string type and length that is taken, alone and with others.
const GOOD: &[(&str, &str)] = &[
    ("CN=worker-7", "worker-7"),
    ("CN=worker-7,O=Example,C=DE", "DE Example worker-7"),
    ("CN=a,OU=x,OU=y,DC=example,DC=org", "org example y x a"),
    ("CN=longer+OU=b,O=c", "c b longer"),
    (r"CN=\ a\, b\ ,O=\#1", "#1  a, b "),
    (r"CN=Lu\C4\8Di\C4\87", "Lučić"),
    ("CN=本局 🦀", "本局 🦀"),
    (
        "emailAddress=ca@example.org,UID=w,STREET=a,L=b,ST=c",
        "c b a w ca@example.org",
    ),
    ("serialNumber=08-15,title=t,givenName=g,SN=s", "s g t 08-15"),
    (
        "dnQualifier=(q),initials=i,pseudonym=p,postalCode=1",
        "1 p i (q)",
    ),
    (
        "description=d,businessCategory=b,name=n,mail=m@x",
        "m@x n b d",
    ),
    ("organizationIdentifier=o,generationQualifier=g", "g o"),
    ("jurisdictionCountryName=DE,CN=x", "x DE"),
    ("1.3.6.1.4.1.55555.1=private", "private"),
    ("2.5.4.3=#1303616263", "abc"),
];

#[test]
fn stock_celery_reads_what_was_meant() {
    let key = key(2048, Scheme::default());
    let longest =
        ["CN", "O", "OU"].map(|kind| (format!("{kind}={}", "x".repeat(64)), "x".repeat(64)));
    let cases: Vec<(String, String)> = GOOD
        .iter()
        .map(|(subject, text)| ((*subject).to_owned(), (*text).to_owned()))
        .chain(longest)
        .collect();
    let mut pems = Vec::new();
    let mut expected = Vec::new();
    for (subject, text) in &cases {
        let certificate = made(&key, subject).unwrap_or_else(|error| panic!("{subject}: {error}"));
        assert_eq!(certificate.issuer(), text, "{subject}");
        // What is shown can be given again. The string type may be another one then.
        let again = made(&key, certificate.subject()).unwrap();
        assert_eq!(again.subject(), certificate.subject());
        assert_eq!(again.issuer(), text, "{subject}");
        expected.push(certificate.id().to_owned());
        pems.push(certificate.to_pem());
        expected.push(text.clone());
        pems.push(issue::request(&key, subject).unwrap());
    }
    let Some(answers) = read_by_celery("stock_celery_reads_what_was_meant", &pems) else {
        return;
    };
    for (at, (answer, expected)) in answers.iter().zip(&expected).enumerate() {
        let (subject, _) = &cases[at / 2];
        assert_eq!(answer.as_ref(), Ok(expected), "{subject}");
    }
}

/// Other notations and values that a certificate must not have: an error at the character, and neither a certificate nor a
/// request. The unit tests of the parser have every rule.
#[test]
fn what_is_meant_otherwise_is_no_certificate() {
    let key = key(2048, Scheme::default());
    for (subject, position) in [
        ("C=US;O=Example;CN=w", 5),
        ("C=US/O=Example/CN=w", 5),
        ("/C=US/O=Example/CN=w", 1),
        ("O=Example/CN=w", 10),
        ("C=US, O=Example", 6),
        ("C=USA", 5),
        ("CN=", 4),
        ("", 1),
    ] {
        let errors = [
            made(&key, subject).unwrap_err(),
            issue::request(&key, subject).unwrap_err(),
            issue::check_subject(subject).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.class(), ErrorClass::Permanent);
            assert!(
                error
                    .to_string()
                    .contains(&format!("at character {position}: ")),
                "{error}"
            );
            match error {
                IssueError::Subject { source, .. } => assert_eq!(source.position, position),
                other => panic!("{other}"),
            }
        }
    }
}

/// Texts at random, of pieces that mean something here or elsewhere.
#[test]
fn random_subjects_are_read_alike_or_refused() {
    const PIECES: &[&str] = &[
        "CN",
        "O",
        "C",
        "DC",
        "emailAddress",
        "1.2.3.4",
        "=",
        "=",
        "=",
        ",",
        "+",
        ";",
        "/",
        " ",
        "\\",
        "\\,",
        "\\=",
        "\\20",
        "\\c3\\bc",
        "\\ff",
        "#",
        "#0c0161",
        "\"",
        "<",
        "DE",
        "worker",
        "ü",
        "🦀",
        "\n",
        "\0",
        "a",
        ".",
        "-",
    ];
    let key = key(2048, Scheme::default());
    let mut random = Random::new(0x4514);
    let (mut pems, mut ids, mut refused) = (Vec::new(), Vec::new(), 0);
    for round in 0..20_000 {
        // Most begin well, so that there is something to go on from.
        let mut subject = String::from(if round % 4 == 0 { "" } else { "CN=w" });
        for _ in 0..random.below(8) {
            subject.push_str(PIECES[random.below(PIECES.len())]);
        }
        match issue::check_subject(&subject) {
            Err(IssueError::Subject { source, .. }) => {
                refused += 1;
                let end = subject.chars().count() + 1;
                assert!(
                    (1..=end).contains(&source.position),
                    "{subject:?}: {source}"
                );
            }
            Err(other) => panic!("{subject:?}: {other}"),
            Ok(()) if pems.len() < 300 => match made(&key, &subject) {
                Ok(certificate) => {
                    let shown = made(&key, certificate.subject()).unwrap();
                    assert_eq!(
                        shown.subject_der(),
                        certificate.subject_der(),
                        "{subject:?}"
                    );
                    ids.push((certificate.id().to_owned(), subject));
                    pems.push(certificate.to_pem());
                }
                Err(error) => panic!("{subject:?}: {error}"),
            },
            Ok(()) => {}
        }
    }
    assert!(
        refused > 5000 && pems.len() == 300,
        "{refused}, {}",
        pems.len()
    );
    let Some(answers) = read_by_celery("random_subjects_are_read_alike_or_refused", &pems) else {
        return;
    };
    for (answer, (id, subject)) in answers.iter().zip(&ids) {
        assert_eq!(answer.as_ref(), Ok(id), "{subject:?}");
    }
}
