//! Stores: what they read, what they refuse and with which words, and what a reload does under load.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use support::keys::{certificate, hours, key, other_key, signer, with_serial};
use taskseal::issue;
use taskseal::pss::Scheme;
use taskseal::store::Lookup;
use taskseal::store::fs::{ExpiredCertificates, Options};
use taskseal::{
    CertStore, Certificate, ErrorClass, FsCertStore, MemoryCertStore, Opener, Sealer, StoreError,
};
use tempfile::TempDir;

/// A directory of certificate files.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }
}

fn named(subject: &str) -> Certificate {
    certificate(&key(2048, Scheme::default()), subject)
}

fn expired(subject: &str) -> Certificate {
    let end = SystemTime::now() - hours(1);
    issue::self_sign(&key(2048, Scheme::default()), subject, end - hours(24), end).unwrap()
}

fn issuers(store: &dyn CertStore) -> Vec<String> {
    let all = store.certificates();
    for certificate in &all {
        assert_eq!(store.get(certificate.id()).as_ref(), Some(certificate));
    }
    assert!(all.is_sorted_by_key(|certificate| certificate.id().to_owned()));
    all.iter().map(|one| one.issuer().to_owned()).collect()
}

/// Why the store cannot tell whether a signer is unknown.
fn unsettled(store: &dyn CertStore) -> String {
    match store.lookup("nobody 1") {
        Lookup::Unsettled(reason) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

fn open(path: impl AsRef<Path>) -> Result<Vec<String>, StoreError> {
    FsCertStore::open(path).map(|store| issuers(&store))
}

/// The error of a store that must not load, with its text.
fn refused(path: impl AsRef<Path>) -> (StoreError, String) {
    let error = FsCertStore::open(path).map(drop).unwrap_err();
    let text = error.to_string();
    (error, text)
}

#[test]
fn the_memory_store_adds_gets_iterates_and_removes() {
    let store = MemoryCertStore::new();
    assert!(store.certificates().is_empty());
    assert!(store.get("").is_none());
    let [a, b] = ["CN=a", "CN=b"].map(named);
    store.add(b.clone()).unwrap();
    store.add(a.clone()).unwrap();
    assert_eq!(issuers(&store), ["a", "b"]);
    assert_eq!(store.certificates(), [a.clone(), b.clone()]);
    assert!(store.get("a").is_none() && store.get(&format!("{} ", a.id())).is_none());

    // The same one may be added many times, and is one.
    store.add(a.clone()).unwrap();
    assert_eq!(issuers(&store), ["a", "b"]);
    assert_eq!(store.remove(a.id()), Some(a.clone()));
    assert_eq!(store.remove(a.id()), None);
    assert_eq!(issuers(&store), ["b"]);
    store.add(a).unwrap();
    assert_eq!(issuers(&Arc::new(store)), ["a", "b"]);
}

#[test]
fn a_directory_a_file_and_a_pattern_are_read() {
    let dir = Dir::new();
    let a = dir.file("a.pem", named("CN=a").to_pem());
    dir.file("b.crt", named("CN=b").to_pem());
    dir.file("c.pem", named("CN=c").to_pem());
    assert_eq!(open(dir.path()).unwrap(), ["a", "b", "c"]);
    assert_eq!(open(&a).unwrap(), ["a"]);
    assert_eq!(open(dir.path().join("*.pem")).unwrap(), ["a", "c"]);
    assert_eq!(open(dir.path().join("[bc].*")).unwrap(), ["b", "c"]);
    assert_eq!(open(dir.path().join("?.crt")).unwrap(), ["b"]);
    let store = FsCertStore::open(dir.path()).unwrap();
    assert_eq!(store.path(), dir.path());
}

#[test]
fn a_file_may_hold_several_certificates_and_other_things() {
    let dir = Dir::new();
    let [a, b, c] = ["CN=a", "CN=b", "CN=c"].map(named);
    let key = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        "AAAA"
    );
    let bundle = format!(
        "# trusted\n{}Some words\n{key}{}{}# end",
        a.to_pem(),
        b.to_pem(),
        c.to_pem()
    );
    assert_eq!(
        open(dir.file("bundle.pem", &bundle)).unwrap(),
        ["a", "b", "c"]
    );
    let crlf = bundle.replace('\n', "\r\n");
    assert_eq!(open(dir.file("crlf.pem", crlf)).unwrap(), ["a", "b", "c"]);
    assert_eq!(open(dir.file("one.der", a.der())).unwrap(), ["a"]);
    // A key before the certificate, as in Celery's worker files, and text that is not UTF-8.
    let mixed = [key.as_bytes(), b"\xff\xfe\n", b.to_pem().as_bytes()].concat();
    assert_eq!(open(dir.file("mixed.pem", mixed)).unwrap(), ["b"]);
}

/// Opening a named pipe would wait for somebody to write to it.
#[test]
#[cfg(unix)]
fn what_is_no_regular_file_is_an_error_and_is_not_waited_for() {
    let dir = Dir::new();
    dir.file("good.pem", named("CN=good").to_pem());
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("socket"), "{error}");
    drop(socket);
    fs::remove_file(dir.path().join("socket")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(dir.path().join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let error = open(dir.path()).unwrap_err();
    assert!(
        error.to_string().contains("pipe: it is not a regular file"),
        "{error}"
    );
}

#[test]
fn hidden_files_and_sub_directories_are_left_out() {
    let dir = Dir::new();
    dir.file("a.pem", named("CN=a").to_pem());
    dir.file(".hidden.pem", "no certificate");
    dir.file(".a.pem.swp", [0xff; 100]);
    dir.file("sub/b.pem", named("CN=b").to_pem());
    dir.file("sub.pem/c.pem", named("CN=c").to_pem());
    dir.file(".git/config", "no certificate");
    assert_eq!(open(dir.path()).unwrap(), ["a"]);
    assert_eq!(open(dir.path().join("*")).unwrap(), ["a"]);
    assert_eq!(open(dir.path().join("*.pem")).unwrap(), ["a"]);
    assert_eq!(open(dir.path().join("*/*.pem")).unwrap(), ["b", "c"]);
    // Named, it is read.
    assert!(matches!(
        refused(dir.path().join(".hidden.pem")).0,
        StoreError::Certificate { .. }
    ));
}

/// As an orchestrator mounts secrets: links to links, swapped all at once.
#[cfg(unix)]
#[test]
fn symbolic_links_are_followed() {
    use std::os::unix::fs::symlink;
    let dir = Dir::new();
    let [a, b] = ["CN=a", "CN=b"].map(named);
    dir.file("..2024/worker.pem", a.to_pem());
    dir.file("..2025/worker.pem", b.to_pem());
    symlink("..2024", dir.path().join("..data")).unwrap();
    symlink("..data/worker.pem", dir.path().join("worker.pem")).unwrap();
    let store = FsCertStore::open(dir.path()).unwrap();
    assert_eq!(issuers(&store), ["a"]);

    symlink("..2025", dir.path().join("..new")).unwrap();
    fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
    let change = store.reload();
    assert_eq!((change.added, change.removed), (vec![b], vec![a]));

    // A link that points nowhere is a certificate that somebody believes to be there.
    symlink("gone.pem", dir.path().join("link.pem")).unwrap();
    let (error, text) = refused(dir.path());
    assert!(matches!(error, StoreError::Read { .. }), "{text}");
    assert_eq!(error.class(), ErrorClass::Transient);
    assert!(text.contains("link.pem"), "{text}");
}

#[test]
fn nothing_to_read_is_an_error_that_names_the_place() {
    let dir = Dir::new();
    let (error, text) = refused(dir.path());
    assert!(matches!(error, StoreError::Empty { .. }));
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    dir.file(".hidden.pem", named("CN=a").to_pem());
    assert!(matches!(refused(dir.path()).0, StoreError::Empty { .. }));

    let (error, text) = refused(dir.path().join("gone"));
    assert!(matches!(error, StoreError::NotFound { .. }));
    assert!(text.contains("gone"), "{text}");
    let (error, text) = refused(dir.path().join("*.pem"));
    assert!(matches!(error, StoreError::Empty { .. }));
    assert!(text.contains("*.pem"), "{text}");
    let (error, text) = refused(dir.path().join("***.pem"));
    assert!(matches!(error, StoreError::Pattern { .. }));
    assert!(text.contains("***.pem"), "{text}");

    let store = Options::new().allow_empty().open(dir.path()).unwrap();
    assert!(store.certificates().is_empty());
    assert!(unsettled(&store).contains("holds no certificate files"));
    dir.file("a.pem", named("CN=a").to_pem());
    assert_eq!(store.reload().added.len(), 1);
    assert_eq!(issuers(&store), ["a"]);
    assert_eq!(store.lookup("x"), Lookup::Unknown);
    // A missing directory is no empty one.
    assert!(
        Options::new()
            .allow_empty()
            .open(dir.path().join("gone"))
            .is_err()
    );
}

#[test]
fn a_file_that_is_no_certificate_is_named() {
    let good = named("CN=a").to_pem();
    for (name, contents) in [
        ("readme.txt", b"no certificate".to_vec()),
        ("empty.pem", Vec::new()),
        ("binary.der", vec![0x30, 0x82, 0xff, 0xff, 0x00]),
        ("noise.bin", vec![0xff; 4096]),
        ("cut.pem", good.as_bytes()[..good.len() / 2].to_vec()),
        (
            "second-bad.pem",
            format!("{good}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").into(),
        ),
        ("long.der", [named("CN=b").der(), b"\0"].concat()),
    ] {
        let dir = Dir::new();
        dir.file("a-good.pem", &good);
        dir.file(name, contents);
        let (error, text) = refused(dir.path());
        assert!(
            matches!(error, StoreError::Certificate { .. }),
            "{name}: {text}"
        );
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn expired_certificates_are_refused_skipped_or_kept() {
    let dir = Dir::new();
    dir.file("a.pem", named("CN=a").to_pem());
    let old = expired("CN=old");
    dir.file("old.pem", old.to_pem());
    let (error, text) = refused(dir.path());
    assert!(matches!(error, StoreError::Expired { .. }));
    assert!(
        text.contains("old.pem") && text.contains(old.id()),
        "{text}"
    );

    let with = |expired| {
        Options::new()
            .expired(expired)
            .open(dir.path())
            .map(|store| issuers(&store))
    };
    assert!(with(ExpiredCertificates::Refuse).is_err());
    assert_eq!(with(ExpiredCertificates::Skip).unwrap(), ["a"]);
    assert_eq!(with(ExpiredCertificates::Keep).unwrap(), ["a", "old"]);

    // Time is an argument: the same directory when the old one was valid, and when neither is any more.
    let then = old.not_before() + hours(1);
    let at = |expired, at| Options::new().expired(expired).open_at(dir.path(), at);
    assert!(at(ExpiredCertificates::Refuse, then).is_ok());
    assert!(at(ExpiredCertificates::Refuse, old.not_after()).is_err());
    let last = old.not_after() - Duration::from_secs(1);
    assert!(at(ExpiredCertificates::Refuse, last).is_ok());
    let later = SystemTime::now() + hours(24 * 365);
    let none = at(ExpiredCertificates::Skip, later).unwrap();
    assert!(none.certificates().is_empty());
}

/// A certificate that expires while a store is used stays in it, and an opener refuses what was signed under it.
#[test]
fn a_reload_after_a_certificate_expired_keeps_it_for_the_opener() {
    let dir = Dir::new();
    let worker = named("CN=worker");
    dir.file("worker.pem", worker.to_pem());
    let store = FsCertStore::open(dir.path()).unwrap();
    let old = expired("CN=old");
    dir.file("old.pem", old.to_pem());
    let change = store.reload();
    assert_eq!(change.added, [old]);
    assert!(change.left_out.is_empty());
    assert_eq!(issuers(&store), ["old", "worker"]);
}

/// A backup copy, the same certificate as PEM and as DER, one that is twice in a bundle.
#[test]
fn identical_certificates_are_one() {
    let dir = Dir::new();
    let [worker, other] = ["CN=worker,O=Example", "CN=other"].map(named);
    dir.file("first.pem", worker.to_pem());
    dir.file("second.der", worker.der());
    dir.file(
        "twice.pem",
        format!("{0}{1}{0}", worker.to_pem(), other.to_pem()),
    );
    assert_eq!(open(dir.path()).unwrap(), ["Example worker", "other"]);
    // Also when they come later; and one of the copies is enough.
    let store = FsCertStore::open(dir.path()).unwrap();
    dir.file("worker.bak", worker.to_pem());
    let change = store.reload();
    assert!(change.left_out.is_empty() && change.added.is_empty());
    for name in ["first.pem", "second.der", "twice.pem"] {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    assert_eq!(store.reload().removed, [other]);
    assert_eq!(store.get(worker.id()), Some(worker));
}

#[test]
fn two_certificates_of_one_id_are_both_named_with_their_files() {
    // Different names that read the same: the ambiguity of an issuer-and-serial text.
    let two = with_serial(&named("CN=B,O=A"), 7);
    let one = with_serial(&named("CN=A B"), 7);
    assert_eq!(one.id(), two.id());
    assert_ne!(one, two);
    let dir = Dir::new();
    dir.file("one.pem", one.to_pem());
    dir.file("two.pem", two.to_pem());
    let (error, text) = refused(dir.path());
    for part in ["one.pem", "two.pem", "CN=A B", "CN=B,O=A"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let StoreError::Duplicate { id, first, second } = error else {
        panic!("{text}");
    };
    assert_eq!(id, one.id());
    assert!(first.file.unwrap().ends_with("one.pem"));
    assert!(second.file.unwrap().ends_with("two.pem"));

    // Later neither counts: which of them a message means cannot be told. Their signers wait until one is gone.
    fs::remove_file(dir.path().join("two.pem")).unwrap();
    let store = FsCertStore::open(dir.path()).unwrap();
    dir.file("two.pem", two.to_pem());
    let change = store.reload();
    assert!(matches!(
        change.left_out[..],
        [StoreError::Duplicate { .. }]
    ));
    assert!(
        matches!(store.lookup(one.id()), Lookup::Unsettled(reason) if reason.contains("two.pem"))
    );
    fs::remove_file(dir.path().join("one.pem")).unwrap();
    assert!(store.reload().left_out.is_empty());
    assert_eq!(store.get(two.id()), Some(two.clone()));
    let memory = MemoryCertStore::new();
    memory.add(one.clone()).unwrap();
    assert!(memory.add(two).is_err());
    assert_eq!(memory.certificates(), [one]);
}

#[test]
fn a_reload_reports_what_it_added_removed_and_replaced() {
    let dir = Dir::new();
    let [a, b, c] = ["CN=a", "CN=b", "CN=c"].map(named);
    dir.file("a.pem", a.to_pem());
    let b_file = dir.file("b.pem", b.to_pem());
    let store = FsCertStore::open(dir.path()).unwrap();
    let change = store.reload();
    assert!(change.added.is_empty() && change.removed.is_empty() && change.left_out.is_empty());

    dir.file("c.pem", c.to_pem());
    fs::remove_file(b_file).unwrap();
    let change = store.reload();
    assert_eq!((change.added, change.removed), (vec![c], vec![b.clone()]));
    assert_eq!(issuers(&store), ["a", "c"]);
    assert!(store.get(b.id()).is_none());

    // Another key under the same id.
    let replaced = with_serial(&certificate(&other_key(Scheme::default()), "CN=same"), 1);
    let original = with_serial(&named("CN=same"), 1);
    dir.file("same.pem", original.to_pem());
    assert_eq!(store.reload().added.len(), 1);
    dir.file("same.pem", replaced.to_pem());
    let change = store.reload();
    assert_eq!(change.added, std::slice::from_ref(&replaced));
    assert_eq!(change.removed, [original]);
    assert_eq!(store.get(replaced.id()), Some(replaced));

    // The same certificate in another file is no change.
    fs::rename(dir.path().join("a.pem"), dir.path().join("z.pem")).unwrap();
    let change = store.reload();
    assert!(change.added.is_empty() && change.removed.is_empty());
}

/// Four threads open messages while the store is reloaded, well and badly, with certificates coming and going: whoever
/// is in every one of the sets is never unknown.
#[test]
fn a_reload_under_load_never_loses_a_signer() {
    const RELOADS: usize = 300;
    let dir = Dir::new();
    let signers = [
        signer(2048, Scheme::default(), "CN=first"),
        signer(3072, Scheme::default(), "CN=second"),
    ];
    for (at, signer) in signers.iter().enumerate() {
        dir.file(&format!("signer-{at}.pem"), signer.certificate().to_pem());
    }
    let store = Arc::new(FsCertStore::open(dir.path()).unwrap());
    let opener = Opener::new(Arc::clone(&store));
    let wires = signers.map(|signer| Sealer::new(signer).seal(&[1, 2, 3]).unwrap().into_bytes());
    let done = AtomicBool::new(false);
    let opened = AtomicUsize::new(0);
    let extra = named("CN=extra").to_pem();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for wire in &wires {
                        opener.open(wire).unwrap();
                        opened.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let mut started_with = 0;
        for round in 0..RELOADS {
            let file = dir.path().join("extra.pem");
            match round % 3 {
                0 => fs::write(&file, &extra).unwrap(),
                1 => fs::write(&file, "no certificate").unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let change = store.reload();
            assert_eq!(change.left_out.is_empty(), round % 3 != 1, "round {round}");
            if round == 0 {
                started_with = opened.load(Ordering::Relaxed);
            }
        }
        // The threads did open messages while the reloads went on; on a busy machine that may take a moment longer.
        while opened.load(Ordering::Relaxed) < started_with + 100 {
            let _ = store.reload();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(opened.into_inner() >= 100);
}

/// Reloads from several threads end with what is on the disk.
#[test]
fn reloads_at_the_same_time_do_not_bring_an_old_set_back() {
    let dir = Dir::new();
    let [a, b] = ["CN=a", "CN=b"].map(named);
    let file = dir.file("one.pem", a.to_pem());
    let store = FsCertStore::open(dir.path()).unwrap();
    for round in 0..50 {
        let (now, before) = if round % 2 == 0 { (&b, &a) } else { (&a, &b) };
        let new = dir.path().join(".new");
        fs::write(&new, now.to_pem()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| store.reload());
            fs::rename(&new, &file).unwrap();
            let _ = store.reload();
        });
        assert_eq!(store.certificates(), std::slice::from_ref(now));
        assert!(store.get(before.id()).is_none());
    }
}

#[test]
fn two_thousand_certificates_are_all_found() {
    const COUNT: u64 = 2_000;
    let template = named("CN=worker,O=Example");
    let dir = Dir::new();
    let all: Vec<_> = (0..COUNT)
        .map(|serial| with_serial(&template, serial))
        .collect();
    for (part, certificates) in all.chunks(1_000).enumerate() {
        let bundle: String = certificates.iter().map(Certificate::to_pem).collect();
        dir.file(&format!("{part}.pem"), bundle);
    }
    let store = FsCertStore::open(dir.path()).unwrap();
    assert_eq!(store.certificates().len(), all.len());
    for certificate in &all {
        assert_eq!(store.get(certificate.id()).as_ref(), Some(certificate));
    }
    assert!(store.get(with_serial(&template, COUNT).id()).is_none());
    dir.file("last.der", with_serial(&template, COUNT).der());
    assert_eq!(store.reload().added.len(), 1);

    let memory = MemoryCertStore::new();
    for certificate in &all {
        memory.add(certificate.clone()).unwrap();
    }
    memory.add(all[1_234].clone()).unwrap();
    assert_eq!(memory.certificates(), {
        let mut sorted = all;
        sorted.sort_by(|a, b| a.id().cmp(b.id()));
        sorted
    });
}
