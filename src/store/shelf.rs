//! [`Shelf`]: the files of a store and what each of them gives, looked at again and again.
//!
//! One look serves the start and every reload. A file that is gone gives nothing from then on: that is how a signer is taken
//! out. It may also be about to be written again (`install`, `rm` and `cp`), so [`Lost`] says for how long nobody can tell.
//! A file that cannot be read, or not all of it, keeps what it gave for a time and is read at every look until it can be.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::files::{Place, Stamp, is_absent, read_error};
use super::reading::{self, Contents, Found};

#[derive(Debug)]
pub(super) struct Shelf {
    place: Place,
    grace: Duration,
    files: BTreeMap<PathBuf, Entry>,
    away: Option<Away>,
    lost: Option<Lost>,
}

type Thumbprint = [u8; 32];

/// Certificates that were there a moment ago and are not there now: taken out, or about to be written again.
#[derive(Debug)]
struct Lost {
    /// A file that one of them was in.
    file: PathBuf,
    missing: HashSet<Thumbprint>,
    /// When the first of them was missed, and when a file changed last.
    first: Instant,
    last: Instant,
    /// At the last look: whether they may still come back.
    open: bool,
}

impl Lost {
    /// After so long without a change, what is not there is not there.
    const SETTLED: Duration = Duration::from_secs(5);
    /// So long losses may follow each other. Strangers do not wait for ever where files come and go all the time.
    const LONGEST: Duration = Duration::from_secs(60);

    fn look(&mut self, now: Instant) -> bool {
        let quiet = now.saturating_duration_since(self.last) >= Self::SETTLED;
        self.open = !quiet && now.saturating_duration_since(self.first) < Self::LONGEST;
        !quiet
    }
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
    /// What it gave before the last look, and gives no more.
    lost: Vec<Thumbprint>,
}

#[derive(Debug)]
struct Kept {
    found: Vec<Found>,
    until: Instant,
}

impl Shelf {
    pub(super) fn new(path: &Path, grace: Duration) -> Self {
        Self {
            place: Place::of(path),
            grace,
            files: BTreeMap::new(),
            away: None,
            lost: None,
        }
    }

    /// Looks at the files and reads those that are new, have changed, or are in trouble; with `all` also the others. Whether
    /// it may give something else than before.
    pub(super) fn look(&mut self, now: Instant, all: bool) -> bool {
        let mut lost = Vec::new();
        let changed = match self.place.list() {
            Ok(paths) => self.look_at(paths, now, all, &mut lost),
            Err(error) => {
                let was_away = self.away.as_ref().map(|away| away.until);
                let until = match error {
                    // It is gone: nobody is trusted any more.
                    StoreError::NotFound { .. } => now,
                    _ => was_away.unwrap_or_else(|| later(now, self.grace)),
                };
                self.away = Some(Away { error, until });
                if until <= now {
                    let files = std::mem::take(&mut self.files).into_iter();
                    lost.extend(files.map(|(path, entry)| (path, entry.into_lost())));
                }
                true
            }
        };
        self.miss(lost, now) || changed
    }

    fn look_at(
        &mut self,
        paths: Vec<PathBuf>,
        now: Instant,
        all: bool,
        lost: &mut Vec<(PathBuf, Vec<Thumbprint>)>,
    ) -> bool {
        let was_away = self.away.take().is_some();
        let before = self.files.len();
        let listed: HashSet<&PathBuf> = paths.iter().collect();
        self.files.retain(|path, entry| {
            let stays = listed.contains(path);
            if !stays {
                lost.push((path.clone(), std::mem::take(entry).into_lost()));
            }
            stays
        });
        let mut changed = was_away || self.files.len() != before;
        for path in paths {
            let entry = self.files.entry(path.clone()).or_default();
            let seen = entry.look(&path, now, self.grace, all);
            changed |= !matches!(seen, Seen::Same);
            let missing = if matches!(seen, Seen::Gone) {
                let missing = std::mem::take(entry).into_lost();
                self.files.remove(&path);
                missing
            } else {
                std::mem::take(&mut entry.lost)
            };
            if !missing.is_empty() {
                lost.push((path, missing));
            }
        }
        if changed && let Some(lost) = &mut self.lost {
            // Somebody is still writing.
            lost.last = now;
        }
        changed || all
    }

    /// Takes up what was lost. Whether it is now another question whether something may come back.
    fn miss(&mut self, lost: Vec<(PathBuf, Vec<Thumbprint>)>, now: Instant) -> bool {
        if lost.is_empty() && self.lost.is_none() {
            return false;
        }
        let here: HashSet<Thumbprint> = self
            .found()
            .chain(self.kept())
            .map(|one| one.thumbprint)
            .collect();
        let was_open = self.may_return().is_some();
        for (file, mut missing) in lost {
            // What is in another file now was renamed.
            missing.retain(|one| !here.contains(one));
            if missing.is_empty() {
                continue;
            }
            let all = self.lost.get_or_insert_with(|| Lost {
                file: PathBuf::new(),
                missing: HashSet::new(),
                first: now,
                last: now,
                open: true,
            });
            all.file = file;
            all.last = now;
            all.missing.extend(missing);
        }
        let nothing = self.away.is_some() || self.files.is_empty();
        if let Some(all) = &mut self.lost {
            if nothing {
                // Nobody is unknown as long as that lasts. What comes back comes after it.
                (all.first, all.last) = (now, now);
            }
            all.missing.retain(|one| !here.contains(one));
            if all.missing.is_empty() || !all.look(now) {
                self.lost = None;
            }
        }
        self.may_return().is_some() != was_open
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

    /// A file that has lost a certificate so lately that it may come back.
    pub(super) fn may_return(&self) -> Option<&Path> {
        let lost = self.lost.as_ref().filter(|lost| lost.open);
        lost.map(|lost| lost.file.as_path())
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
        let same = self.stamp.as_ref() == Some(&stamp);
        if same && !all {
            return Seen::Same;
        }
        match reading::read(path) {
            Ok(contents) => self.take(contents, stamp, now, grace),
            Err(StoreError::Read { source, .. }) if is_absent(&source) => return Seen::Gone,
            Err(error) => self.keep(Vec::new(), vec![error], now, grace),
        }
        if same { Seen::Same } else { Seen::Changed }
    }

    /// What it gave until now.
    fn gave(&self) -> impl Iterator<Item = Thumbprint> {
        let kept = self.kept.iter().flat_map(|kept| &kept.found);
        self.found.iter().chain(kept).map(|one| one.thumbprint)
    }

    /// What is lost with it.
    fn into_lost(self) -> Vec<Thumbprint> {
        self.gave().chain(self.lost.iter().copied()).collect()
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
            let lost = self.gave().collect();
            *self = Self {
                lost,
                ..Self::default()
            };
        }
        self.keep(Vec::new(), vec![read_error(path, error)], now, grace);
        Seen::Changed
    }

    fn take(&mut self, contents: Contents, stamp: Stamp, now: Instant, grace: Duration) {
        if !contents.errors.is_empty() {
            return self.keep(contents.found, contents.errors, now, grace);
        }
        let new: HashSet<_> = contents.found.iter().map(|one| one.thumbprint).collect();
        self.lost = self.gave().filter(|old| !new.contains(old)).collect();
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
