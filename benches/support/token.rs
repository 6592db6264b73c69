//! A SoftHSM token made for the run, our signer on it, and a bare loop over the module's own functions.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_C_Encrypt, CK_C_EncryptInit, CK_FUNCTION_LIST, CK_KEY_TYPE, CK_MECHANISM,
    CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_RSA_PKCS_PSS_PARAMS, CK_SESSION_HANDLE, CKA_CLASS,
    CKA_KEY_TYPE, CKA_LABEL, CKF_SERIAL_SESSION, CKG_MGF1_SHA256, CKK_AES, CKK_GENERIC_SECRET,
    CKK_RSA, CKM_AES_CBC, CKM_RSA_PKCS_PSS, CKM_SHA256, CKM_SHA256_HMAC, CKO_PRIVATE_KEY,
    CKO_SECRET_KEY, CKR_OK,
};
use libloading::Library;
use taskseal::fernet::Fernet;
use taskseal::issue;
use taskseal::pkcs11::{
    Builder, NewKey, Pin, PinSource, Pkcs11Signer, generate_fernet_keys, generate_key, init_token,
};

const DIRECTORY: &str = "TASKSEAL_BENCH_SOFTHSM";
const LABEL: &str = "bench";

/// A token with one RSA-2048 key.
pub struct Token {
    module: PathBuf,
    slot: u64,
    pub signer: Arc<Pkcs11Signer>,
    builder: Builder,
}

/// Starts this program again with an empty token store, since SoftHSM reads where that is when it is loaded; ends when
/// that one ends. Returns in the second program, or at once when there is no SoftHSM.
pub fn with_token_store() {
    if std::env::var_os(DIRECTORY).is_some() || module().is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = directory.path().join("softhsm2.conf");
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(std::env::args_os().skip(1))
        .env("SOFTHSM2_CONF", configuration)
        .env(DIRECTORY, directory.path())
        .status()
        .unwrap();
    drop(directory);
    std::process::exit(status.code().unwrap_or(1));
}

/// Where SoftHSM is.
pub fn module() -> Option<PathBuf> {
    let multiarch = format!(
        "/usr/lib/{}-linux-gnu/softhsm/libsofthsm2.so",
        std::env::consts::ARCH
    );
    let given = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from);
    given
        .into_iter()
        .chain(["/usr/lib/softhsm/libsofthsm2.so".into(), multiarch.into()])
        .chain(
            [
                "/usr/lib64/pkcs11/libsofthsm2.so",
                "/usr/local/lib/softhsm/libsofthsm2.so",
            ]
            .map(PathBuf::from),
        )
        .find(|path: &PathBuf| path.is_file())
}

impl Token {
    /// The token, made with the first use. `None` without SoftHSM.
    pub fn shared() -> Option<&'static Self> {
        static TOKEN: OnceLock<Option<Token>> = OnceLock::new();
        let token = TOKEN.get_or_init(Self::new).as_ref();
        if token.is_none() {
            super::skipped("no SoftHSM");
        }
        token
    }

    fn new() -> Option<Self> {
        std::env::var_os(DIRECTORY)?;
        let module = module()?;
        let pin = || Pin::new("12345678").unwrap();
        let info = init_token(&module, LABEL, &pin(), &pin()).unwrap();
        let builder = Builder::new()
            .module_path(&module)
            .token_label(LABEL)
            .object_label(LABEL)
            .pin(PinSource::Value(pin()));
        let key = NewKey {
            bits: 2048,
            label: LABEL.to_owned(),
            id: None,
        };
        generate_key(&builder, &key).unwrap();
        let now = SystemTime::now();
        let certificate = issue::self_sign(
            &builder.open_key().unwrap(),
            "CN=bench",
            now - Duration::from_secs(60),
            now + Duration::from_secs(86_400),
        )
        .unwrap();
        Some(Self {
            slot: info.slot_id,
            module,
            signer: Arc::new(builder.clone().open_signer(certificate).unwrap()),
            builder,
        })
    }

    /// Makes Fernet's two keys on the token and opens them.
    pub fn fernet(&self) -> Fernet {
        generate_fernet_keys(&self.builder).unwrap();
        Fernet::new(self.builder.open_fernet_keys().unwrap())
    }

    /// A session of its own beside the signer's. The process is logged in already.
    pub fn bare(&self) -> BareSession {
        BareSession::open(&self.module, self.slot)
    }
}

/// The module's functions, called as a C program would: one `C_SignInit` and one `C_Sign` into a buffer that is ready.
pub struct BareSession {
    functions: *const CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    /// Keeps the functions valid.
    _library: Library,
}

// SAFETY: the list of functions is constant, and a session may be used by any thread, one at a time: `sign` takes
// `&mut self`.
#[allow(unsafe_code)]
unsafe impl Send for BareSession {}

#[allow(unsafe_code)]
impl BareSession {
    fn open(module: &Path, slot: u64) -> Self {
        // SAFETY: the module is the one that taskseal has loaded and initialised in this process; every pointer below is
        // to a live variable of the type that PKCS#11 2.40 asks for, and every answer is checked.
        unsafe {
            let library = Library::new(module).unwrap();
            let list: libloading::Symbol<
                '_,
                unsafe extern "C" fn(*mut *const CK_FUNCTION_LIST) -> u64,
            > = library.get(b"C_GetFunctionList\0").unwrap();
            let mut functions = ptr::null();
            assert_eq!(list(&mut functions), CKR_OK);
            let mut session = 0;
            let open = (*functions).C_OpenSession.unwrap();
            assert_eq!(
                open(
                    slot,
                    CKF_SERIAL_SESSION,
                    ptr::null_mut(),
                    None,
                    &mut session
                ),
                CKR_OK
            );
            let key = find(functions, session, CKO_PRIVATE_KEY, CKK_RSA);
            Self {
                functions,
                session,
                key,
                _library: library,
            }
        }
    }

    /// Signs a SHA-256 hash with RSA-PSS, salt 32.
    pub fn sign(&mut self, hash: &mut [u8; 32], signature: &mut [u8; 256]) {
        let mut parameters = CK_RSA_PKCS_PSS_PARAMS {
            hashAlg: CKM_SHA256,
            mgf: CKG_MGF1_SHA256,
            sLen: 32,
        };
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_RSA_PKCS_PSS,
            pParameter: ptr::from_mut(&mut parameters).cast(),
            ulParameterLen: size_of_val(&parameters) as u64,
        };
        let mut len = signature.len() as u64;
        // SAFETY: as in `open`; `len` is the length of the buffer.
        unsafe {
            let init = (*self.functions).C_SignInit.unwrap();
            assert_eq!(init(self.session, &mut mechanism, self.key), CKR_OK);
            let sign = (*self.functions).C_Sign.unwrap();
            let done = sign(
                self.session,
                hash.as_mut_ptr(),
                hash.len() as u64,
                signature.as_mut_ptr(),
                &mut len,
            );
            assert_eq!((done, len), (CKR_OK, 256));
        }
    }
}

/// Two keys on the token in a session of its own: what [`BareSession`] is for signatures.
pub struct BareFernet {
    session: BareSession,
    encrypting: CK_OBJECT_HANDLE,
    signing: CK_OBJECT_HANDLE,
    /// Whether the token is asked for the length of each answer first, as the crate `cryptoki` does.
    asks: bool,
}

#[allow(unsafe_code)]
impl BareFernet {
    /// Finds the keys that [`Token::fernet`] made.
    pub fn new(token: &Token, asks: bool) -> Self {
        let session = token.bare();
        let (functions, number) = (session.functions, session.session);
        // SAFETY: as in `BareSession::open`.
        let [encrypting, signing] = [CKK_AES, CKK_GENERIC_SECRET]
            .map(|key| unsafe { find(functions, number, CKO_SECRET_KEY, key) });
        Self {
            session,
            encrypting,
            signing,
            asks,
        }
    }

    /// `C_EncryptInit` and `C_Encrypt`; `blocks` is as long as `out`.
    fn encrypt(&mut self, iv: &mut [u8; 16], blocks: &mut [u8], out: &mut [u8]) {
        // SAFETY: as in `BareSession::open`.
        let functions = unsafe { &*self.session.functions };
        self.crypt(
            functions.C_EncryptInit,
            functions.C_Encrypt,
            iv,
            blocks,
            out,
        );
    }

    /// `C_DecryptInit` and `C_Decrypt`; `blocks` is as long as `out`.
    fn decrypt(&mut self, iv: &mut [u8; 16], blocks: &mut [u8], out: &mut [u8]) {
        // SAFETY: as in `BareSession::open`.
        let functions = unsafe { &*self.session.functions };
        self.crypt(
            functions.C_DecryptInit,
            functions.C_Decrypt,
            iv,
            blocks,
            out,
        );
    }

    fn crypt(
        &mut self,
        init: CK_C_EncryptInit,
        crypt: CK_C_Encrypt,
        iv: &mut [u8; 16],
        blocks: &mut [u8],
        out: &mut [u8],
    ) {
        let (init, crypt) = (init.unwrap(), crypt.unwrap());
        let mut cipher = CK_MECHANISM {
            mechanism: CKM_AES_CBC,
            pParameter: iv.as_mut_ptr().cast(),
            ulParameterLen: 16,
        };
        let mut len = out.len() as u64;
        let session = self.session.session;
        let (from, to) = (blocks.as_mut_ptr(), out.as_mut_ptr());
        let blocks_len = blocks.len() as u64;
        // SAFETY: as in `BareSession::open`; the lengths are those of the buffers.
        unsafe {
            assert_eq!(init(session, &mut cipher, self.encrypting), CKR_OK);
            if self.asks {
                let asked = crypt(session, from, blocks_len, ptr::null_mut(), &mut len);
                assert_eq!(asked, CKR_OK);
            }
            assert_eq!(crypt(session, from, blocks_len, to, &mut len), CKR_OK);
        }
        assert_eq!(len, blocks.len() as u64);
    }

    /// `C_SignInit` and `C_Sign`.
    fn sign(&mut self, message: &mut [u8], tag: &mut [u8; 32]) {
        let mut hmac = CK_MECHANISM {
            mechanism: CKM_SHA256_HMAC,
            pParameter: ptr::null_mut(),
            ulParameterLen: 0,
        };
        let mut tag_len = tag.len() as u64;
        let session = self.session.session;
        // SAFETY: as in `BareSession::open`; the lengths are those of the buffers.
        unsafe {
            let functions = &*self.session.functions;
            let init = functions.C_SignInit.unwrap();
            assert_eq!(init(session, &mut hmac, self.signing), CKR_OK);
            let sign = functions.C_Sign.unwrap();
            let (from, to) = (message.as_mut_ptr(), tag.as_mut_ptr());
            let message_len = message.len() as u64;
            if self.asks {
                let asked = sign(session, from, message_len, ptr::null_mut(), &mut tag_len);
                assert_eq!(asked, CKR_OK);
            }
            assert_eq!(sign(session, from, message_len, to, &mut tag_len), CKR_OK);
            assert_eq!(tag_len, 32);
        }
    }
}

impl BareFernet {
    /// A Fernet token by hand, with the same calls.
    pub fn token(&mut self, data: &[u8]) -> String {
        let mut iv = [0; 16];
        aws_lc_rs::rand::fill(&mut iv).unwrap();
        let padding = 16 - data.len() % 16;
        let mut blocks = data.to_vec();
        blocks.extend(std::iter::repeat_n(padding as u8, padding));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut token = vec![0x80];
        token.extend(now.unwrap().as_secs().to_be_bytes());
        token.extend(iv);
        let mut tag = [0; 32];
        token.resize(token.len() + blocks.len(), 0);
        self.encrypt(&mut iv, &mut blocks, &mut token[25..]);
        self.sign(&mut token, &mut tag);
        token.extend(tag);
        URL_SAFE.encode(token)
    }

    /// The calls alone, into buffers that are ready; `blocks` is as long as `out`.
    pub fn calls(&mut self, blocks: &mut [u8], out: &mut [u8]) {
        self.encrypt(&mut [7; 16], blocks, out);
        self.sign(out, &mut [0; 32]);
    }

    /// The calls that open a token, in their order: the tag, then the blocks.
    pub fn opening_calls(&mut self, blocks: &mut [u8], out: &mut [u8]) {
        self.sign(blocks, &mut [0; 32]);
        self.decrypt(&mut [7; 16], blocks, out);
    }
}

/// The one object of that class and key type with [`LABEL`].
///
/// # Safety
/// The functions are those of an initialised module, and the session is open.
#[allow(unsafe_code)]
unsafe fn find(
    functions: *const CK_FUNCTION_LIST,
    session: CK_SESSION_HANDLE,
    mut class: CK_OBJECT_CLASS,
    mut key_type: CK_KEY_TYPE,
) -> CK_OBJECT_HANDLE {
    let mut label = LABEL.to_owned().into_bytes();
    let attribute = |type_, value: *mut u8, len: usize| CK_ATTRIBUTE {
        type_,
        pValue: value.cast(),
        ulValueLen: len as u64,
    };
    let mut template = [
        attribute(
            CKA_CLASS,
            ptr::from_mut(&mut class).cast(),
            size_of_val(&class),
        ),
        attribute(
            CKA_KEY_TYPE,
            ptr::from_mut(&mut key_type).cast(),
            size_of_val(&key_type),
        ),
        attribute(CKA_LABEL, label.as_mut_ptr(), label.len()),
    ];
    let (mut key, mut found) = (0, 0);
    // SAFETY: as promised by the caller; the pointers are to live variables.
    unsafe {
        let functions = &*functions;
        let init = functions.C_FindObjectsInit.unwrap();
        assert_eq!(init(session, template.as_mut_ptr(), 3), CKR_OK);
        let next = functions.C_FindObjects.unwrap();
        assert_eq!(next(session, &mut key, 1, &mut found), CKR_OK);
        assert_eq!(functions.C_FindObjectsFinal.unwrap()(session), CKR_OK);
    }
    assert_eq!(found, 1, "no key");
    key
}
