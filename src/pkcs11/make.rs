//! What making an object on a token takes, whatever it is.

use super::error::Error;
use super::module::{Attribute, ModuleSession, ObjectHandle};
use super::process::Deadline;
use super::session::Access;

/// Destroys what was made in vain.
pub(super) fn undo(session: &dyn ModuleSession, made: &[ObjectHandle]) {
    for handle in made {
        if let Err(call) = session.destroy(*handle) {
            tracing::warn!(%call, "an object that was made in vain could not be removed again");
        }
    }
}

/// An error when the caller does not wait any more. It was told that nothing came of it, so what was made is to be undone.
pub(super) fn keep_in_time(access: &Access, deadline: Deadline) -> Result<(), Error> {
    if !deadline.has_passed() {
        return Ok(());
    }
    Err(Error::Timeout {
        on: access.token.to_string(),
        doing: "making objects",
        waited: deadline.waited(),
    })
}

/// 16 random bytes.
pub(super) fn random_id() -> Result<Vec<u8>, Error> {
    let mut id = vec![0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| Error::Random)?;
    Ok(id)
}

/// An error when something that a template finds is there already.
pub(super) fn refuse_existing(
    access: &Access,
    session: &dyn ModuleSession,
    template: &[Attribute],
    what: &str,
) -> Result<(), Error> {
    let found = session.find(template).map_err(|call| access.failed(call))?;
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Exists {
        what: what.to_owned(),
        on: access.token.to_string(),
    })
}
