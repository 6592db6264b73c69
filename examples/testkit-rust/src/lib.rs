//! A shop that signs its orders, as small as a program can be that has something to test.

use std::sync::Arc;

use taskseal::{SealError, Sealer, Signer};

/// Signs orders.
pub struct Orders(Sealer);

impl Orders {
    /// Signs with this signer: on a token in production, on SoftHSM in tests.
    pub fn new(signer: Arc<dyn Signer>) -> Self {
        Self(Sealer::new(signer))
    }

    /// The message for one order.
    ///
    /// # Errors
    /// The token does not sign.
    pub fn order(&self, article: &str, count: u32) -> Result<Vec<u8>, SealError> {
        let sealed = self
            .0
            .seal(&serde_json::json!([[article, count], {}, {}]))?;
        Ok(sealed.as_bytes().to_vec())
    }
}
