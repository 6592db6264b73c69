//! `taskseal.MessageSealer` and `MessageOpener`: whole messages, and payloads that are bound to a purpose.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use taskseal::OpenError;
use taskseal::message::{Destination, Evidence, MessageError, MessageSealError, OpenedMessage};
use taskseal::store::Snapshot;

use crate::certificate::Certificate;
use crate::choices;
use crate::detach::{detached, detached_quietly};
use crate::errors::IntoPyErr as _;
use crate::fernet::{Fernet, open_all};
use crate::input::Input;
use crate::logging;
use crate::open::Policy;
use crate::signer::Signer;
use crate::store::CertStore;

/// Seals whole messages: signs them and, with keys, encrypts them.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct MessageSealer {
    signer: Py<Signer>,
    fernets: Vec<Py<Fernet>>,
    domain: String,
    // Made by the first message, as signer and keys may be on a token. Locked with the GIL held, for a moment, so that no fork
    // copies it locked.
    made: Mutex<Option<Arc<taskseal::MessageSealer>>>,
}

#[pymethods]
impl MessageSealer {
    /// What is sealed for a domain opens in it alone; the empty text is none.
    #[new]
    #[pyo3(signature = (signer, fernets=vec![], *, domain=String::new()))]
    fn new(
        py: Python<'_>,
        signer: Py<Signer>,
        fernets: Vec<Py<Fernet>>,
        domain: String,
    ) -> PyResult<Self> {
        logging::refresh(py)?;
        Ok(Self {
            signer,
            fernets,
            domain,
            made: Mutex::default(),
        })
    }

    /// Seals a message of kombu's in JSON for a destination. Returns ASCII text.
    #[pyo3(signature = (message, *, exchange=None, routing_key=None, queue=None))]
    fn seal(
        &self,
        py: Python<'_>,
        message: Input<'_>,
        exchange: Option<&str>,
        routing_key: Option<&str>,
        queue: Option<&str>,
    ) -> PyResult<String> {
        let message = message.as_bytes()?;
        let mut to = Destination::any();
        if let Some(exchange) = exchange {
            to = to.with_exchange(exchange);
        }
        if let Some(routing_key) = routing_key {
            to = to.with_routing_key(routing_key);
        }
        if let Some(queue) = queue {
            to = to.with_queue(queue);
        }
        self.run(py, |sealer| sealer.seal_json(message, &to))
    }

    /// Seals bytes for a purpose, such as `result`, and a context, such as a task's id. Returns ASCII text.
    fn seal_payload(
        &self,
        py: Python<'_>,
        purpose: &str,
        context: &str,
        payload: Input<'_>,
    ) -> PyResult<String> {
        let payload = payload.as_bytes()?;
        self.run(py, |sealer| sealer.seal_payload(purpose, context, payload))
    }
}

impl MessageSealer {
    fn run(
        &self,
        py: Python<'_>,
        seal: impl FnOnce(&taskseal::MessageSealer) -> Result<String, MessageSealError> + Send,
    ) -> PyResult<String> {
        let sealer = self.sealer(py)?;
        detached(py, || seal(&sealer)).map_err(|error| error.into_py_err())
    }

    /// The library's sealer, made once.
    fn sealer(&self, py: Python<'_>) -> PyResult<Arc<taskseal::MessageSealer>> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sealer) = &*made() {
            return Ok(Arc::clone(sealer));
        }
        let signer = self.signer.get().open_now(py)?;
        let sealer = match open_all(py, &self.fernets)? {
            Some(fernets) => taskseal::MessageSealer::signed_and_encrypted(signer, fernets),
            None => taskseal::MessageSealer::signed(signer),
        };
        let sealer = Arc::new(sealer.with_domain(&self.domain));
        *made() = Some(Arc::clone(&sealer));
        Ok(sealer)
    }
}

/// Opens what a `MessageSealer` with the same keys sealed.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct MessageOpener {
    store: Py<CertStore>,
    policy: taskseal::Policy,
    fernets: Vec<Py<Fernet>>,
    max_age: Duration,
    clock_skew: Duration,
    max_len: Option<usize>,
    domain: String,
    untimed: bool,
    // Made once for the certificates of a moment. Locked with the GIL held, for a moment, so that no fork copies it locked.
    made: Mutex<Option<(Snapshot, Arc<taskseal::MessageOpener>)>>,
}

#[pymethods]
impl MessageOpener {
    /// `max_age` and `clock_skew` are seconds; `max_len` is in bytes. It takes what was sealed for the domain alone.
    /// An untimed one leaves to the caller what becomes of a message that the time alone speaks against.
    #[new]
    #[pyo3(signature = (
        store, fernets=vec![], *, policy=None, max_age=86400.0, clock_skew=60.0, max_len=None, domain=String::new(),
        untimed=false
    ))]
    #[allow(clippy::too_many_arguments)] // They are keyword arguments of Python.
    fn new(
        py: Python<'_>,
        store: Py<CertStore>,
        fernets: Vec<Py<Fernet>>,
        policy: Option<Policy>,
        max_age: f64,
        clock_skew: f64,
        max_len: Option<usize>,
        domain: String,
        untimed: bool,
    ) -> PyResult<Self> {
        logging::refresh(py)?;
        Ok(Self {
            store,
            policy: policy.unwrap_or_default().0,
            fernets,
            max_age: choices::seconds("max_age", max_age)?,
            clock_skew: choices::seconds("clock_skew", clock_skew)?,
            max_len,
            domain,
            untimed,
            made: Mutex::default(),
        })
    }

    /// Opens a message. Whether its destination is the right one is for the caller to compare; of an untimed opener also
    /// whether the time alone speaks against it (`untimely`).
    #[pyo3(signature = (wire, *, at=None))]
    fn open(&self, py: Python<'_>, wire: Input<'_>, at: Option<f64>) -> PyResult<OpenedPayload> {
        let (wire, at) = (wire.as_bytes()?, choices::time(at)?);
        let any = [Destination::any()];
        let (opener, message) = self.run(py, |opener| opener.open_untimed_at(wire, &any, at))?;
        let mut opened = OpenedPayload::new(py, &opener, message.whenever(), None);
        opened.evidence = Some(Evidence::of(&message));
        if let Err(refusal) = message.in_time() {
            let refusal = refusal.into_py_err();
            if !self.untimed {
                return Err(refusal);
            }
            opened.untimely = Some(refusal.into_value(py).into_any());
        }
        Ok(opened)
    }

    /// Opens a payload that was sealed for this purpose. The context is compared unless it is None.
    #[pyo3(signature = (wire, purpose, context=None))]
    fn open_payload(
        &self,
        py: Python<'_>,
        wire: Input<'_>,
        purpose: &str,
        context: Option<&str>,
    ) -> PyResult<OpenedPayload> {
        let wire = wire.as_bytes()?;
        let (opener, (context, opened)) = self.run(py, |opener| match context {
            Some(context) => opener
                .open_payload(wire, purpose, context)
                .map(|opened| (context.to_owned(), opened)),
            None => opener.open_payload_of(wire, purpose),
        })?;
        Ok(OpenedPayload::new(py, &opener, &opened, Some(context)))
    }
}

impl MessageOpener {
    /// Opens on the certificates of this moment; and where the signer is not among them, on those that came since.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        open: impl Fn(&taskseal::MessageOpener) -> Result<T, MessageError> + Sync,
    ) -> PyResult<(Arc<taskseal::MessageOpener>, T)> {
        let once = || -> PyResult<_> {
            let opener = self.opener(py)?;
            let opened = detached_quietly(py, || open(&opener));
            Ok((opener, opened))
        };
        let (mut opener, mut opened) = once()?;
        let unknown = matches!(
            opened,
            Err(MessageError::Open(OpenError::UnknownSigner { .. }))
        );
        if unknown && self.store.get().has_news(py) {
            (opener, opened) = once()?;
        }
        let opened = opened.map_err(|error| error.into_py_err())?;
        Ok((opener, opened))
    }

    /// The library's opener, on the certificates of this moment.
    fn opener(&self, py: Python<'_>) -> PyResult<Arc<taskseal::MessageOpener>> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let set = self.store.get().current(py);
        if let Some((known, opener)) = &*made()
            && known.is_same_moment(&set)
        {
            return Ok(Arc::clone(opener));
        }
        let opener = taskseal::Opener::new(set.clone()).with_policy(self.policy.clone());
        let mut opener = match open_all(py, &self.fernets)? {
            Some(fernets) => taskseal::MessageOpener::signed_and_encrypted(opener, fernets),
            None => taskseal::MessageOpener::signed(opener),
        };
        if let Some(bytes) = self.max_len {
            opener = opener.with_max_len(bytes);
        }
        let opener = opener
            .with_max_age(self.max_age)
            .with_clock_skew(self.clock_skew)
            .with_domain(&self.domain);
        let opener = Arc::new(opener);
        *made() = Some((set, Arc::clone(&opener)));
        Ok(opener)
    }
}

/// A message or payload that was verified.
#[pyclass(frozen, module = "taskseal")]
pub(crate) struct OpenedPayload {
    /// What was sealed, byte for byte: of a message its JSON.
    #[pyo3(get)]
    payload: Py<PyBytes>,
    /// The certificate of the signer.
    #[pyo3(get)]
    signer: Option<Certificate>,
    /// When it was sealed, in seconds since 1970.
    #[pyo3(get)]
    issued_at: f64,
    /// The exchange that a message was sent to.
    #[pyo3(get)]
    exchange: Option<String>,
    /// The routing key that a message was sent with.
    #[pyo3(get)]
    routing_key: Option<String>,
    /// The queue that a message was meant for, if its sender knew.
    #[pyo3(get)]
    queue: Option<String>,
    /// The context of a payload.
    #[pyo3(get)]
    context: Option<String>,
    /// What a repetition is recognised by: 32 bytes.
    #[pyo3(get)]
    replay_key: Option<Py<PyBytes>>,
    /// Until when a repetition has to be recognised, in seconds since 1970.
    #[pyo3(get)]
    remember_until: f64,
    /// The `OpenError` of a message that is good but for the time; None when it is in time.
    #[pyo3(get)]
    untimely: Option<Py<PyAny>>,
    /// What it says about clocks, if it is a message.
    pub(crate) evidence: Option<Evidence>,
}

#[pymethods]
impl OpenedPayload {
    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let len = self.payload.bind(py).len()?;
        let signer = self.signer.as_ref().map(|signer| signer.0.id());
        Ok(format!(
            "<taskseal.OpenedPayload {len} bytes, signed by {:?}>",
            signer.unwrap_or_default()
        ))
    }
}

impl OpenedPayload {
    fn new(
        py: Python<'_>,
        opener: &taskseal::MessageOpener,
        opened: &OpenedMessage,
        context: Option<String>,
    ) -> Self {
        let part = |part: Option<&str>| part.map(str::to_owned);
        let to = opened.destination();
        let seconds = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH);
            since.unwrap_or_default().as_secs_f64()
        };
        Self {
            payload: PyBytes::new(py, opened.payload()).unbind(),
            signer: opened.signer().cloned().map(Certificate),
            issued_at: seconds(opened.issued_at()),
            remember_until: seconds(opener.remember_until(opened)),
            untimely: None,
            evidence: None,
            exchange: part(to.exchange()),
            routing_key: part(to.routing_key()),
            queue: part(to.queue()),
            context,
            replay_key: opened
                .replay_key()
                .map(|key| PyBytes::new(py, key.as_bytes()).unbind()),
        }
    }
}

impl crate::errors::IntoPyErr for MessageError {
    fn into_py_err(self) -> PyErr {
        let text = self.to_string();
        let class = self.class().as_str();
        crate::errors::python::OpenError::new_err((text, class, self.reason(), self.signer()))
    }
}
