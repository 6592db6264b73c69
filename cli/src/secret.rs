//! Passwords and PINs: files, variables, prompts. None of them is ever printed.

use std::fs::File;
use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use taskseal::secret::{SecretError, first_line, password};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Text that is cleared from memory when it is dropped.
pub(crate) type Secret = Zeroizing<String>;

/// The longest first line of a secret's file, and the largest such file, in bytes.
const MAX_FILE: usize = 4096;

/// The first line of a file.
pub(crate) fn from_file(what: &str, path: &Path) -> Result<Secret, Failure> {
    let failed = |reason: &str| {
        let text = format!(
            "the {what} file {} cannot be used: {reason}",
            path.display()
        );
        Failure::new("secret", taskseal::ErrorClass::Credential, text)
    };
    // Allocated once and whole, so that no copy stays behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    File::open(path)
        .and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(&error.to_string()))?;
    if bytes.len() > MAX_FILE {
        return Err(failed("it is larger than 4096 bytes"));
    }
    let line = password(first_line(&bytes)).map_err(|error| match error {
        SecretError::Empty => failed("its first line is empty"),
        error => failed(error.as_str()),
    })?;
    match std::str::from_utf8(line) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(failed("it is not UTF-8")),
    }
}

/// A file of several secrets.
#[cfg(feature = "software")]
pub(crate) fn whole_file(what: &str, path: &Path) -> Result<Secret, Failure> {
    const MAX: usize = 256 * 1024;
    let failed = |reason: &str| {
        let text = format!(
            "the {what} file {} cannot be used: {reason}",
            path.display()
        );
        Failure::new("secret", taskseal::ErrorClass::Credential, text)
    };
    // As above.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX + 1));
    File::open(path)
        .and_then(|file| file.take(MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| failed(&error.to_string()))?;
    let whole = match password(&bytes) {
        Err(SecretError::Utf16) => return Err(failed(SecretError::Utf16.as_str())),
        whole => whole.unwrap_or_default(),
    };
    match std::str::from_utf8(whole) {
        Ok(_) if bytes.len() > MAX => Err(failed("it is larger than 256 KiB")),
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(_) => Err(failed("it is not UTF-8")),
    }
}

/// An environment variable; `None` when it is not set or empty.
pub(crate) fn from_env(name: &str) -> Result<Option<Secret>, Failure> {
    use std::env::VarError;

    match std::env::var(name).map(Zeroizing::new) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::new(
            "secret",
            taskseal::ErrorClass::Credential,
            format!("the variable {name} cannot be used: it is not UTF-8"),
        )),
    }
}

/// Whether somebody sees a prompt. Stdin and stdout may be pipes: the answer is read from the terminal itself.
pub(crate) fn can_prompt() -> bool {
    std::io::stderr().is_terminal()
}

/// Asks on the terminal, without echo.
pub(crate) fn prompt(question: &str) -> std::io::Result<Secret> {
    rpassword::prompt_password(format!("{question}: ")).map(Zeroizing::new)
}

/// Asks twice, for something new.
#[cfg(feature = "pkcs11")]
pub(crate) fn prompt_new(question: &str) -> std::io::Result<Secret> {
    let first = prompt(question)?;
    if first != prompt(&format!("{question}, again"))? {
        return Err(std::io::Error::other("the two entries differ"));
    }
    Ok(first)
}
