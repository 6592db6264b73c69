//! [`FsCertStore`]: certificates from a directory, a file or a glob pattern.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

pub use super::assembly::ExpiredCertificates;
use super::assembly::{self, Assembly, Expiry};
use super::error::StoreError;
use super::files::Place;
use super::lookup::{CertStore, Lookup};
use super::reading;
use super::role::{Issued, Role};
use super::set::Snapshot;
use super::shelf::Shelf;
use crate::certificate::Certificate;

/// How often unknown signers make a store look for changes before that is due. Anyone may send messages of unknown signers.
const STRANGERS: Duration = Duration::from_secs(1);

/// How many things that are wrong with a store one look puts into the log.
const MAX_LINES: usize = 20;

/// A [`CertStore`] read from the file system, as Celery's `security_cert_store`.
///
/// * A **directory**: every file in it but hidden ones. Sub-directories are not entered.
/// * A **file**: PEM with one or more certificates, or one certificate in DER.
/// * A **pattern** such as `/etc/taskseal/trusted/*.pem`. A path that is there when the store is opened is not a pattern,
///   also after it is gone.
///
/// Of a file with a leaf and its chain the leaf alone is a signer: see [`Role`].
///
/// At the start everything has to be good. After it, [`reload`](Self::reload) and, with an
/// [interval](Options::reload_interval), every lookup read again what has changed, by the same rules; then what is bad is
/// left out and said in the log. A file that is gone, or that was replaced by another good one, gives what it gives now. One
/// that cannot be read, or not all of it, keeps what it gave for the [grace](Options::grace), and is looked at again each
/// time. While anything is left out, a signer that is not found is [unsettled](Lookup::Unsettled). It is so too for five
/// seconds after a certificate is gone: programs write a file again by removing it first.
#[derive(Debug)]
pub struct FsCertStore {
    path: PathBuf,
    options: Options,
    /// One look at a time, so that an older reading never replaces a newer one.
    shelf: Mutex<Watched>,
    current: RwLock<Snapshot>,
}

#[derive(Debug)]
struct Watched {
    shelf: Shelf,
    looked: Instant,
    /// What was wrong at the last look, as text.
    said: BTreeSet<String>,
}

/// How an [`FsCertStore`] is read.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    expired: ExpiredCertificates,
    allow_empty: bool,
    reload_interval: Option<Duration>,
    grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            expired: ExpiredCertificates::default(),
            allow_empty: false,
            reload_interval: None,
            grace: Self::GRACE,
        }
    }
}

impl Options {
    /// How long a file that cannot be read keeps what it gave, unless [`grace`](Self::grace) says otherwise: five minutes.
    pub const GRACE: Duration = Duration::from_secs(300);

    /// The defaults: expired certificates are refused, an empty store too; it is read again by [`FsCertStore::reload`]
    /// alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to do with expired certificates.
    #[must_use]
    pub const fn expired(mut self, expired: ExpiredCertificates) -> Self {
        self.expired = expired;
        self
    }

    /// Takes a directory or pattern without any file. Until there is one, every signer is [unsettled](Lookup::Unsettled).
    #[must_use]
    pub const fn allow_empty(mut self) -> Self {
        self.allow_empty = true;
        self
    }

    /// Looks for changes when a certificate is looked up, at most that often.
    #[must_use]
    pub const fn reload_interval(mut self, interval: Duration) -> Self {
        self.reload_interval = Some(interval);
        self
    }

    /// How long a file that cannot be read keeps what it gave.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Reads the store.
    ///
    /// # Errors
    /// [`StoreError`], which names the file. One bad file refuses the whole store.
    pub fn open(self, path: impl AsRef<Path>) -> Result<FsCertStore, StoreError> {
        self.open_at(path, SystemTime::now())
    }

    /// Like [`open`](Self::open), as if it were `at`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_at(
        self,
        path: impl AsRef<Path>,
        at: SystemTime,
    ) -> Result<FsCertStore, StoreError> {
        let path = path.as_ref();
        let now = Instant::now();
        let mut shelf = Shelf::new(path, self.grace);
        shelf.look(now, true);
        let expiry = Expiry {
            expired: self.expired,
            at,
        };
        let (snapshot, problems, chain) = assemble(path, &shelf, expiry);
        let empty =
            |error: &StoreError| self.allow_empty && matches!(error, StoreError::Empty { .. });
        if let Some(error) = problems.into_iter().find(|error| !empty(error)) {
            return Err(error);
        }
        tracing::info!(store = %path.display(), signers = snapshot.len(), chain, "certificate store read");
        Ok(FsCertStore {
            path: path.to_owned(),
            options: self,
            shelf: Mutex::new(Watched {
                shelf,
                looked: now,
                said: BTreeSet::new(),
            }),
            current: RwLock::new(snapshot),
        })
    }
}

/// What a reload changed. A certificate that was replaced under the same id is in both lists.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Reload {
    /// Certificates that are new, ordered by id.
    pub added: Vec<Certificate>,
    /// Certificates that are gone, ordered by id.
    pub removed: Vec<Certificate>,
    /// What is wrong with the store. What a file gave before that cannot be read now is neither added nor removed while the
    /// grace lasts.
    pub left_out: Vec<StoreError>,
}

impl FsCertStore {
    /// Reads a directory, a file or a pattern; expired certificates and an empty store are errors.
    ///
    /// # Errors
    /// [`StoreError`], which names the file. One bad file refuses the whole store.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Options::new().open(path)
    }

    /// The directory, file or pattern that it is read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads everything again and swaps the set at once; whoever opens a message meanwhile uses the old set or the new
    /// one, never a part of either.
    pub fn reload(&self) -> Reload {
        self.reload_at(Instant::now())
    }

    /// Like [`reload`](Self::reload), as if it were `now` by the clock that intervals and the grace are measured with.
    pub fn reload_at(&self, now: Instant) -> Reload {
        let mut watched = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        watched.looked = now;
        watched.shelf.look(now, true);
        self.swap(&mut watched, true)
    }

    /// Looks for changes, if that is due.
    pub fn refresh(&self) {
        self.refresh_at(Instant::now());
    }

    /// Like [`refresh`](Self::refresh), as if it were `now`.
    pub fn refresh_at(&self, now: Instant) {
        if let Some(interval) = self.options.reload_interval {
            self.look_after(interval, now);
        }
    }

    /// Looks for changes because a signer was not found, before it is due: its certificate may have come since the last look.
    /// At most once a second, and not without an [interval](Options::reload_interval). Whether there was a change.
    pub fn refresh_for_unknown(&self) -> bool {
        self.refresh_for_unknown_at(Instant::now())
    }

    /// Like [`refresh_for_unknown`](Self::refresh_for_unknown), as if it were `now`.
    pub fn refresh_for_unknown_at(&self, now: Instant) -> bool {
        let interval = self.options.reload_interval;
        interval.is_some_and(|interval| self.look_after(interval.min(STRANGERS), now))
    }

    /// Looks, if the last look was so long ago. Whether there was a change.
    fn look_after(&self, pause: Duration, now: Instant) -> bool {
        // Somebody else is looking: what was there before is good enough.
        let Ok(mut watched) = self.shelf.try_lock() else {
            return false;
        };
        if now.saturating_duration_since(watched.looked) < pause {
            return false;
        }
        watched.looked = now;
        let changed = watched.shelf.look(now, false);
        if changed {
            let _ = self.swap(&mut watched, false);
        }
        changed
    }

    /// The certificates at this moment, after a look if that is due.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.refresh();
        self.current()
    }

    fn current(&self) -> Snapshot {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    /// Puts what the files give now in the place of what they gave.
    fn swap(&self, watched: &mut Watched, asked: bool) -> Reload {
        let expiry = Expiry {
            expired: match self.options.expired {
                ExpiredCertificates::Skip => ExpiredCertificates::Skip,
                // A program that runs must not lose a certificate to its clock.
                ExpiredCertificates::Refuse | ExpiredCertificates::Keep => {
                    ExpiredCertificates::Keep
                }
            },
            at: SystemTime::now(),
        };
        let (new, left_out, chain) = assemble(&self.path, &watched.shelf, expiry);
        watched.say(&self.path, &left_out);
        let old = self.current();
        let change = Reload {
            added: new.missing_from(&old),
            removed: old.missing_from(&new),
            left_out,
        };
        if asked || !change.added.is_empty() || !change.removed.is_empty() {
            tracing::info!(
                store = %self.path.display(),
                signers = new.len(),
                chain,
                added = change.added.len(),
                removed = change.removed.len(),
                "certificate store read again"
            );
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        change
    }
}

impl Watched {
    /// Logs what was not wrong at the last look.
    fn say(&mut self, store: &Path, problems: &[StoreError]) {
        let now: BTreeSet<String> = problems.iter().map(StoreError::to_string).collect();
        let new: Vec<&String> = now.difference(&self.said).collect();
        for problem in new.iter().take(MAX_LINES) {
            tracing::error!(store = %store.display(), error = problem, "left out of the certificate store");
        }
        if let Some(more) = new.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            tracing::error!(store = %store.display(), more, "more is left out of the certificate store");
        }
        if now.is_empty() && !self.said.is_empty() {
            tracing::info!(store = %store.display(), "the certificate store is whole");
        }
        self.said = now;
    }
}

impl CertStore for FsCertStore {
    fn lookup(&self, id: &str) -> Lookup {
        match self.snapshot().lookup(id) {
            Lookup::Unknown if self.refresh_for_unknown() => self.current().lookup(id),
            answer => answer,
        }
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.snapshot().certificates()
    }
}

/// What the files make together, what is wrong with them, and how many certificates are part of a chain.
fn assemble(path: &Path, shelf: &Shelf, expiry: Expiry) -> (Snapshot, Vec<StoreError>, usize) {
    let Assembly {
        set,
        problems,
        chain,
    } = Assembly::new(shelf.found(), shelf.kept(), shelf.past(), expiry);
    let mut wrong: Vec<StoreError> = shelf.errors().cloned().chain(problems).collect();
    if wrong.is_empty() && shelf.is_empty() {
        wrong.push(StoreError::Empty {
            path: path.to_owned(),
        });
    } else if wrong.is_empty() && set.len() == 0 && chain > 0 {
        wrong.push(StoreError::NoSigner {
            path: path.to_owned(),
        });
    }
    let unsettled = match (wrong.split_first(), shelf.may_return()) {
        (Some((first, [])), _) => Some(first.to_string()),
        (Some((first, more)), _) => Some(format!("{first}, and {} more", more.len())),
        (None, Some(file)) => Some(format!(
            "{} has just been changed or removed",
            file.display()
        )),
        (None, None) => None,
    };
    let snapshot = Snapshot::new(set, unsettled.map(Arc::from));
    (snapshot, wrong, chain)
}

/// Reads what is in a directory, a file or a pattern and refuses nothing, for looking at a store: one [`Surveyed`] per
/// certificate, and one per thing that is none. Expired certificates and several of one id are in it. An
/// [`FsCertStore`] of the same path may refuse to load.
///
/// # Errors
/// [`StoreError`] when there is nothing to look at: the path or pattern is bad, or a directory cannot be read.
pub fn survey(path: impl AsRef<Path>) -> Result<Vec<Surveyed>, StoreError> {
    let files: Vec<_> = Place::of(path.as_ref())
        .list()?
        .into_iter()
        .map(|path| (reading::read(&path), path))
        .collect();
    let links = files
        .iter()
        .flat_map(|(read, _)| read.iter().flat_map(|contents| &contents.found));
    let issued = Issued::new(links.map(|found| &found.link));
    let mut all = Vec::new();
    for (read, path) in &files {
        let surveyed = |role, result| Surveyed {
            path: path.clone(),
            role,
            authority: false,
            subject: None,
            result,
        };
        match read {
            Ok(contents) => {
                all.extend(contents.found.iter().map(|found| {
                    let role = assembly::role(found, &issued);
                    Surveyed {
                        authority: found.link.is_authority,
                        subject: match &found.certificate {
                            Ok(certificate) => Some(certificate.subject().to_owned()),
                            Err(_) => found.subject.as_deref().map(str::to_owned),
                        },
                        ..surveyed(Some(role), found.certificate.clone())
                    }
                }));
                let errors = contents.errors.iter().cloned();
                all.extend(errors.map(|error| surveyed(None, Err(error))));
            }
            Err(error) => all.push(surveyed(None, Err(error.clone()))),
        }
    }
    Ok(all)
}

/// One thing that [`survey`] came upon.
#[derive(Debug)]
pub struct Surveyed {
    /// The file.
    pub path: PathBuf,
    /// What it counts as; `None` for what is no certificate.
    pub role: Option<Role>,
    /// Whether it is an authority's: `CA:TRUE`, and a key usage with `keyCertSign` or none at all. Alone in its file it is a
    /// signer, as certificates that sign themselves are often made so.
    pub authority: bool,
    /// Its subject (RFC 4514 text), also of a certificate that cannot be used, if it can be read.
    pub subject: Option<String>,
    /// The certificate, or why it cannot be used. That does not matter for one that is part of a chain.
    pub result: Result<Certificate, StoreError>,
}
