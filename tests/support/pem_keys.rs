//! Private keys that `interop/keys.py` makes in the forms that operators have, and what stock Celery says of each.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::{Certificate, KeyError, SoftwareKey};

use super::python;

/// What the Python side made.
#[derive(Deserialize)]
pub struct Made {
    pub keys: Vec<Case>,
    certificates: BTreeMap<usize, String>,
}

/// A key in some form.
#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub pem: String,
    pub password: Option<String>,
    /// Hexadecimal; absent for keys that are not plain RSA.
    pub modulus: Option<String>,
    /// A certificate of its own algorithm, for keys that are only for RSASSA-PSS.
    pub certificate: Option<String>,
    /// The error of stock Celery, if it refuses the key.
    pub celery: Option<String>,
}

impl Made {
    /// Made once for all tests of a program; nothing where there is no Python.
    pub fn get(test: &str) -> Option<&'static Self> {
        static MADE: OnceLock<Made> = OnceLock::new();
        let python = python::Environment::Current.python(test)?;
        Some(
            MADE.get_or_init(|| {
                Self::deserialize(python::run_json(&python, "keys.py", &[])).unwrap()
            }),
        )
    }

    /// The certificate of the plain RSA key of that size.
    pub fn certificate(&self, bits: usize) -> Certificate {
        Certificate::from_pem(self.certificates[&bits].as_bytes()).unwrap()
    }

    /// The key of that name.
    pub fn key(&self, name: &str) -> &Case {
        self.keys.iter().find(|case| case.name == name).expect(name)
    }
}

impl Case {
    /// Reads it, with its password.
    pub fn load(&self, scheme: Scheme) -> Result<SoftwareKey, KeyError> {
        SoftwareKey::from_pem(
            self.pem.as_bytes(),
            self.password.as_deref().map(str::as_bytes),
            scheme,
        )
    }
}

/// All schemes.
pub fn schemes() -> impl Iterator<Item = Scheme> {
    Digest::ALL
        .into_iter()
        .flat_map(|digest| Salt::ALL.map(|salt| Scheme::new(digest, salt)))
}
