//! `taskseal.Opener`, `Policy` and `Opened`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use taskseal::OpenError;
use taskseal::envelope::dangerous_inspect_unverified;

use crate::certificate::Certificate;
use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, configuration};
use crate::input::Input;
use crate::logging;
use crate::store::CertStore;

/// What an opener accepts. Closed by default; each argument opens it a little.
#[pyclass(frozen, module = "taskseal", from_py_object)]
#[derive(Clone, Default)]
pub(crate) struct Policy(pub(crate) taskseal::Policy);

#[pymethods]
impl Policy {
    #[new]
    #[pyo3(signature = (
        *,
        content_types=None,
        content_encodings=vec![],
        formats=None,
        digest="sha256",
        salts=None,
        max_message_len=None,
        clock_skew=60.0,
        dangerous_ignore_key_usage=false,
        dangerous_ignore_critical=vec![],
    ))]
    #[allow(clippy::too_many_arguments)] // They are keyword arguments of Python.
    fn new(
        content_types: Option<Vec<String>>,
        content_encodings: Vec<String>,
        formats: Option<Vec<String>>,
        digest: &str,
        salts: Option<Vec<String>>,
        max_message_len: Option<usize>,
        clock_skew: f64,
        dangerous_ignore_key_usage: bool,
        dangerous_ignore_critical: Vec<String>,
    ) -> PyResult<Self> {
        let mut policy = taskseal::Policy::new()
            .digest(choices::digest(digest)?)
            .clock_skew(choices::seconds("clock_skew", clock_skew)?);
        if let Some(types) = &content_types {
            policy = policy.content_types(types.iter().map(String::as_str));
        }
        for encoding in &content_encodings {
            policy = policy.accept_content_encoding(encoding);
        }
        if let Some(names) = &formats {
            let formats: Vec<_> = names
                .iter()
                .map(|name| choices::format(name))
                .collect::<PyResult<_>>()?;
            policy = policy.formats(formats);
        }
        if let Some(names) = &salts {
            let salts: Vec<_> = names
                .iter()
                .map(|name| choices::salt(name))
                .collect::<PyResult<_>>()?;
            if salts.is_empty() {
                return Err(configuration("salts=[] accepts no signature at all"));
            }
            policy = policy.salts(salts);
        }
        if let Some(bytes) = max_message_len {
            policy = policy.max_message_len(bytes);
        }
        if dangerous_ignore_key_usage {
            policy = policy.dangerous_ignore_key_usage();
        }
        let ignored = dangerous_ignore_critical.iter().map(String::as_str);
        let policy = policy.dangerous_ignore_critical(ignored);
        Ok(Self(
            policy.map_err(|error| configuration(error.to_string()))?,
        ))
    }
}

/// Opens sealed messages: nothing comes out that was not verified.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct Opener {
    store: Py<CertStore>,
    policy: taskseal::Policy,
}

#[pymethods]
impl Opener {
    #[new]
    #[pyo3(signature = (store, policy=None))]
    fn new(py: Python<'_>, store: Py<CertStore>, policy: Option<Policy>) -> PyResult<Self> {
        logging::refresh(py)?;
        let policy = policy.unwrap_or_default().0;
        Ok(Self { store, policy })
    }

    /// Opens a message that came with this outer content type. Anything but `application/data` is refused.
    #[pyo3(signature = (content_type, wire, *, at=None))]
    fn open_message(
        &self,
        py: Python<'_>,
        content_type: &str,
        wire: Input<'_>,
        at: Option<f64>,
    ) -> PyResult<Opened> {
        let (wire, at) = (wire.as_bytes()?, choices::time(at)?);
        self.run(py, |opener| opener.open_message_at(content_type, wire, at))
    }

    /// Opens a wire form that is known to have come as `application/data`.
    #[pyo3(signature = (wire, *, at=None))]
    fn open(&self, py: Python<'_>, wire: Input<'_>, at: Option<f64>) -> PyResult<Opened> {
        let (wire, at) = (wire.as_bytes()?, choices::time(at)?);
        self.run(py, |opener| opener.open_at(wire, at))
    }

    /// The store.
    #[getter]
    fn store(&self, py: Python<'_>) -> Py<CertStore> {
        self.store.clone_ref(py)
    }
}

impl Opener {
    fn run<'w>(
        &self,
        py: Python<'_>,
        open: impl Fn(&taskseal::Opener) -> Result<taskseal::Opened<'w>, OpenError> + Sync,
    ) -> PyResult<Opened> {
        let once = || {
            let opener = self.opener(py);
            detached(py, || open(&opener))
        };
        let opened = match once() {
            Err(OpenError::UnknownSigner { .. }) if self.store.get().has_news(py) => once(),
            opened => opened,
        };
        opened.map_or_else(
            |error| Err(error.into_py_err()),
            |opened| Ok(Opened::new(py, &opened)),
        )
    }

    /// The library's opener, on the certificates of this moment.
    fn opener(&self, py: Python<'_>) -> taskseal::Opener {
        let set = self.store.get().current(py);
        taskseal::Opener::new(set).with_policy(self.policy.clone())
    }
}

/// A message whose signature was verified. Its content type is on the policy's list, but not covered by the signature.
#[pyclass(frozen, get_all, module = "taskseal")]
pub(crate) struct Opened {
    /// The body, as it was signed.
    body: Py<PyBytes>,
    /// The certificate of the signer.
    signer: Certificate,
    /// The inner content type.
    content_type: String,
    /// The inner content encoding.
    content_encoding: String,
    /// The format that the message came in.
    format: &'static str,
    /// The digest of the signature.
    digest: &'static str,
    /// The salt length of the signature: `digest` or `max`.
    salt: &'static str,
}

#[pymethods]
impl Opened {
    /// Reads a JSON body.
    fn json<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.content_type != "application/json" {
            let content_type = self.content_type.clone();
            return Err(OpenError::NotJson { content_type }.into_py_err());
        }
        py.import("json")?.call_method1("loads", (&self.body,))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let len = self.body.bind(py).len()?;
        Ok(format!(
            "<taskseal.Opened {} bytes of {:?}, signed by {:?}>",
            len,
            self.content_type,
            self.signer.0.id()
        ))
    }
}

impl Opened {
    fn new(py: Python<'_>, opened: &taskseal::Opened<'_>) -> Self {
        Self {
            body: PyBytes::new(py, opened.body()).unbind(),
            signer: Certificate(opened.signer().clone()),
            content_type: opened.content_type().to_owned(),
            content_encoding: opened.content_encoding().to_owned(),
            format: opened.format().as_str(),
            digest: opened.scheme().digest.as_str(),
            salt: opened.scheme().salt.as_str(),
        }
    }
}

/// The parts of a wire form, **without verifying anything**: for looking at a message, never for using it.
#[pyfunction]
pub(crate) fn inspect_unverified<'py>(
    py: Python<'py>,
    wire: Input<'_>,
) -> PyResult<Bound<'py, PyDict>> {
    let wire = wire.as_bytes()?;
    let parts = dangerous_inspect_unverified(wire, None)
        .map_err(|error| OpenError::from(error).into_py_err())?;
    let dict = PyDict::new(py);
    dict.set_item("format", parts.format().as_str())?;
    dict.set_item("signer", parts.signer_id())?;
    dict.set_item("signature", PyBytes::new(py, parts.signature()))?;
    dict.set_item("content_type", parts.content_type())?;
    dict.set_item("content_encoding", parts.content_encoding())?;
    dict.set_item("body", PyBytes::new(py, parts.body()))?;
    Ok(dict)
}
