//! [`Pkcs11FernetKeys`]: the two keys of Fernet on a token.
//!
//! The signing key is a generic secret (`CKM_SHA256_HMAC`), the encryption key an AES key of 128 bits (`CKM_AES_CBC`, or
//! `CKM_AES_CBC_PAD` where the token does not offer that). They share a label and have ids of their own, because some
//! tokens overwrite a secret key by one with its id. Padding and the comparison of tags are done on the host: one module
//! never checks padding.

mod batch;
mod calls;
mod cipher;
mod find;
mod keys;
mod provision;
mod secret;

pub use self::keys::Pkcs11FernetKeys;
pub use self::provision::{generate_fernet_keys, import_fernet_keys, list_secret_keys};
