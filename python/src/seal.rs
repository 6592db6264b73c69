//! `taskseal.Sealer`.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use taskseal::envelope::Format;

use crate::choices;
use crate::detach::detached;
use crate::errors::{IntoPyErr as _, python};
use crate::input::{Input, utf8};
use crate::logging;
use crate::signer::Signer;

/// Seals messages with one signer, in one format, with one inner content type.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct Sealer {
    signer: Py<Signer>,
    format: Format,
    content_type: String,
    content_encoding: String,
}

#[pymethods]
impl Sealer {
    #[new]
    #[pyo3(signature = (signer, *, format="celery", content_type="application/json", content_encoding="utf-8"))]
    fn new(
        py: Python<'_>,
        signer: Py<Signer>,
        format: &str,
        content_type: &str,
        content_encoding: &str,
    ) -> PyResult<Self> {
        logging::refresh(py)?;
        let format = choices::format(format)?;
        let (content_type, content_encoding) =
            (content_type.to_owned(), content_encoding.to_owned());
        Ok(Self {
            signer,
            format,
            content_type,
            content_encoding,
        })
    }

    /// Serializes `value` as JSON and seals it: `str`, or `bytes` for the format `celery-raw`.
    fn seal<'py>(&self, py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if self.content_type != "application/json" {
            let content_type = self.content_type.clone();
            return Err(taskseal::SealError::NotJson { content_type }.into_py_err());
        }
        let options = PyDict::new(py);
        options.set_item("separators", (",", ":"))?;
        // NaN and Infinity are no JSON; other readers stumble over them.
        options.set_item("allow_nan", false)?;
        let body = py
            .import("json")?
            .call_method("dumps", (value,), Some(&options));
        let body = body.map_err(|error| {
            let raised = python::SealError::new_err(("the value has no JSON form", "permanent"));
            raised.set_cause(py, Some(error));
            raised
        })?;
        self.seal_as(py, utf8(body.cast::<PyString>()?)?.as_bytes(), None)
    }

    /// Seals a body that is serialized already.
    #[pyo3(signature = (body, *, content_type=None, content_encoding=None))]
    fn seal_bytes<'py>(
        &self,
        py: Python<'py>,
        body: Input<'_>,
        content_type: Option<&str>,
        content_encoding: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let content = (
            content_type.unwrap_or(&self.content_type),
            content_encoding.unwrap_or(&self.content_encoding),
        );
        self.seal_as(py, body.as_bytes()?, Some(content))
    }

    /// The signer.
    #[getter]
    fn signer(&self, py: Python<'_>) -> Py<Signer> {
        self.signer.clone_ref(py)
    }
}

impl Sealer {
    fn seal_as<'py>(
        &self,
        py: Python<'py>,
        body: &[u8],
        content: Option<(&str, &str)>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let signer = self.signer.get().open_now(py)?;
        let (content_type, content_encoding) =
            content.unwrap_or((&self.content_type, &self.content_encoding));
        let sealed = detached(py, || {
            taskseal::Sealer::new(signer)
                .with_format(self.format)
                .with_content(content_type, content_encoding)
                .seal_bytes(body)
        });
        let sealed = sealed.map_err(|error| error.into_py_err())?;
        Ok(match sealed.as_str() {
            Some(text) => PyString::new(py, text).into_any(),
            None => PyBytes::new(py, sealed.as_bytes()).into_any(),
        })
    }
}
