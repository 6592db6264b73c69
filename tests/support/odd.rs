//! Odd certificates that `interop/certificates.py` makes, and what stock Celery says of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use taskseal::Certificate;

/// A certificate that the Python side made, and what stock Celery says of it.
#[derive(Deserialize)]
pub struct Case {
    name: String,
    pub pem: String,
    /// What Celery reads.
    pub facts: Option<Facts>,
    /// Why it cannot.
    pub refused: Option<String>,
}

/// What Celery and `cryptography` read of a certificate.
#[derive(Deserialize)]
pub struct Facts {
    pub id: String,
    pub issuer: String,
    pub serial: String,
    pub not_before: i64,
    pub not_after: i64,
    pub expired: bool,
    pub bits: usize,
}

impl Case {
    /// All of them by name, made once for all tests of a program; nothing where there is no Python.
    pub fn all(test: &str) -> Option<BTreeMap<String, Self>> {
        static CASES: std::sync::OnceLock<serde_json::Value> = std::sync::OnceLock::new();
        let python = super::python::Environment::Current.python(test)?;
        let cases = CASES.get_or_init(|| super::python::run_json(&python, "certificates.py", &[]));
        let cases = Vec::<Self>::deserialize(cases).unwrap();
        Some(
            cases
                .into_iter()
                .map(|case| (case.name.clone(), case))
                .collect(),
        )
    }
}

/// The certificate of that name.
pub fn read(cases: &BTreeMap<String, Case>, name: &str) -> Certificate {
    let case = cases.get(name).unwrap_or_else(|| panic!("{name}"));
    Certificate::from_pem(case.pem.as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"))
}
