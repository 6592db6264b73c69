//! What the tests of failing tokens share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use taskseal::pkcs11::{Builder, Pkcs11Key};
use taskseal::{SignError, SigningKey as _};

use super::fault::Faults;
use super::softhsm::{SoftHsm, Token};

/// What a call may take beyond its deadline, on a slow machine with others beside it.
pub const SLACK: Duration = Duration::from_millis(500);

/// A token with a key `k`, and a builder for it behind faults.
pub fn token(hsm: &SoftHsm) -> (Token, Builder, Arc<Faults>) {
    let token = hsm.token_with_key();
    let (builder, faults) = token.faulty();
    (token, builder.object_label("k"), faults)
}

/// Signs once, and verifies what comes out.
pub fn sign(key: &Pkcs11Key) -> Result<(), SignError> {
    let signature = key.sign_message(b"message")?;
    assert!(
        key.public_key()
            .verifies(b"message", &signature, key.scheme())
    );
    Ok(())
}

/// Waits until it is so.
pub fn eventually(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
