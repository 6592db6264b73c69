//! `taskseal.CertStore`: certificates in memory or from files, read again by itself when the files change.

use std::path::PathBuf;

use pyo3::prelude::*;
use taskseal::CertStore as _;
use taskseal::store::Snapshot;
use taskseal::store::fs::{ExpiredCertificates, Options};

use crate::certificate::Certificate;
use crate::choices;
use crate::errors::{IntoPyErr as _, configuration};
use crate::logging;

/// The certificates that messages are verified with.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct CertStore(Source);

// Their locks are taken with the GIL held, for a moment, so that no fork copies one that is locked. No Python code runs
// meanwhile (as handlers of `logging` would): it may give the GIL to a thread that then waits here with it, or come here
// itself.
enum Source {
    Memory(taskseal::MemoryCertStore),
    Files(Box<taskseal::FsCertStore>),
}

#[pymethods]
impl CertStore {
    /// A store in memory, with these certificates.
    #[new]
    #[pyo3(signature = (certificates=vec![]))]
    fn new(certificates: Vec<Certificate>) -> PyResult<Self> {
        let store = Self(Source::Memory(taskseal::MemoryCertStore::new()));
        for certificate in &certificates {
            store.add(certificate)?;
        }
        Ok(store)
    }

    /// Reads a directory, a file or a pattern such as `/etc/trusted/*.pem`. One bad file refuses the whole store. Later on a
    /// bad file is left out, and keeps what it gave for `grace` seconds.
    #[staticmethod]
    #[pyo3(signature = (path, *, expired="refuse", allow_empty=false, reload_interval=Some(5.0), grace=300.0))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        expired: &str,
        allow_empty: bool,
        reload_interval: Option<f64>,
        grace: f64,
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
        let mut options = Options::new()
            .expired(expired)
            .grace(choices::seconds("grace", grace)?);
        if allow_empty {
            options = options.allow_empty();
        }
        if let Some(seconds) = reload_interval {
            options = options.reload_interval(choices::seconds("reload_interval", seconds)?);
        }
        let store = options.open(path);
        logging::flush(py);
        let store = store.map_err(|error| error.into_py_err())?;
        Ok(Self(Source::Files(Box::new(store))))
    }

    /// Adds a certificate to a store in memory. The same one may be added many times.
    fn add(&self, certificate: &Certificate) -> PyResult<()> {
        let added = self.in_memory()?.add(certificate.0.clone());
        added.map_err(|error| error.into_py_err())
    }

    /// Takes the certificate of that id out of a store in memory; whether there was one.
    fn remove(&self, id: &str) -> PyResult<bool> {
        Ok(self.in_memory()?.remove(id).is_some())
    }

    /// The certificate of that id.
    fn get(&self, py: Python<'_>, id: &str) -> Option<Certificate> {
        self.current(py).get(id).map(Certificate)
    }

    /// All certificates, ordered by id.
    fn certificates(&self, py: Python<'_>) -> Vec<Certificate> {
        let all = self.current(py).certificates();
        all.into_iter().map(Certificate).collect()
    }

    /// Why it cannot be told now whether a signer that is not in the store is unknown, or None when it can: a part of the
    /// store cannot be read.
    #[getter]
    fn unsettled(&self, py: Python<'_>) -> Option<String> {
        self.current(py).unsettled().map(str::to_owned)
    }

    /// Reads the files again, at once, and uses what is good. Raises `StoreError` for the first thing that is not.
    fn reload(&self, py: Python<'_>) -> PyResult<()> {
        let Source::Files(store) = &self.0 else {
            let text = "a store in memory has nothing to be read again";
            return Err(configuration(text));
        };
        let read = store.reload();
        logging::flush(py);
        match read.left_out.into_iter().next() {
            Some(error) => Err(error.into_py_err()),
            None => Ok(()),
        }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.current(py).len()
    }

    fn __contains__(&self, py: Python<'_>, id: &str) -> bool {
        self.current(py).get(id).is_some()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let number = self.current(py).len();
        match &self.0 {
            Source::Files(store) => format!(
                "<taskseal.CertStore {:?}, {number} certificates>",
                store.path()
            ),
            Source::Memory(_) => format!("<taskseal.CertStore in memory, {number} certificates>"),
        }
    }
}

impl CertStore {
    fn in_memory(&self) -> PyResult<&taskseal::MemoryCertStore> {
        match &self.0 {
            Source::Memory(store) => Ok(store),
            Source::Files(_) => Err(configuration(
                "this store is read from files: add a file there, or use a store in memory",
            )),
        }
    }

    /// Whether other certificates are there than at the last look: asked when a signer was not found.
    pub(crate) fn has_news(&self, py: Python<'_>) -> bool {
        let news = match &self.0 {
            Source::Memory(_) => false,
            Source::Files(store) => store.refresh_for_unknown(),
        };
        logging::flush(py);
        news
    }

    /// The certificates now. Looks at the files when that is due, and reads those that have changed.
    pub(crate) fn current(&self, py: Python<'_>) -> Snapshot {
        let current = match &self.0 {
            Source::Memory(store) => store.snapshot(),
            Source::Files(store) => store.snapshot(),
        };
        logging::flush(py);
        current
    }
}
