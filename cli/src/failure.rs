//! [`Failure`]: how a command ends when it does not do what it was asked for.

use std::error::Error;
use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use serde::Serialize;
use taskseal::{
    BodyError, CertificateError, EnvelopeError, ErrorClass, FernetError, IssueError, KombuError,
    MessageError, MessageSealError, NotIgnorable, OpenError, SealError, SignError, StoreError,
};

use crate::output::{self, style};
use crate::unshown::without_secrets;

/// What went wrong, in the words that the user gets. Exit code 1.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    error: String,
    class: &'static str,
    /// One stable lower-case word.
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// There is nobody to tell: whoever read the output went away. Or they know already.
    #[serde(skip)]
    quiet: bool,
}

impl Failure {
    /// A key on the command line.
    pub(crate) fn key_itself() -> Self {
        let text = "a key itself was named, which everybody on this machine could read in the process list";
        Self::new("key", ErrorClass::Credential, text)
            .hint("make a new one, and name its file or env:NAME")
    }

    pub(crate) fn new(reason: &'static str, class: ErrorClass, error: impl Display) -> Self {
        Self {
            error: output::escaped(&error.to_string()),
            class: class.as_str(),
            reason,
            hint: None,
            quiet: false,
        }
    }

    /// A wrong argument that only turned out later, or a configuration that cannot work.
    pub(crate) fn permanent(reason: &'static str, error: impl Display) -> Self {
        Self::new(reason, ErrorClass::Permanent, error)
    }

    /// An error of the library, with what caused it.
    pub(crate) fn library(reason: &'static str, class: ErrorClass, error: &dyn Error) -> Self {
        Self::new(reason, class, with_sources(error))
    }

    /// A file that cannot be read or written.
    pub(crate) fn file(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        Self::permanent(
            "file",
            format!("cannot {doing} {}: {error}", path.display()),
        )
    }

    /// What the parser of the command line says, for `--json`.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        Self {
            error: text.to_owned(),
            class: "usage",
            reason: "usage",
            hint: None,
            quiet: false,
        }
    }

    /// Somebody else has told the user.
    #[cfg(feature = "pkcs11")]
    pub(crate) fn silent() -> Self {
        Self {
            quiet: true,
            ..Self::permanent("failed", "failed")
        }
    }

    /// What the user may do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, if there is something.
    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Says on what it happened.
    pub(crate) fn on(mut self, path: &Path) -> Self {
        self.error = format!(
            "{}: {}",
            output::escaped(&path.to_string_lossy()),
            self.error
        );
        self
    }

    /// Tells the user.
    pub(crate) fn report(&self, json: bool) {
        if self.quiet {
            return;
        }
        let shown = Self {
            error: without_secrets(&self.error),
            hint: self.hint.as_deref().map(without_secrets),
            ..*self
        };
        let mut err = anstream::stderr().lock();
        // Nobody is left to tell when stderr is closed.
        let _ = if json {
            output::json_line(&mut err, &shown)
        } else {
            let (bad, dim) = (style::BAD, style::DIM);
            writeln!(err, "taskseal: {bad}error:{bad:#} {}", shown.error).and_then(
                |()| match &shown.hint {
                    Some(hint) => writeln!(err, "{dim}hint:{dim:#} {hint}"),
                    None => Ok(()),
                },
            )
        };
    }
}

impl From<std::io::Error> for Failure {
    /// An error of writing the output. A closed pipe ends the command quietly, as it ends any other.
    fn from(error: std::io::Error) -> Self {
        Self {
            quiet: error.kind() == std::io::ErrorKind::BrokenPipe,
            ..Self::permanent("output", format!("cannot write the output: {error}"))
        }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let message = format!("refused ({}): {error}", error.reason());
        Self::new(error.reason(), error.class(), message)
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        let message = match error.class() {
            ErrorClass::Rejected => format!("refused ({}): {error}", error.reason()),
            _ => error.to_string(),
        };
        Self::new(error.reason(), error.class(), message)
    }
}

impl From<FernetError> for Failure {
    fn from(error: FernetError) -> Self {
        match error {
            FernetError::Refused => {
                Self::new("token", error.class(), format!("refused (token): {error}"))
            }
            _ => Self::library("fernet", error.class(), &error),
        }
    }
}

/// Errors that have a class, under one word each.
macro_rules! from_library {
    ($($error:ty => $reason:literal),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::library($reason, error.class(), &error)
            }
        }
    )*};
}

from_library! {
    BodyError => "body",
    CertificateError => "certificate",
    EnvelopeError => "malformed",
    NotIgnorable => "usage",
    IssueError => "issue",
    KombuError => "message",
    MessageSealError => "seal",
    SealError => "seal",
    SignError => "sign",
    StoreError => "store",
}

#[cfg(feature = "software")]
from_library!(taskseal::KeyError => "key");

/// The text of an error. The library's texts hold those of their sources already; one that does not gets them added.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}
