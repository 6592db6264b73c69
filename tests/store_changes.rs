//! Stores whose files change while they are used: what counts at which moment, with time as an argument.
#![cfg(feature = "software")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::keys::{certificate, key, signer};
use taskseal::pss::Scheme;
use taskseal::store::Lookup;
use taskseal::store::fs::Options;
use taskseal::{
    CertStore as _, Certificate, ErrorClass, Format, FsCertStore, Opener, Policy, Sealer,
};
use tempfile::TempDir;

const INTERVAL: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(300);

/// A store in a directory, and a clock of its own.
struct Place {
    dir: TempDir,
    store: FsCertStore,
    now: Instant,
}

impl Place {
    /// With these files at the start.
    fn new(files: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trusted")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join("trusted").join(name), text).unwrap();
        }
        let options = Options::new().reload_interval(INTERVAL).grace(GRACE);
        let store = options.open(dir.path().join("trusted")).unwrap();
        // Ahead of the machine's clock, so that nothing is ever due by that.
        let now = Instant::now() + Duration::from_secs(24 * 3600);
        store.refresh_at(now);
        Self { dir, store, now }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("trusted").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// After so many seconds: the names in the certificates that count, and why others are unsettled.
    fn after(&mut self, seconds: u64) -> (Vec<String>, Option<String>) {
        self.now += Duration::from_secs(seconds);
        self.store.refresh_at(self.now);
        let all = self.store.certificates();
        let names = all.iter().map(|one| one.issuer().to_owned()).collect();
        let unsettled = match self.store.lookup("nobody 1") {
            Lookup::Unsettled(reason) => Some(reason.to_string()),
            other => {
                assert_eq!(other, Lookup::Unknown);
                None
            }
        };
        (names, unsettled)
    }

    #[track_caller]
    fn expect(&mut self, seconds: u64, names: &[&str], reason: Option<&str>) {
        let (found, unsettled) = self.after(seconds);
        assert_eq!(found, names);
        match (&unsettled, reason) {
            (Some(text), Some(part)) => assert!(text.contains(part), "{text}"),
            (None, None) => {}
            _ => panic!("{unsettled:?} is not {reason:?}"),
        }
    }
}

fn named(name: &str) -> Certificate {
    certificate(&key(2048, Scheme::default()), &format!("CN={name}"))
}

fn pem(name: &str) -> String {
    named(name).to_pem()
}

#[test]
fn a_file_that_comes_goes_or_is_replaced_counts_at_the_next_look() {
    let mut place = Place::new(&[("a.pem", pem("a"))]);
    place.write("b.pem", pem("b"));
    place.expect(1, &["a"], None);
    place.expect(4, &["a", "b"], None);
    // Taken away, it is gone at once: this is how a signer is taken out. It may be about to be written again, so for five
    // seconds nobody is called unknown.
    place.remove("a.pem");
    place.expect(5, &["b"], Some("a.pem has just been changed or removed"));
    place.expect(5, &["b"], None);
    // Replaced by another good one as well.
    place.write("b.pem", pem("another") + "\n");
    place.expect(5, &["another"], Some("b.pem has just been changed"));
    place.expect(5, &["another"], None);
    // Renamed, it is the same.
    fs::rename(place.path("b.pem"), place.path("c.pem")).unwrap();
    place.expect(5, &["another"], None);
}

/// As `install`, `rm` and `cp`, and many editors do: a look may fall between the two.
#[test]
fn a_signer_whose_file_is_removed_and_written_again_is_never_unknown() {
    let (a, b) = (pem("a"), pem("b"));
    let mut place = Place::new(&[("a.pem", a.clone()), ("b.pem", b.clone())]);
    place.remove("a.pem");
    place.expect(5, &["b"], Some("a.pem"));
    place.write("a.pem", &a);
    // It is all there again, so strangers are strangers.
    place.expect(5, &["a", "b"], None);
    // Under another name, or with a part of it first.
    place.remove("a.pem");
    place.remove("b.pem");
    place.write("both.pem", &a);
    place.expect(5, &["a"], Some("b.pem"));
    place.write("both.pem", a.clone() + &b);
    place.expect(4, &["a"], Some("b.pem"));
    place.expect(1, &["a", "b"], None);
    // The directory, too.
    let trusted = place.dir.path().join("trusted");
    fs::remove_dir_all(&trusted).unwrap();
    place.expect(5, &[], Some("does not exist"));
    place.expect(500, &[], Some("does not exist"));
    fs::create_dir(&trusted).unwrap();
    place.expect(5, &[], Some("no certificate files"));
    place.write("a.pem", &a);
    place.expect(1, &[], Some("no certificate files"));
    place.expect(4, &["a"], Some("b"));
    place.write("b.pem", &b);
    place.expect(5, &["a", "b"], None);
}

#[test]
fn a_signer_that_was_taken_out_is_unknown_after_five_seconds_and_losses_without_end_make_nobody_wait()
 {
    let names: Vec<String> = (10..40).map(|number| format!("n{number}.pem")).collect();
    let files: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), pem(name)))
        .chain([("a.pem", pem("a"))])
        .collect();
    let mut place = Place::new(&files);
    let mut waited = 0;
    for name in &names {
        place.remove(name);
        let (_, unsettled) = place.after(5);
        waited += u64::from(unsettled.is_some()) * 5;
    }
    assert_eq!(waited, 60);
    // The last one was lost within a run of them. After it, it is quiet.
    place.expect(5, &["a"], None);
    place.write("b.pem", pem("b"));
    place.expect(5, &["a", "b"], None);
    place.remove("b.pem");
    place.expect(5, &["a"], Some("b.pem"));
    place.expect(5, &["a"], None);
}

#[test]
fn a_file_that_cannot_be_parsed_now_keeps_what_it_gave_for_a_time() {
    let text = pem("a");
    for damaged in [
        "",
        "soon",
        "-----BEGIN CERTIFICATE-----",
        &text[..text.len() / 2],
    ] {
        let mut place = Place::new(&[("a.pem", text.clone()), ("b.pem", pem("b"))]);
        place.write("a.pem", damaged);
        place.expect(5, &["a", "b"], Some("a.pem"));
        place.expect(290, &["a", "b"], Some("a.pem"));
        // Then nobody can say any more that it counts. Still nothing is lost.
        place.expect(15, &["b"], Some("a.pem"));
        place.expect(100_000, &["b"], Some("a.pem"));
        place.write("a.pem", &text);
        place.expect(5, &["a", "b"], None);
    }
}

/// The file looks as it did, and can be read again: it is looked at each time until it can.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_now_is_looked_at_again_each_time() {
    use std::os::unix::fs::symlink;
    let mut place = Place::new(&[("b.pem", pem("b"))]);
    let outside = place.dir.path().join("a.pem");
    fs::write(&outside, pem("a")).unwrap();
    symlink(&outside, place.path("a.pem")).unwrap();
    place.expect(5, &["a", "b"], None);
    // Whatever the system says but that it is not there. Root may read everything, so not a matter of permissions.
    fs::rename(&outside, place.dir.path().join("aside")).unwrap();
    symlink("a.pem", &outside).unwrap();
    place.expect(5, &["a", "b"], Some("a.pem"));
    place.expect(5, &["a", "b"], Some("a.pem"));
    fs::rename(place.dir.path().join("aside"), &outside).unwrap();
    place.expect(5, &["a", "b"], None);
    // What a link points to is gone: so is what it gave, and somebody believes it to be there.
    fs::remove_file(&outside).unwrap();
    place.expect(5, &["b"], Some("a.pem"));
    place.remove("a.pem");
    place.expect(5, &["b"], Some("just been changed or removed"));
    place.expect(5, &["b"], None);
}

#[test]
fn one_damaged_section_leaves_out_itself_alone() {
    let (a, b) = (pem("a"), pem("b"));
    let bundle = format!("{a}{b}");
    let mut place = Place::new(&[("bundle.pem", bundle.clone())]);
    // Not only what was good stays: what is good and new counts.
    place.write(
        "bundle.pem",
        format!("{}{b}{}", a.replacen("MII", "?II", 1), pem("c")),
    );
    place.expect(
        5,
        &["a", "b", "c"],
        Some("bundle.pem, line 1: the PEM text is damaged"),
    );
    place.expect(300, &["b", "c"], Some("bundle.pem"));
    // Repaired, without `c`.
    place.write("bundle.pem", &bundle);
    place.expect(5, &["a", "b"], Some("just been changed"));
    place.expect(5, &["a", "b"], None);
    // A new file that is damaged has nothing to keep.
    place.write("d.pem", pem("d").replacen("MII", "?II", 1));
    place.expect(5, &["a", "b"], Some("d.pem"));
    place.write("d.pem", pem("d"));
    place.expect(5, &["a", "b", "d"], None);
}

/// Every state of a file that is written in place, byte by byte: nobody who was trusted before and is trusted after is
/// ever unknown.
#[test]
fn a_file_that_is_written_in_place_loses_nobody() {
    let (a, b) = (named("a"), named("b"));
    let bundle = format!("{}{}", a.to_pem(), b.to_pem());
    let mut place = Place::new(&[("bundle.pem", bundle.clone())]);
    let boundary = a.to_pem().len();
    let steps = (0..bundle.len())
        .step_by(97)
        .chain([boundary, bundle.len()]);
    let mut steps: Vec<usize> = steps.collect();
    steps.sort_unstable();
    for len in steps {
        place.write("bundle.pem", &bundle[..len]);
        place.after(5);
        for signer in [&a, &b] {
            let answer = place.store.lookup(signer.id());
            assert_ne!(answer, Lookup::Unknown, "after {len} bytes");
        }
    }
    place.expect(5, &["a", "b"], None);
}

#[test]
fn grace_keeps_nothing_that_was_replaced() {
    let mut place = Place::new(&[("a.pem", pem("a"))]);
    place.write("a.pem", "");
    place.expect(5, &["a"], Some("a.pem"));
    place.write("a.pem", pem("other"));
    place.expect(5, &["other"], Some("just been changed"));
    place.write("a.pem", "");
    place.expect(5, &["other"], Some("a.pem"));
    place.remove("a.pem");
    place.expect(5, &[], Some("holds no certificate files"));
}

#[test]
fn an_empty_or_missing_directory_trusts_nobody_and_loses_nothing() {
    let mut place = Place::new(&[("a.pem", pem("a"))]);
    let (trusted, aside) = (place.path(""), place.dir.path().join("aside"));
    fs::rename(&trusted, &aside).unwrap();
    place.expect(5, &[], Some("does not exist"));
    fs::create_dir(&trusted).unwrap();
    place.expect(5, &[], Some("holds no certificate files"));
    fs::remove_dir(&trusted).unwrap();
    fs::rename(&aside, &trusted).unwrap();
    place.expect(5, &["a"], None);
}

/// Its neighbours' names may be what its own means as a pattern.
#[test]
fn a_directory_that_is_gone_is_not_a_pattern_for_its_neighbours() {
    let dir = tempfile::tempdir().unwrap();
    let (store, neighbour) = (dir.path().join("store[1]"), dir.path().join("store1"));
    fs::write(neighbour, pem("neighbour")).unwrap();
    fs::create_dir(&store).unwrap();
    fs::write(store.join("a.pem"), pem("a")).unwrap();
    let opened = FsCertStore::open(&store).unwrap();
    fs::remove_dir_all(&store).unwrap();
    let reload = opened.reload();
    assert!(opened.certificates().is_empty(), "{reload:?}");
    assert!(matches!(opened.lookup("a 7"), Lookup::Unsettled(_)));
}

/// The directory is there and cannot be listed now.
#[cfg(unix)]
#[test]
fn a_directory_that_cannot_be_read_now_keeps_what_it_gave_for_a_time() {
    use std::os::unix::fs::symlink;
    let mut place = Place::new(&[("a.pem", pem("a"))]);
    let (trusted, aside) = (
        place.dir.path().join("trusted"),
        place.dir.path().join("aside"),
    );
    fs::rename(&trusted, &aside).unwrap();
    symlink("trusted", &trusted).unwrap();
    place.expect(5, &["a"], Some("cannot read"));
    place.expect(290, &["a"], Some("cannot read"));
    place.expect(15, &[], Some("cannot read"));
    fs::remove_file(&trusted).unwrap();
    fs::rename(&aside, &trusted).unwrap();
    place.expect(5, &["a"], None);
}

#[test]
fn a_message_of_a_signer_that_may_be_known_is_not_refused() {
    let signer = signer(2048, Scheme::default(), "CN=a");
    let a = signer.certificate().to_pem();
    let b = pem("b");
    let mut place = Place::new(&[("a.pem", a.clone()), ("b.pem", b.clone())]);
    let policy = Policy::new().formats(Format::ALL);
    for format in Format::ALL {
        let wire = Sealer::new(signer.clone())
            .with_format(format)
            .seal(&1)
            .unwrap();
        let open = |place: &Place| {
            let opener = Opener::new(place.store.snapshot()).with_policy(policy.clone());
            opener.open(wire.as_bytes()).map(drop)
        };
        open(&place).unwrap();
        place.write("b.pem", "");
        place.remove("a.pem");
        place.after(5);
        let error = open(&place).unwrap_err();
        assert_eq!(
            (error.class(), error.reason()),
            (ErrorClass::Transient, "store")
        );
        assert!(error.to_string().contains("b.pem"), "{error}");
        // Known signers are not held up.
        place.write("a.pem", &a);
        place.after(5);
        open(&place).unwrap();
        // With nothing left out, a stranger is a stranger: one that was taken out, five seconds later.
        place.write("b.pem", &b);
        place.remove("a.pem");
        place.after(5);
        assert_eq!(open(&place).unwrap_err().class(), ErrorClass::Transient);
        place.after(5);
        let error = open(&place).unwrap_err();
        assert_eq!(
            (error.class(), error.reason()),
            (ErrorClass::Rejected, "unknown-signer")
        );
        place.write("a.pem", &a);
        place.after(5);
    }
}

/// A certificate that came since the last look, and a message of its signer right after it.
#[test]
fn a_signer_who_is_not_found_is_looked_for_at_most_once_a_second() {
    let mut place = Place::new(&[("a.pem", pem("a"))]);
    place.after(5);
    place.write("b.pem", pem("b"));
    let later = |millis| place.now + Duration::from_millis(millis);
    assert!(!place.store.refresh_for_unknown_at(later(500)));
    assert!(place.store.refresh_for_unknown_at(later(1_000)));
    assert!(
        !place.store.refresh_for_unknown_at(later(3_000)),
        "there is nothing new"
    );
    place.expect(4, &["a", "b"], None);

    // By the clock of the machine, as a lookup asks it.
    let store = Options::new()
        .reload_interval(GRACE)
        .open(place.path(""))
        .unwrap();
    let c = named("c");
    place.write("c.pem", c.to_pem());
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(store.lookup(c.id()), Lookup::Found(c));
    let quiet = FsCertStore::open(place.path("")).unwrap();
    place.write("d.pem", pem("d"));
    assert!(!quiet.refresh_for_unknown_at(Instant::now() + GRACE));
}

/// Reload asks for everything, whatever the clock says; without an interval nothing else does.
#[test]
fn without_an_interval_a_reload_alone_looks() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| -> PathBuf { Path::new(dir.path()).join(name) };
    fs::write(file("a.pem"), pem("a")).unwrap();
    let store = FsCertStore::open(dir.path()).unwrap();
    fs::write(file("b.pem"), pem("b")).unwrap();
    store.refresh_at(Instant::now() + Duration::from_secs(1_000_000));
    assert_eq!(store.certificates().len(), 1);
    fs::write(file("c.pem"), "no certificate").unwrap();
    let change = store.reload();
    assert_eq!((change.added.len(), change.left_out.len()), (1, 1));
    assert!(change.left_out[0].to_string().contains("c.pem"));
}
