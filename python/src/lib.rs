//! The compiled half of the Python package `taskseal`: the library's types as Python classes.
//!
//! Rules of this crate:
//!
//! * The GIL is released around every signature and verification.
//! * What Python code can change (a store, the token that was opened) is read and written with the GIL held, and for a
//!   moment only. A fork holds the GIL too, and waits for work without it, so a child never inherits a lock that
//!   somebody else had.
//! * No error, `repr` or log line holds a PIN, a password, a key or the body of a message.

mod certificate;
mod choices;
mod clock;
mod detach;
mod errors;
mod fernet;
mod input;
mod key;
mod keys;
mod logging;
mod message;
mod open;
mod seal;
mod signer;
mod store;
mod tally;

use pyo3::prelude::*;

/// The compiled half of taskseal.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Now, and not by the first call that needs them: a fork during an import leaves the child with a locked module.
    for name in ["json", "logging", "taskseal.errors"] {
        module.py().import(name)?;
    }
    logging::install();
    detach::watch_forks(module.py())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<certificate::Certificate>()?;
    module.add_class::<signer::Signer>()?;
    module.add_class::<key::PrivateKey>()?;
    module.add_class::<store::CertStore>()?;
    module.add_class::<open::Policy>()?;
    module.add_class::<open::Opener>()?;
    module.add_class::<open::Opened>()?;
    module.add_class::<seal::Sealer>()?;
    module.add_class::<message::MessageSealer>()?;
    module.add_class::<message::MessageOpener>()?;
    module.add_class::<message::OpenedPayload>()?;
    module.add_class::<clock::ClockWatch>()?;
    module.add_class::<clock::MemoryReplay>()?;
    module.add_class::<fernet::Fernet>()?;
    module.add_class::<fernet::MultiFernet>()?;
    module.add_class::<tally::Tally>()?;
    module.add_function(wrap_pyfunction!(open::inspect_unverified, module)?)?;
    module.add_function(wrap_pyfunction!(signer::forget_refused_pins, module)?)?;
    Ok(())
}
