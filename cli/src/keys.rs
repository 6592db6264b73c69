//! Opening a private key where it is, and nowhere else.

use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "pkcs11")]
use taskseal::SignError;
#[cfg(feature = "pkcs11")]
use taskseal::pkcs11::{Builder, Pkcs11Signer, Uri};
use taskseal::pss::Scheme;
use taskseal::{Certificate, Signer, SigningKey};

use crate::args::KeyOptions;
use crate::args::source::KeySource;
use crate::failure::Failure;
use crate::input;
#[cfg(feature = "pkcs11")]
use crate::pin;

/// Opens the signer of messages: the key and its certificate.
pub(crate) fn open_signer(
    options: &KeyOptions,
    cert: Option<&Path>,
    scheme: Scheme,
) -> Result<Arc<dyn Signer>, Failure> {
    let certificate = cert.map(read_certificate).transpose()?;
    match &options.key {
        #[cfg(feature = "pkcs11")]
        KeySource::Token(uri) => {
            let builder = builder(uri, options.module.as_deref()).scheme(scheme);
            let builder = match certificate {
                Some(certificate) => builder.certificate(certificate),
                None => builder.certificate_from_token(),
            };
            Ok(Arc::new(builder.open().map_err(sign_failure)?))
        }
        KeySource::Pem(path) => {
            let certificate = certificate.ok_or_else(|| {
                Failure::permanent("certificate", "a key in a PEM file needs its certificate")
                    .hint("name it with --cert FILE; `taskseal cert self-sign` makes one")
            })?;
            pem::signer(path, options, certificate, scheme)
        }
    }
}

/// Opens the key alone, for a certificate or a request.
pub(crate) fn open_key(
    options: &KeyOptions,
    scheme: Scheme,
) -> Result<Box<dyn SigningKey>, Failure> {
    match &options.key {
        #[cfg(feature = "pkcs11")]
        KeySource::Token(uri) => {
            let builder = builder(uri, options.module.as_deref()).scheme(scheme);
            Ok(Box::new(builder.open_key()?))
        }
        KeySource::Pem(path) => pem::key(path, options, scheme),
    }
}

/// Reads the certificate of a key: the first one of the file.
pub(crate) fn read_certificate(path: &Path) -> Result<Certificate, Failure> {
    let bytes = input::certificate_file(path)?;
    Certificate::from_pem_or_der(&bytes).map_err(|error| Failure::from(error).on(path))
}

/// What a token, and what signs with it, fails at.
#[cfg(feature = "pkcs11")]
mod token {
    use taskseal::pkcs11::Error;

    use crate::failure::Failure;

    impl From<Error> for Failure {
        fn from(error: Error) -> Self {
            let (reason, hint) = match &error {
                Error::NoModule => (
                    "module",
                    Some("or name the module with --module PATH or the variable TASKSEAL_MODULE"),
                ),
                Error::ModuleNotFound { .. }
                | Error::ModuleLoad { .. }
                | Error::LibraryMismatch { .. } => ("module", None),
                Error::TokenNotFound { .. } | Error::SeveralTokens { .. } => (
                    "token-not-found",
                    Some("`taskseal token list --module PATH` lists the tokens"),
                ),
                Error::KeyNotFound { .. } | Error::SeveralKeys { .. } => (
                    "key-not-found",
                    Some("`taskseal key list --key URI` lists the keys of a token"),
                ),
                Error::OtherKey { .. } => ("key-mismatch", None),
                Error::NoPin { .. } => (
                    "pin",
                    Some("add ?pin-source=file:/path to the URI, or set TASKSEAL_PIN_FILE"),
                ),
                Error::PinRefused { .. }
                | Error::PinRefusedBefore { .. }
                | Error::FinalTry { .. }
                | Error::Locked { .. } => ("pin", None),
                Error::CertificateNotFound { .. } => (
                    "certificate-not-found",
                    Some("name it with --cert FILE, or `taskseal cert import` it"),
                ),
                Error::Exists { .. } => ("exists", None),
                Error::Extractable { .. } => (
                    "extractable",
                    Some(
                        "this command has no such choice: it signs with keys that cannot leave the token",
                    ),
                ),
                _ => ("token", None),
            };
            Self::library(reason, error.class(), &error).maybe_hint(hint.map(str::to_owned))
        }
    }
}

/// What a URI names, with the module and PIN that it leaves open.
#[cfg(feature = "pkcs11")]
pub(crate) fn builder(uri: &Uri, module: Option<&Path>) -> Builder {
    let mut builder = Pkcs11Signer::builder();
    if let Some(module) = module {
        builder = builder.module_path(module);
    }
    builder = builder.uri(uri);
    match pin::source(uri) {
        Some(source) => builder.pin(source),
        None => builder,
    }
}

/// The error of building a signer, with the hints for its token.
#[cfg(feature = "pkcs11")]
pub(crate) fn sign_failure(error: SignError) -> Failure {
    match error {
        SignError::Token(error) => error.into(),
        other => other.into(),
    }
}

/// Keys in PEM files.
#[cfg(feature = "software")]
mod pem {
    use std::fs::File;
    use std::io::Read as _;
    use std::path::Path;
    use std::sync::Arc;

    use taskseal::pss::Scheme;
    use taskseal::{
        Certificate, ErrorClass, KeyError, Signer, SigningKey, SoftwareKey, SoftwareSigner,
    };
    use zeroize::Zeroizing;

    use crate::args::KeyOptions;
    use crate::failure::Failure;
    use crate::secret::{self, Secret};

    /// The largest key file that is read, in bytes.
    const MAX_FILE: usize = 64 * 1024;

    pub(super) fn signer(
        path: &Path,
        options: &KeyOptions,
        certificate: Certificate,
        scheme: Scheme,
    ) -> Result<Arc<dyn Signer>, Failure> {
        let key = load(path, options, scheme)?;
        Ok(Arc::new(SoftwareSigner::new(key, certificate)?))
    }

    pub(super) fn key(
        path: &Path,
        options: &KeyOptions,
        scheme: Scheme,
    ) -> Result<Box<dyn SigningKey>, Failure> {
        Ok(Box::new(load(path, options, scheme)?))
    }

    fn load(path: &Path, options: &KeyOptions, scheme: Scheme) -> Result<SoftwareKey, Failure> {
        let pem = read(path)?;
        let failure = |error: KeyError| Failure::from(error).on(path);
        // A password that is named explicitly belongs to the key; the variable and the prompt are there if it is needed.
        if let Some(file) = &options.key_password_file {
            let password = secret::from_file("password", file)?;
            return SoftwareKey::from_pem(&pem, Some(password.as_bytes()), scheme).map_err(failure);
        }
        match SoftwareKey::from_pem(&pem, None, scheme) {
            Err(KeyError::PasswordMissing) => {
                let password = password_for(path)?;
                SoftwareKey::from_pem(&pem, Some(password.as_bytes()), scheme).map_err(failure)
            }
            other => other.map_err(failure),
        }
    }

    fn password_for(path: &Path) -> Result<Secret, Failure> {
        if let Some(password) = secret::from_env("TASKSEAL_KEY_PASSWORD")? {
            return Ok(password);
        }
        let no_password = |reason: &str| {
            let text = format!("the key {} has a password, and {reason}", path.display());
            Failure::new("key", ErrorClass::Credential, text)
                .hint("use --key-password-file FILE or the variable TASKSEAL_KEY_PASSWORD")
        };
        if !secret::can_prompt() {
            return Err(no_password("there is no terminal to ask for it"));
        }
        match secret::prompt(&format!("Password of {}", path.display())) {
            Ok(password) if !password.is_empty() => Ok(password),
            Ok(_) => Err(no_password("none was entered")),
            Err(error) => Err(no_password(&format!(
                "the terminal cannot be read: {error}"
            ))),
        }
    }

    fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let file_error = |error: std::io::Error| {
            let failure = Failure::file("read", path, &error);
            match path.to_str() {
                Some(text) if text.contains('=') => failure
                    .hint("--key takes a PEM file, or a PKCS#11 URI that begins with \"pkcs11:\""),
                _ => failure,
            }
        };
        let file = File::open(path).map_err(file_error)?;
        // Allocated once and whole, so that no copy of the key stays behind when it grows.
        let mut pem = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
        file.take(MAX_FILE as u64 + 1)
            .read_to_end(&mut pem)
            .map_err(file_error)?;
        if pem.len() > MAX_FILE {
            let text = format!("{} is too large for a private key", path.display());
            return Err(Failure::permanent("key", text));
        }
        Ok(pem)
    }
}

/// Stands where keys in PEM files would be: this build has no code that loads one.
#[cfg(not(feature = "software"))]
mod pem {
    use std::path::Path;
    use std::sync::Arc;

    use taskseal::pss::Scheme;
    use taskseal::{Certificate, Signer, SigningKey};

    use crate::args::KeyOptions;
    use crate::failure::Failure;

    pub(super) fn signer(
        path: &Path,
        _: &KeyOptions,
        _: Certificate,
        _: Scheme,
    ) -> Result<Arc<dyn Signer>, Failure> {
        Err(refused(path))
    }

    pub(super) fn key(
        path: &Path,
        _: &KeyOptions,
        _: Scheme,
    ) -> Result<Box<dyn SigningKey>, Failure> {
        Err(refused(path))
    }

    fn refused(path: &Path) -> Failure {
        let text = format!(
            "the key {} is a file, and this taskseal was built without code that loads private keys (feature software)",
            path.display()
        );
        Failure::permanent("key", text)
            .hint("name a key on a token: --key 'pkcs11:token=…;object=…'")
    }
}
