//! The library's errors as exceptions of `taskseal.errors`.

use pyo3::PyErr;
use taskseal::message::MessageSealError;
use taskseal::pkcs11::UriError;
use taskseal::{
    CertificateError, ErrorClass, FernetError, KeyError, OpenError, SealError, SignError,
    StoreError,
};

/// The exceptions, which are written in Python. Each takes its text and the class of the error.
pub(crate) mod python {
    use pyo3::import_exception;

    import_exception!(taskseal.errors, CertificateError);
    import_exception!(taskseal.errors, ConfigurationError);
    import_exception!(taskseal.errors, FernetError);
    import_exception!(taskseal.errors, KeyError);
    import_exception!(taskseal.errors, OpenError);
    import_exception!(taskseal.errors, SealError);
    import_exception!(taskseal.errors, SignError);
    import_exception!(taskseal.errors, StoreError);
}

/// An error of the library that has an exception.
pub(crate) trait IntoPyErr {
    /// The exception.
    fn into_py_err(self) -> PyErr;
}

macro_rules! exception {
    ($($error:ty => $exception:ident),+ $(,)?) => {$(
        impl IntoPyErr for $error {
            fn into_py_err(self) -> PyErr {
                python::$exception::new_err((self.to_string(), self.class().as_str()))
            }
        }
    )+};
}

exception! {
    CertificateError => CertificateError,
    FernetError => FernetError,
    KeyError => KeyError,
    MessageSealError => SealError,
    SealError => SealError,
    SignError => SignError,
    StoreError => StoreError,
    UriError => KeyError,
}

impl IntoPyErr for OpenError {
    fn into_py_err(self) -> PyErr {
        let class = self.class().as_str();
        python::OpenError::new_err((self.to_string(), class, self.reason(), self.signer()))
    }
}

/// An argument or a setting that makes no sense.
pub(crate) fn configuration(text: impl Into<String>) -> PyErr {
    python::ConfigurationError::new_err((text.into(), ErrorClass::Permanent.as_str()))
}
