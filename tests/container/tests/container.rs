//! SoftHSM in containers behind `p11-kit server`: what happens to a signer when its token freezes, dies, comes back, or is
//! another one. Needs a Docker engine; `scripts/softhsm-image` makes the image.

mod support;

use support::test;
use taskseal::pkcs11::SignaturePath;
use taskseal::pss::{Digest, Salt, Scheme};
use taskseal::signer::SigningKey as _;

#[test]
fn a_key_in_a_container_signs() {
    test(|world| {
        let server = world.server("a");
        world.use_server(&server);
        world.generate();
        for salt in Salt::ALL {
            let scheme = Scheme::new(Digest::Sha256, salt);
            let key = world.builder().scheme(scheme).open_key().unwrap();
            assert_eq!(key.signature_path(), SignaturePath::Pss);
            let signature = key.sign_message(b"from the host").unwrap();
            assert!(
                key.public_key()
                    .verifies(b"from the host", &signature, scheme)
            );
        }
    });
}
