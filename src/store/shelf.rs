//! [`Shelf`]: the files of a store and what each of them gives, looked at again and again.
//!
//! One look serves the start and every reload. A file that is gone gives nothing from then on: that is how a signer is taken
//! out. A file that cannot be read, or not all of it, keeps what it gave for a time and is read at every look until it can be.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;
use super::files::{self, Stamp, is_absent, read_error};
use super::reading::{self, Contents, Found};

#[derive(Debug)]
pub(super) struct Shelf {
    path: PathBuf,
    grace: Duration,
    files: BTreeMap<PathBuf, Entry>,
    away: Option<Away>,
}

/// Which files there are is not known.
#[derive(Debug)]
struct Away {
    error: StoreError,
    /// Until then they give what they gave.
    until: Instant,
}

#[derive(Debug, Default)]
struct Entry {
    /// As it was when it was last read and all of it was good.
    stamp: Option<Stamp>,
    found: Vec<Found>,
    /// What it gave before it was in trouble, without what it gives now.
    kept: Option<Kept>,
    /// What it gave so long ago that it counts no more, while it is in trouble.
    past: Vec<Found>,
    /// What is wrong with it now.
    errors: Vec<StoreError>,
    /// It lost a certificate when it was last read: whoever writes it may not be done.
    shrunk: bool,
}

#[derive(Debug)]
struct Kept {
    found: Vec<Found>,
    until: Instant,
}

impl Shelf {
    pub(super) fn new(path: &Path, grace: Duration) -> Self {
        Self {
            path: path.to_owned(),
            grace,
            files: BTreeMap::new(),
            away: None,
        }
    }

    /// Looks at the files and reads those that are new, have changed, or are in trouble; with `all` also the others. Whether
    /// it may give something else than before.
    pub(super) fn look(&mut self, now: Instant, all: bool) -> bool {
        match files::list(&self.path) {
            Ok(paths) => {
                let was_away = self.away.take().is_some();
                let before = self.files.len();
                let listed: HashSet<&PathBuf> = paths.iter().collect();
                self.files.retain(|path, _| listed.contains(path));
                let mut changed = was_away || all || self.files.len() != before;
                for path in paths {
                    let entry = self.files.entry(path.clone()).or_default();
                    match entry.look(&path, now, self.grace, all) {
                        Seen::Same => {}
                        Seen::Changed => changed = true,
                        Seen::Gone => {
                            self.files.remove(&path);
                            changed = true;
                        }
                    }
                }
                changed
            }
            Err(error) => {
                let was_away = self.away.as_ref().map(|away| away.until);
                let until = match error {
                    // It is gone: nobody is trusted any more.
                    StoreError::NotFound { .. } => now,
                    _ => was_away.unwrap_or_else(|| later(now, self.grace)),
                };
                self.away = Some(Away { error, until });
                if until <= now {
                    self.files.clear();
                }
                true
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// What the files give now.
    pub(super) fn found(&self) -> impl Iterator<Item = &Found> + Clone {
        self.files.values().flat_map(|entry| &entry.found)
    }

    /// What files in trouble gave before, and do not give now.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Found> + Clone {
        let kept = self.files.values().flat_map(|entry| &entry.kept);
        kept.flat_map(|kept| &kept.found)
    }

    /// What files in trouble gave when their grace ended. An authority that issued one of these is no signer for that.
    pub(super) fn past(&self) -> impl Iterator<Item = &Found> + Clone {
        self.files.values().flat_map(|entry| &entry.past)
    }

    /// What cannot be read now.
    pub(super) fn errors(&self) -> impl Iterator<Item = &StoreError> {
        let away = self.away.iter().map(|away| &away.error);
        away.chain(self.files.values().flat_map(|entry| &entry.errors))
    }

    /// A file that has lost a certificate, and has not been seen unchanged since.
    pub(super) fn shrunk(&self) -> Option<&Path> {
        let shrunk = self.files.iter().find(|(_, entry)| entry.shrunk);
        shrunk.map(|(path, _)| path.as_path())
    }
}

/// What a look at one file saw.
enum Seen {
    Same,
    Changed,
    Gone,
}

impl Entry {
    fn look(&mut self, path: &Path, now: Instant, grace: Duration, all: bool) -> Seen {
        if let Some(kept) = self.kept.take_if(|kept| kept.until <= now) {
            self.past.extend(kept.found);
        }
        // Before it is read: what changes meanwhile is seen at the next look.
        let stamp = match Stamp::of(path) {
            Ok(stamp) => stamp,
            Err(error) => return self.is_in_trouble(path, error, now, grace),
        };
        if self.stamp.as_ref() == Some(&stamp) {
            let was_shrunk = std::mem::take(&mut self.shrunk);
            match (all, was_shrunk) {
                (false, true) => return Seen::Changed,
                (false, false) => return Seen::Same,
                (true, _) => {}
            }
        }
        match reading::read(path) {
            Ok(contents) => self.take(contents, stamp, now, grace),
            Err(StoreError::Read { source, .. }) if is_absent(&source) => return Seen::Gone,
            Err(error) => self.keep(Vec::new(), vec![error], now, grace),
        }
        Seen::Changed
    }

    /// The file is listed and cannot be looked at.
    fn is_in_trouble(
        &mut self,
        path: &Path,
        error: std::io::Error,
        now: Instant,
        grace: Duration,
    ) -> Seen {
        if is_absent(&error) {
            if std::fs::symlink_metadata(path).is_err() {
                return Seen::Gone;
            }
            // A link that points nowhere. What it pointed to is gone, as a file that was deleted.
            *self = Self::default();
        }
        self.keep(Vec::new(), vec![read_error(path, error)], now, grace);
        Seen::Changed
    }

    fn take(&mut self, contents: Contents, stamp: Stamp, now: Instant, grace: Duration) {
        if !contents.errors.is_empty() {
            return self.keep(contents.found, contents.errors, now, grace);
        }
        let new: HashSet<_> = contents.found.iter().map(|one| one.thumbprint).collect();
        let kept = self.kept.iter().flat_map(|kept| &kept.found);
        let mut old = self.found.iter().chain(kept);
        self.shrunk |= old.any(|old| !new.contains(&old.thumbprint));
        self.found = contents.found;
        self.kept = None;
        self.past = Vec::new();
        self.errors = Vec::new();
        self.stamp = Some(stamp);
    }

    /// Takes what is good, and keeps what was good before.
    fn keep(&mut self, found: Vec<Found>, errors: Vec<StoreError>, now: Instant, grace: Duration) {
        let new: HashSet<_> = found.iter().map(|one| one.thumbprint).collect();
        let mut kept = self.kept.take().unwrap_or_else(|| Kept {
            found: Vec::new(),
            until: later(now, grace),
        });
        kept.found.append(&mut self.found);
        kept.found.retain(|old| !new.contains(&old.thumbprint));
        self.past.retain(|old| !new.contains(&old.thumbprint));
        if kept.until > now {
            self.kept = (!kept.found.is_empty()).then_some(kept);
        } else {
            self.past.extend(kept.found);
        }
        self.found = found;
        self.errors = errors;
        self.stamp = None;
    }
}

fn later(now: Instant, by: Duration) -> Instant {
    // A time that the clock cannot say is far enough away.
    let far = Duration::from_secs(100 * 365 * 24 * 3600);
    now.checked_add(by)
        .or_else(|| now.checked_add(far))
        .unwrap_or(now)
}
