#![doc = include_str!("../README.md")]

mod rules;

use std::ffi::c_ulong;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use cryptoki_sys::*;
use libloading::Library;

use crate::rules::{Rules, What};

/// The variable that names the file.
const VARIABLE: &str = "TASKSEAL_FAULTS";

/// The real module, and the functions that stand before its own.
struct Module {
    /// Keeps it loaded.
    _library: Library,
    real: CK_FUNCTION_LIST,
    shown: CK_FUNCTION_LIST,
}

// SAFETY: the lists are only read, and PKCS#11 functions may be called by any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

static MODULE: OnceLock<Result<Module, String>> = OnceLock::new();

/// The file's text as it was last read, and what is left of it.
static RULES: Mutex<Option<(String, Result<Rules, String>)>> = Mutex::new(None);

/// What happens to the next call of the function.
fn next(function: &str) -> What {
    let text = file().and_then(|path| std::fs::read_to_string(path).ok());
    let Some(text) = text else {
        complain(&format!("{VARIABLE} names no file that can be read"));
        return What::Fail(GENERAL_ERROR);
    };
    let mut rules = RULES.lock().unwrap_or_else(PoisonError::into_inner);
    if rules.as_ref().is_none_or(|(read, _)| *read != text) {
        let read = Rules::parse(&text);
        if let Err(line) = &read {
            complain(&format!("this line cannot be read: {line}"));
        }
        *rules = Some((text, read));
    }
    match &mut *rules {
        Some((_, Ok(rules))) => rules.next(function),
        _ => What::Fail(GENERAL_ERROR),
    }
}

const GENERAL_ERROR: u64 = 5;

fn file() -> Option<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from)
}

/// A host program has no other way to know what is wrong with the file.
fn complain(what: &str) {
    eprintln!("taskseal-testkit-module: {what}");
}

fn load() -> Result<Module, String> {
    let path = file().ok_or_else(|| format!("{VARIABLE} is not set"))?;
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let rules = Rules::parse(&text).map_err(|line| format!("this line cannot be read: {line}"))?;
    let real = rules.module.ok_or("the file has no line `module PATH`")?;
    // SAFETY: loading a library runs its constructors; the test's author named this one, as a program names a module.
    let library = unsafe { Library::new(&real) }.map_err(|e| e.to_string())?;
    type Get = unsafe extern "C" fn(*mut *mut CK_FUNCTION_LIST) -> CK_RV;
    // SAFETY: PKCS#11 gives this function this type.
    let get = unsafe { library.get::<Get>(b"C_GetFunctionList\0") }.map_err(|e| e.to_string())?;
    let mut list = std::ptr::null_mut();
    // SAFETY: the pointer is to a variable of ours, which the function fills.
    let answer = unsafe { get(&mut list) };
    if answer != CKR_OK || list.is_null() {
        return Err(format!("C_GetFunctionList of the real module: {answer:#x}"));
    }
    // SAFETY: the function said CKR_OK, so this is the module's list, which lives as long as the library.
    let real = unsafe { *list };
    let mut shown = real;
    shown.version = CK_VERSION {
        major: 2,
        minor: 40,
    };
    shown.C_GetFunctionList = Some(C_GetFunctionList);
    hook(&mut shown);
    Ok(Module {
        _library: library,
        real,
        shown,
    })
}

/// The list of functions, as every PKCS#11 library hands it out.
///
/// # Safety
/// `list` is null, or a valid pointer that can be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    match MODULE.get_or_init(load) {
        Ok(module) => {
            // SAFETY: not null, and the caller owes a valid pointer. Programs do not write to the list.
            unsafe { *list = (&raw const module.shown).cast_mut() };
            CKR_OK
        }
        Err(reason) => {
            complain(reason);
            CKR_GENERAL_ERROR
        }
    }
}

macro_rules! hooks {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {
        /// The functions that a file can name.
        const HOOKED: &[&str] = &[$(stringify!($name)),*];

        fn hook(list: &mut CK_FUNCTION_LIST) {
            $({
                #[allow(non_snake_case)]
                unsafe extern "C" fn $name($($arg: $type),*) -> CK_RV {
                    match next(stringify!($name)) {
                        What::Pass => {}
                        What::Fail(code) => return c_ulong::try_from(code).unwrap_or(CKR_GENERAL_ERROR),
                        What::Delay(time) => std::thread::sleep(time),
                    }
                    let Some(Ok(module)) = MODULE.get() else { return CKR_GENERAL_ERROR };
                    let Some(real) = module.real.$name else { return CKR_FUNCTION_NOT_SUPPORTED };
                    // SAFETY: the caller's arguments go on as they are, to the function that it meant to call.
                    unsafe { real($($arg),*) }
                }
                list.$name = Some($name);
            })*
        }
    };
}

type Session = CK_SESSION_HANDLE;
type Object = CK_OBJECT_HANDLE;
type Bytes = *mut CK_BYTE;
type Len = *mut CK_ULONG;

hooks! {
    C_Initialize(args: *mut std::ffi::c_void);
    C_Finalize(reserved: *mut std::ffi::c_void);
    C_GetInfo(info: *mut CK_INFO);
    C_GetSlotList(present: CK_BBOOL, list: *mut CK_SLOT_ID, count: Len);
    C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO);
    C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO);
    C_GetMechanismList(slot: CK_SLOT_ID, list: *mut CK_MECHANISM_TYPE, count: Len);
    C_GetMechanismInfo(slot: CK_SLOT_ID, kind: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO);
    C_InitToken(slot: CK_SLOT_ID, pin: Bytes, pin_len: CK_ULONG, label: Bytes);
    C_InitPIN(session: Session, pin: Bytes, len: CK_ULONG);
    C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: *mut std::ffi::c_void, notify: CK_NOTIFY, session: *mut Session);
    C_CloseSession(session: Session);
    C_CloseAllSessions(slot: CK_SLOT_ID);
    C_GetSessionInfo(session: Session, info: *mut CK_SESSION_INFO);
    C_Login(session: Session, user: CK_USER_TYPE, pin: Bytes, len: CK_ULONG);
    C_Logout(session: Session);
    C_CreateObject(session: Session, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut Object);
    C_DestroyObject(session: Session, object: Object);
    C_GetAttributeValue(session: Session, object: Object, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjectsInit(session: Session, template: *mut CK_ATTRIBUTE, count: CK_ULONG);
    C_FindObjects(session: Session, objects: *mut Object, at_most: CK_ULONG, count: Len);
    C_FindObjectsFinal(session: Session);
    C_EncryptInit(session: Session, mechanism: *mut CK_MECHANISM, key: Object);
    C_Encrypt(session: Session, data: Bytes, len: CK_ULONG, out: Bytes, out_len: Len);
    C_DecryptInit(session: Session, mechanism: *mut CK_MECHANISM, key: Object);
    C_Decrypt(session: Session, data: Bytes, len: CK_ULONG, out: Bytes, out_len: Len);
    C_SignInit(session: Session, mechanism: *mut CK_MECHANISM, key: Object);
    C_Sign(session: Session, data: Bytes, len: CK_ULONG, out: Bytes, out_len: Len);
    C_SignUpdate(session: Session, data: Bytes, len: CK_ULONG);
    C_SignFinal(session: Session, out: Bytes, out_len: Len);
    C_VerifyInit(session: Session, mechanism: *mut CK_MECHANISM, key: Object);
    C_Verify(session: Session, data: Bytes, len: CK_ULONG, signature: Bytes, signature_len: CK_ULONG);
    C_GenerateKey(session: Session, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Object);
    C_GenerateKeyPair(session: Session, mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG,
        private: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut Object, private_key: *mut Object);
    C_GenerateRandom(session: Session, data: Bytes, len: CK_ULONG);
}
