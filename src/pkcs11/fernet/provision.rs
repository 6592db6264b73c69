//! Making, importing and listing secret keys on a token.

use zeroize::{Zeroize as _, Zeroizing};

use super::find::PairFilter;
use super::secret::read_secret_keys;
use crate::pkcs11::builder::Builder;
use crate::pkcs11::error::Error;
use crate::pkcs11::info::SecretKeyInfo;
use crate::pkcs11::make::{keep_in_time, random_id, refuse_existing, undo};
use crate::pkcs11::module::{
    Attribute, AttributeKind as Kind, AttributeValue, KeyType, MechanismKind, ModuleSession,
    ObjectClass, ObjectHandle,
};
use crate::pkcs11::session::Access;

/// Lists the secret keys of the token: the first of each pair of Fernet's keys is a generic secret, the other an AES key.
///
/// # Errors
/// [`Error`]: module, token, PIN, or a call.
pub fn list_secret_keys(builder: &Builder) -> Result<Vec<SecretKeyInfo>, Error> {
    builder.in_session(false, |access, session, _| {
        let all = [Attribute::class(ObjectClass::SecretKey)];
        let found = read_secret_keys(access, session, &all)?;
        Ok(found.into_iter().map(|(_, info)| info).collect())
    })
}

/// Generates Fernet's two keys on the token, under the label that the builder names: a generic secret of 32 bytes and an
/// AES key of 128 bits; sensitive, not extractable, with random ids.
///
/// # Errors
/// [`Error::Exists`] when a secret key has that label; [`Error::Argument`] for a label that is not possible;
/// [`Error::Call`] when the token makes no such keys, or none that encrypt, after which it has neither;
/// [`Error::Timeout`] when the [`provision_deadline`](Builder::provision_deadline) passes: keys that come later are
/// destroyed again.
pub fn generate_fernet_keys(builder: &Builder) -> Result<Vec<SecretKeyInfo>, Error> {
    make_pair(builder, |session, half, template| {
        let mut template = template.to_vec();
        template.push(Attribute::number(Kind::ValueLen, half.len()));
        session.generate_secret(half.generation(), &template)
    })
}

/// Puts an existing Fernet key on the token, under the label that the builder names: `key` is the 16 bytes of the signing
/// key and the 16 bytes of the encryption key. The signing key is padded with zeros to 32 bytes, which makes the same
/// tags (RFC 2104, section 2) and suits tokens that refuse shorter ones. Whoever had the key before still has it.
///
/// # Errors
/// As for [`generate_fernet_keys`].
pub fn import_fernet_keys(builder: &Builder, key: &[u8; 32]) -> Result<Vec<SecretKeyInfo>, Error> {
    let key = Zeroizing::new(*key);
    make_pair(builder, move |session, half, template| {
        let (signing, encrypting) = key.split_at(16);
        let value = match half {
            Half::Signing => [signing, &[0; 16]].concat(),
            Half::Encrypting => encrypting.to_vec(),
        };
        let mut template = template.to_vec();
        template.push(Attribute {
            kind: Kind::Value,
            value: AttributeValue::Bytes(value),
        });
        let made = session.create(&template);
        for attribute in &mut template {
            if let AttributeValue::Bytes(bytes) = &mut attribute.value {
                bytes.zeroize();
            }
        }
        made
    })
}

#[derive(Clone, Copy)]
enum Half {
    Signing,
    Encrypting,
}

impl Half {
    const fn key_type(self) -> KeyType {
        match self {
            Self::Signing => KeyType::GenericSecret,
            Self::Encrypting => KeyType::Aes,
        }
    }

    /// In bytes.
    const fn len(self) -> u64 {
        match self {
            Self::Signing => 32,
            Self::Encrypting => 16,
        }
    }

    const fn generation(self) -> MechanismKind {
        match self {
            Self::Signing => MechanismKind::GenericSecretKeyGen,
            Self::Encrypting => MechanismKind::AesKeyGen,
        }
    }

    const fn uses(self) -> &'static [Kind] {
        match self {
            Self::Signing => &[Kind::Sign, Kind::Verify],
            Self::Encrypting => &[Kind::Encrypt, Kind::Decrypt],
        }
    }
}

type Made = Result<ObjectHandle, crate::pkcs11::module::CallError>;

/// Makes both keys or none.
fn make_pair(
    builder: &Builder,
    make: impl Fn(&dyn ModuleSession, Half, &[Attribute]) -> Made + Send + 'static,
) -> Result<Vec<SecretKeyInfo>, Error> {
    let label = builder.fernet_label()?;
    builder.in_session(true, move |access, session, deadline| {
        let labelled = [
            Attribute::class(ObjectClass::SecretKey),
            Attribute::bytes(Kind::Label, label.as_bytes()),
        ];
        let what = format!("a secret key with label {label:?}");
        refuse_existing(access, session, &labelled, &what)?;
        let mut made = Vec::new();
        let keys = make_halves(access, session, &labelled, &make, &mut made)
            .and_then(|()| check_new(access, session, &labelled, label.clone()))
            .and_then(|keys| keep_in_time(access, deadline).map(|()| keys))
            .inspect_err(|_| undo(session, &made))?;
        tracing::info!(label, token = %access.token, "Fernet keys made");
        Ok(keys)
    })
}

fn make_halves(
    access: &Access,
    session: &dyn ModuleSession,
    labelled: &[Attribute],
    make: &impl Fn(&dyn ModuleSession, Half, &[Attribute]) -> Made,
    made: &mut Vec<ObjectHandle>,
) -> Result<(), Error> {
    for half in [Half::Signing, Half::Encrypting] {
        let id = random_id()?;
        let mut template = labelled.to_vec();
        template.extend([
            Attribute::key_type(half.key_type()),
            Attribute::bytes(Kind::Id, &id),
            Attribute::flag(Kind::Token, true),
            Attribute::flag(Kind::Private, true),
            Attribute::flag(Kind::Sensitive, true),
            Attribute::flag(Kind::Extractable, false),
        ]);
        template.extend(half.uses().iter().map(|kind| Attribute::flag(*kind, true)));
        made.push(make(session, half, &template).map_err(|call| access.failed(call))?);
    }
    Ok(())
}

/// The keys as the token shows them, if they are as they were asked for.
fn check_new(
    access: &Access,
    session: &dyn ModuleSession,
    labelled: &[Attribute],
    label: String,
) -> Result<Vec<SecretKeyInfo>, Error> {
    let keys = read_secret_keys(access, session, labelled)?;
    let kept =
        |info: &SecretKeyInfo| info.sensitive == Some(true) && info.extractable == Some(false);
    if let Some((_, info)) = keys.iter().find(|(_, info)| !kept(info)) {
        return Err(Error::Extractable {
            key: info.name(),
            token: Box::new(access.token.clone()),
            reason: "the token did not keep CKA_SENSITIVE and CKA_EXTRACTABLE as asked; the new keys were destroyed",
        });
    }
    // p11-kit-client makes keys of any kind, and lets none of these encrypt.
    PairFilter::new(label, false).check(access, session)?;
    Ok(keys.into_iter().map(|(_, info)| info).collect())
}
