//! Secret keys on a token, as they are found.

use crate::pkcs11::error::Error;
use crate::pkcs11::info::SecretKeyInfo;
use crate::pkcs11::module::{Attribute, AttributeKind as Kind, ModuleSession, ObjectHandle};
use crate::pkcs11::session::Access;

/// Reads every secret key that a template finds.
pub(super) fn read_secret_keys(
    access: &Access,
    session: &dyn ModuleSession,
    template: &[Attribute],
) -> Result<Vec<(ObjectHandle, SecretKeyInfo)>, Error> {
    const KINDS: [Kind; 7] = [
        Kind::KeyType,
        Kind::Label,
        Kind::Id,
        Kind::ValueLen,
        Kind::Sensitive,
        Kind::Extractable,
        Kind::Local,
    ];
    let handles = session.find(template).map_err(|call| access.failed(call))?;
    let read = |handle: ObjectHandle| {
        let attributes = session
            .attributes(handle, &KINDS)
            .map_err(|call| access.failed(call))?;
        let info = SecretKeyInfo {
            label: attributes.text(Kind::Label).unwrap_or_default(),
            id: attributes.bytes(Kind::Id).unwrap_or_default().to_vec(),
            key_type: attributes.key_type(),
            // openCryptoki says 0 of a generic secret that was imported.
            len: attributes.number(Kind::ValueLen).filter(|len| *len > 0),
            sensitive: attributes.flag(Kind::Sensitive),
            extractable: attributes.flag(Kind::Extractable),
            local: attributes.flag(Kind::Local),
        };
        Ok((handle, info))
    };
    handles.into_iter().map(read).collect()
}
