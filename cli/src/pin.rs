//! Where the PIN of a token comes from.

use std::path::Path;

use taskseal::ErrorClass;
use taskseal::pkcs11::{Pin, PinError, PinSource, TokenInfo, Uri};

use crate::failure::Failure;
use crate::secret::{self, Secret};

/// Where the PIN comes from that a URI does not name: `TASKSEAL_PIN_FILE`, `TASKSEAL_PIN`, else a prompt.
pub(crate) fn source(uri: &Uri) -> Option<PinSource> {
    if uri.has_pin() {
        return None;
    }
    if let Some(path) = std::env::var_os("TASKSEAL_PIN_FILE") {
        return Some(PinSource::File(path.into()));
    }
    if std::env::var_os("TASKSEAL_PIN").is_some() {
        return Some(PinSource::Env("TASKSEAL_PIN".to_owned()));
    }
    Some(PinSource::callback(ask))
}

fn ask(token: &TokenInfo) -> Result<Pin, PinError> {
    if !secret::can_prompt() {
        return Err(PinError::Callback(
            "the URI has no pin-source, TASKSEAL_PIN_FILE and TASKSEAL_PIN are not set, and there is no terminal to \
             ask on"
                .to_owned(),
        ));
    }
    let question = format!("PIN of token {:?}", token.label);
    let entered =
        secret::prompt(&question).map_err(|error| PinError::Callback(error.to_string()))?;
    Pin::new(entered.as_str())
}

/// A PIN that is to be set: from the file, the variable, or asked for twice.
pub(crate) fn new_pin(
    what: &str,
    file: Option<&Path>,
    variable: &str,
    option: &str,
) -> Result<Pin, Failure> {
    let secret = entered(what, file, variable)
        .map_err(|failure| failure.hint(format!("use {option} FILE or the variable {variable}")))?;
    Pin::new(secret.as_str()).map_err(|error| match error {
        PinError::Form(error) => credential(what, error.as_str()),
        error => credential(what, &error.to_string()),
    })
}

fn entered(what: &str, file: Option<&Path>, variable: &str) -> Result<Secret, Failure> {
    if let Some(file) = file {
        return secret::from_file(what, file);
    }
    if let Some(value) = secret::from_env(variable)? {
        return Ok(value);
    }
    if !secret::can_prompt() {
        return Err(credential(
            what,
            "none is given, and there is no terminal to ask on",
        ));
    }
    secret::prompt_new(&format!("New {what}")).map_err(|error| credential(what, &error.to_string()))
}

fn credential(what: &str, reason: &str) -> Failure {
    Failure::new(
        "pin",
        ErrorClass::Credential,
        format!("no {what}: {reason}"),
    )
}
