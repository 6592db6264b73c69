//! `taskseal.CertStore`: certificates in memory or from files, read again by itself when the files change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use taskseal::store::StoreError;
use taskseal::store::fs::{ExpiredCertificates, Options, Stamp, survey};

use crate::certificate::Certificate;
use crate::choices;
use crate::errors::{IntoPyErr as _, configuration};
use crate::logging;

/// The certificates that messages are verified with.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct CertStore {
    // Locked with the GIL held, for a moment, so that no fork copies it locked.
    state: Mutex<State>,
}

struct State {
    set: Arc<Set>,
    files: Option<Files>,
}

/// Where a store is read from, and when that was looked at.
struct Files {
    path: PathBuf,
    options: Options,
    interval: Option<Duration>,
    looked: Instant,
    stamp: Option<Stamp>,
}

/// The certificates at one moment: never changed, so that whoever verifies needs no lock.
#[derive(Debug, Default)]
pub(crate) struct Set(HashMap<Box<str>, taskseal::Certificate>);

impl taskseal::CertStore for Set {
    fn get(&self, id: &str) -> Option<taskseal::Certificate> {
        self.0.get(id).cloned()
    }

    fn certificates(&self) -> Vec<taskseal::Certificate> {
        let mut all: Vec<_> = self.0.values().cloned().collect();
        all.sort_by(|a, b| a.id().cmp(b.id()));
        all
    }
}

impl Set {
    fn new(certificates: Vec<taskseal::Certificate>) -> Self {
        Self(
            certificates
                .into_iter()
                .map(|one| (one.id().into(), one))
                .collect(),
        )
    }
}

#[pymethods]
impl CertStore {
    /// A store in memory, with these certificates.
    #[new]
    #[pyo3(signature = (certificates=vec![]))]
    fn new(certificates: Vec<Certificate>) -> PyResult<Self> {
        let store = Self::with(Set::default(), None);
        for certificate in &certificates {
            store.add(certificate)?;
        }
        Ok(store)
    }

    /// Reads a directory, a file or a pattern such as `/etc/trusted/*.pem`. One bad file refuses the whole store.
    #[staticmethod]
    #[pyo3(signature = (path, *, expired="refuse", allow_empty=false, reload_interval=Some(5.0)))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        expired: &str,
        allow_empty: bool,
        reload_interval: Option<f64>,
    ) -> PyResult<Self> {
        let expired = match expired {
            "refuse" => ExpiredCertificates::Refuse,
            "skip" => ExpiredCertificates::Skip,
            "keep" => ExpiredCertificates::Keep,
            other => {
                let text = format!("expired={other:?} is not known; use refuse, skip or keep");
                return Err(configuration(text));
            }
        };
        let mut options = Options::new().expired(expired);
        if allow_empty {
            options = options.allow_empty();
        }
        let interval = match reload_interval {
            Some(value) => Some(choices::seconds("reload_interval", value)?),
            None => None,
        };
        // The stamp first: what changes while the files are read is seen at the next look.
        let stamp = Stamp::of(&path).ok();
        let read = options.open(&path);
        logging::flush(py);
        let set = Set::new(taskseal::CertStore::certificates(
            &read.map_err(|error| error.into_py_err())?,
        ));
        let looked = Instant::now();
        let files = Files {
            path,
            options,
            interval,
            looked,
            stamp,
        };
        Ok(Self::with(set, Some(files)))
    }

    /// Adds a certificate to a store in memory.
    fn add(&self, certificate: &Certificate) -> PyResult<()> {
        let mut state = self.in_memory()?;
        let memory = taskseal::MemoryCertStore::new();
        let wanted = &certificate.0;
        // The library's own store words the error for two certificates of one id.
        let held = state.set.0.get(wanted.id()).cloned();
        for one in held.into_iter().chain([wanted.clone()]) {
            memory.add(one).map_err(|error| error.into_py_err())?;
        }
        let mut all = state.set.0.clone();
        all.insert(wanted.id().into(), wanted.clone());
        state.set = Arc::new(Set(all));
        Ok(())
    }

    /// Takes the certificate of that id out of a store in memory; whether there was one.
    fn remove(&self, id: &str) -> PyResult<bool> {
        let mut state = self.in_memory()?;
        let mut all = state.set.0.clone();
        let removed = all.remove(id).is_some();
        state.set = Arc::new(Set(all));
        Ok(removed)
    }

    /// The certificate of that id.
    fn get(&self, py: Python<'_>, id: &str) -> Option<Certificate> {
        self.current(py).0.get(id).cloned().map(Certificate)
    }

    /// All certificates, ordered by id.
    fn certificates(&self, py: Python<'_>) -> Vec<Certificate> {
        let all = taskseal::CertStore::certificates(&*self.current(py));
        all.into_iter().map(Certificate).collect()
    }

    /// Reads the files again, at once. When anything is wrong, the old set stays.
    fn reload(&self, py: Python<'_>) -> PyResult<()> {
        let read = self.read_again();
        logging::flush(py);
        read
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.current(py).0.len()
    }

    fn __contains__(&self, py: Python<'_>, id: &str) -> bool {
        self.current(py).0.contains_key(id)
    }

    fn __repr__(&self) -> String {
        let state = self.lock();
        let number = state.set.0.len();
        match &state.files {
            Some(files) => format!(
                "<taskseal.CertStore {:?}, {number} certificates>",
                files.path
            ),
            None => format!("<taskseal.CertStore in memory, {number} certificates>"),
        }
    }
}

impl CertStore {
    fn with(set: Set, files: Option<Files>) -> Self {
        let set = Arc::new(set);
        Self {
            state: Mutex::new(State { set, files }),
        }
    }

    fn read_again(&self) -> PyResult<()> {
        let mut state = self.lock();
        let Some(files) = &mut state.files else {
            return Err(configuration(
                "a store in memory has nothing to be read again",
            ));
        };
        let stamp = Stamp::of(&files.path).ok();
        let read = files.options.open(&files.path);
        let read = read.map_err(|error| error.into_py_err())?;
        files.looked = Instant::now();
        files.stamp = stamp;
        state.set = Arc::new(Set::new(taskseal::CertStore::certificates(&read)));
        Ok(())
    }

    /// No Python code may run before the lock is given back (as handlers of `logging` would): it may give the GIL to a
    /// thread that then waits here with it, or come here itself.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_memory(&self) -> PyResult<MutexGuard<'_, State>> {
        let state = self.lock();
        if state.files.is_some() {
            return Err(configuration(
                "this store is read from files: add a file there, or use a store in memory",
            ));
        }
        Ok(state)
    }

    /// The certificates now. Looks at the files when that is due, and reads them when they have changed.
    pub(crate) fn current(&self, py: Python<'_>) -> Arc<Set> {
        let mut state = self.lock();
        if let Some(set) = state.files.as_mut().and_then(Files::changed) {
            state.set = Arc::new(set);
        }
        let set = Arc::clone(&state.set);
        drop(state);
        logging::flush(py);
        set
    }
}

impl Files {
    /// The new set, when the files are other ones than last time.
    ///
    /// A worker that runs must not stop for one bad file, and a certificate that was taken away must be gone. So what is
    /// good is taken, and what is not is left out and said. Expired certificates stay in: an opener refuses them.
    fn changed(&mut self) -> Option<Set> {
        if self.looked.elapsed() < self.interval? {
            return None;
        }
        self.looked = Instant::now();
        let stamp = match Stamp::of(&self.path) {
            Ok(stamp) => Some(stamp),
            // Gone: nobody is trusted any more.
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => {
                tracing::error!(store = %self.path.display(), %error, "the certificate store cannot be read; the old set stays");
                return None;
            }
        };
        if stamp == self.stamp {
            return None;
        }
        let set = self.survey();
        tracing::info!(store = %self.path.display(), certificates = set.0.len(), "certificate store read again");
        self.stamp = stamp;
        Some(set)
    }

    fn survey(&mut self) -> Set {
        let mut set = HashMap::new();
        let mut twice = Vec::new();
        let found = survey(&self.path).unwrap_or_else(|error| {
            tracing::error!(store = %self.path.display(), %error, "the certificate store is gone: nobody is trusted");
            Vec::new()
        });
        for one in found {
            match one.result {
                Ok(certificate) => {
                    let id: Box<str> = certificate.id().into();
                    if set.insert(id.clone(), certificate).is_some() {
                        twice.push(id);
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a file of the certificate store is left out")
                }
            }
        }
        for id in twice {
            tracing::error!(certificate = %id, "two certificates have this id: both are left out");
            set.remove(&id);
        }
        Set(set)
    }
}
