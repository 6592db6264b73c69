//! [`Rv`]: the return values of PKCS#11 (PKCS#11 v3.1, section 5.1), and what a caller may do about each.

use std::fmt;

use cryptoki::error::RvError;

use crate::error::ErrorClass;

/// A return value (`CK_RV`) other than `CKR_OK`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rv(pub u64);

macro_rules! values {
    (
        crate: { $($known:ident = $known_code:literal $variant:ident),* $(,)? }
        newer: { $($newer:ident = $newer_code:literal),* $(,)? }
    ) => {
        #[allow(missing_docs)]
        impl Rv {
            $(pub const $known: Self = Self($known_code);)*
            $(pub const $newer: Self = Self($newer_code);)*

            /// Its name in the standard, `CKR_…`; vendors' codes and unknown ones have none.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$known => Some(concat!("CKR_", stringify!($known))),)*
                    $(Self::$newer => Some(concat!("CKR_", stringify!($newer))),)*
                    _ => None,
                }
            }
        }

        impl From<RvError> for Rv {
            fn from(error: RvError) -> Self {
                match error {
                    $(RvError::$variant => Self::$known,)*
                    #[allow(clippy::useless_conversion, reason = "CK_ULONG has 32 bits on some targets")]
                    RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => Self(code.into()),
                }
            }
        }
    };
}

values! {
    crate: {
        CANCEL = 0x001 Cancel,
        HOST_MEMORY = 0x002 HostMemory,
        SLOT_ID_INVALID = 0x003 SlotIdInvalid,
        GENERAL_ERROR = 0x005 GeneralError,
        FUNCTION_FAILED = 0x006 FunctionFailed,
        ARGUMENTS_BAD = 0x007 ArgumentsBad,
        NO_EVENT = 0x008 NoEvent,
        NEED_TO_CREATE_THREADS = 0x009 NeedToCreateThreads,
        CANT_LOCK = 0x00a CantLock,
        ATTRIBUTE_READ_ONLY = 0x010 AttributeReadOnly,
        ATTRIBUTE_SENSITIVE = 0x011 AttributeSensitive,
        ATTRIBUTE_TYPE_INVALID = 0x012 AttributeTypeInvalid,
        ATTRIBUTE_VALUE_INVALID = 0x013 AttributeValueInvalid,
        ACTION_PROHIBITED = 0x01b ActionProhibited,
        DATA_INVALID = 0x020 DataInvalid,
        DATA_LEN_RANGE = 0x021 DataLenRange,
        DEVICE_ERROR = 0x030 DeviceError,
        DEVICE_MEMORY = 0x031 DeviceMemory,
        DEVICE_REMOVED = 0x032 DeviceRemoved,
        ENCRYPTED_DATA_INVALID = 0x040 EncryptedDataInvalid,
        ENCRYPTED_DATA_LEN_RANGE = 0x041 EncryptedDataLenRange,
        FUNCTION_CANCELED = 0x050 FunctionCanceled,
        FUNCTION_NOT_PARALLEL = 0x051 FunctionNotParallel,
        FUNCTION_NOT_SUPPORTED = 0x054 FunctionNotSupported,
        KEY_HANDLE_INVALID = 0x060 KeyHandleInvalid,
        KEY_SIZE_RANGE = 0x062 KeySizeRange,
        KEY_TYPE_INCONSISTENT = 0x063 KeyTypeInconsistent,
        KEY_NOT_NEEDED = 0x064 KeyNotNeeded,
        KEY_CHANGED = 0x065 KeyChanged,
        KEY_NEEDED = 0x066 KeyNeeded,
        KEY_INDIGESTIBLE = 0x067 KeyIndigestible,
        KEY_FUNCTION_NOT_PERMITTED = 0x068 KeyFunctionNotPermitted,
        KEY_NOT_WRAPPABLE = 0x069 KeyNotWrappable,
        KEY_UNEXTRACTABLE = 0x06a KeyUnextractable,
        MECHANISM_INVALID = 0x070 MechanismInvalid,
        MECHANISM_PARAM_INVALID = 0x071 MechanismParamInvalid,
        OBJECT_HANDLE_INVALID = 0x082 ObjectHandleInvalid,
        OPERATION_ACTIVE = 0x090 OperationActive,
        OPERATION_NOT_INITIALIZED = 0x091 OperationNotInitialized,
        PIN_INCORRECT = 0x0a0 PinIncorrect,
        PIN_INVALID = 0x0a1 PinInvalid,
        PIN_LEN_RANGE = 0x0a2 PinLenRange,
        PIN_EXPIRED = 0x0a3 PinExpired,
        PIN_LOCKED = 0x0a4 PinLocked,
        SESSION_CLOSED = 0x0b0 SessionClosed,
        SESSION_COUNT = 0x0b1 SessionCount,
        SESSION_HANDLE_INVALID = 0x0b3 SessionHandleInvalid,
        SESSION_PARALLEL_NOT_SUPPORTED = 0x0b4 SessionParallelNotSupported,
        SESSION_READ_ONLY = 0x0b5 SessionReadOnly,
        SESSION_EXISTS = 0x0b6 SessionExists,
        SESSION_READ_ONLY_EXISTS = 0x0b7 SessionReadOnlyExists,
        SESSION_READ_WRITE_SO_EXISTS = 0x0b8 SessionReadWriteSoExists,
        SIGNATURE_INVALID = 0x0c0 SignatureInvalid,
        SIGNATURE_LEN_RANGE = 0x0c1 SignatureLenRange,
        TEMPLATE_INCOMPLETE = 0x0d0 TemplateIncomplete,
        TEMPLATE_INCONSISTENT = 0x0d1 TemplateInconsistent,
        TOKEN_NOT_PRESENT = 0x0e0 TokenNotPresent,
        TOKEN_NOT_RECOGNIZED = 0x0e1 TokenNotRecognized,
        TOKEN_WRITE_PROTECTED = 0x0e2 TokenWriteProtected,
        UNWRAPPING_KEY_HANDLE_INVALID = 0x0f0 UnwrappingKeyHandleInvalid,
        UNWRAPPING_KEY_SIZE_RANGE = 0x0f1 UnwrappingKeySizeRange,
        UNWRAPPING_KEY_TYPE_INCONSISTENT = 0x0f2 UnwrappingKeyTypeInconsistent,
        USER_ALREADY_LOGGED_IN = 0x100 UserAlreadyLoggedIn,
        USER_NOT_LOGGED_IN = 0x101 UserNotLoggedIn,
        USER_PIN_NOT_INITIALIZED = 0x102 UserPinNotInitialized,
        USER_TYPE_INVALID = 0x103 UserTypeInvalid,
        USER_ANOTHER_ALREADY_LOGGED_IN = 0x104 UserAnotherAlreadyLoggedIn,
        USER_TOO_MANY_TYPES = 0x105 UserTooManyTypes,
        WRAPPED_KEY_INVALID = 0x110 WrappedKeyInvalid,
        WRAPPED_KEY_LEN_RANGE = 0x112 WrappedKeyLenRange,
        WRAPPING_KEY_HANDLE_INVALID = 0x113 WrappingKeyHandleInvalid,
        WRAPPING_KEY_SIZE_RANGE = 0x114 WrappingKeySizeRange,
        WRAPPING_KEY_TYPE_INCONSISTENT = 0x115 WrappingKeyTypeInconsistent,
        RANDOM_SEED_NOT_SUPPORTED = 0x120 RandomSeedNotSupported,
        RANDOM_NO_RNG = 0x121 RandomNoRng,
        DOMAIN_PARAMS_INVALID = 0x130 DomainParamsInvalid,
        CURVE_NOT_SUPPORTED = 0x140 CurveNotSupported,
        BUFFER_TOO_SMALL = 0x150 BufferTooSmall,
        SAVED_STATE_INVALID = 0x160 SavedStateInvalid,
        INFORMATION_SENSITIVE = 0x170 InformationSensitive,
        STATE_UNSAVEABLE = 0x180 StateUnsaveable,
        CRYPTOKI_NOT_INITIALIZED = 0x190 CryptokiNotInitialized,
        CRYPTOKI_ALREADY_INITIALIZED = 0x191 CryptokiAlreadyInitialized,
        MUTEX_BAD = 0x1a0 MutexBad,
        MUTEX_NOT_LOCKED = 0x1a1 MutexNotLocked,
        NEW_PIN_MODE = 0x1b0 NewPinMode,
        NEXT_OTP = 0x1b1 NextOtp,
        EXCEEDED_MAX_ITERATIONS = 0x1b5 ExceededMaxIterations,
        FIPS_SELF_TEST_FAILED = 0x1b6 FipsSelfTestFailed,
        LIBRARY_LOAD_FAILED = 0x1b7 LibraryLoadFailed,
        PIN_TOO_WEAK = 0x1b8 PinTooWeak,
        PUBLIC_KEY_INVALID = 0x1b9 PublicKeyInvalid,
        FUNCTION_REJECTED = 0x200 FunctionRejected,
    }
    newer: {
        AEAD_DECRYPT_FAILED = 0x042,
        TOKEN_RESOURCE_EXCEEDED = 0x201,
        OPERATION_CANCEL_FAILED = 0x202,
        KEY_EXHAUSTED = 0x203,
        PENDING = 0x204,
        SESSION_ASYNC_NOT_SUPPORTED = 0x205,
        SEED_RANDOM_REQUIRED = 0x206,
        OPERATION_NOT_VALIDATED = 0x207,
        TOKEN_NOT_INITIALIZED = 0x208,
        PARAMETER_SET_NOT_SUPPORTED = 0x209,
    }
}

impl Rv {
    /// What a caller may do about it. The measured rule: codes for "the session, the login or the token is gone" differ
    /// from module to module, so whatever is not plainly an argument, a policy or a PIN counts as
    /// [`ErrorClass::SessionLost`].
    #[must_use]
    pub const fn class(self) -> ErrorClass {
        match self {
            Self::PIN_INCORRECT
            | Self::PIN_INVALID
            | Self::PIN_LEN_RANGE
            | Self::PIN_EXPIRED
            | Self::PIN_LOCKED
            | Self::PIN_TOO_WEAK
            | Self::USER_PIN_NOT_INITIALIZED => ErrorClass::Credential,
            Self::SESSION_COUNT | Self::TOKEN_RESOURCE_EXCEEDED => ErrorClass::Busy,
            Self::HOST_MEMORY | Self::FUNCTION_CANCELED | Self::CANCEL | Self::PENDING => {
                ErrorClass::Transient
            }
            Self::SLOT_ID_INVALID
            | Self::ARGUMENTS_BAD
            | Self::NEED_TO_CREATE_THREADS
            | Self::CANT_LOCK
            | Self::ATTRIBUTE_READ_ONLY
            | Self::ATTRIBUTE_SENSITIVE
            | Self::ATTRIBUTE_TYPE_INVALID
            | Self::ATTRIBUTE_VALUE_INVALID
            | Self::ACTION_PROHIBITED
            | Self::DATA_INVALID
            | Self::DATA_LEN_RANGE
            | Self::FUNCTION_NOT_SUPPORTED
            | Self::FUNCTION_REJECTED
            | Self::KEY_SIZE_RANGE
            | Self::KEY_FUNCTION_NOT_PERMITTED
            | Self::KEY_EXHAUSTED
            | Self::MECHANISM_INVALID
            | Self::MECHANISM_PARAM_INVALID
            | Self::PARAMETER_SET_NOT_SUPPORTED
            | Self::SESSION_READ_ONLY
            | Self::SESSION_READ_ONLY_EXISTS
            | Self::SESSION_PARALLEL_NOT_SUPPORTED
            | Self::TEMPLATE_INCOMPLETE
            | Self::TEMPLATE_INCONSISTENT
            | Self::TOKEN_WRITE_PROTECTED
            | Self::TOKEN_NOT_INITIALIZED
            | Self::USER_TYPE_INVALID
            | Self::USER_ANOTHER_ALREADY_LOGGED_IN
            | Self::LIBRARY_LOAD_FAILED
            | Self::FIPS_SELF_TEST_FAILED => ErrorClass::Permanent,
            _ => ErrorClass::SessionLost,
        }
    }

    /// Whether the token judged the PIN itself, so that it must not be shown to it again.
    pub(crate) const fn refuses_pin(self) -> bool {
        matches!(
            self,
            Self::PIN_INCORRECT
                | Self::PIN_INVALID
                | Self::PIN_LEN_RANGE
                | Self::PIN_EXPIRED
                | Self::PIN_LOCKED
        )
    }

    /// What the operator should do.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::PIN_INCORRECT => "correct the PIN; it is not tried again by itself",
            Self::PIN_LOCKED => "the token is locked; the security officer must set a new PIN",
            Self::PIN_EXPIRED => "the PIN has expired; set a new one with the token's own tools",
            Self::PIN_INVALID | Self::PIN_LEN_RANGE | Self::PIN_TOO_WEAK => {
                "the PIN does not fit the token's rules for PINs (length, characters)"
            }
            Self::USER_PIN_NOT_INITIALIZED => "the token has no user PIN yet; set one first",
            Self::SESSION_COUNT => {
                "the token has no free session; lower max_sessions here or elsewhere"
            }
            Self::SLOT_ID_INVALID => "slot ids change; select the token by label or serial",
            Self::TOKEN_WRITE_PROTECTED => "the token is write-protected",
            Self::KEY_FUNCTION_NOT_PERMITTED => "the key must have CKA_SIGN",
            Self::USER_NOT_LOGGED_IN => "the login was lost; the next call logs in again",
            Self::USER_ANOTHER_ALREADY_LOGGED_IN => {
                "the security officer is logged in from this process; that login must end first"
            }
            Self::FUNCTION_NOT_SUPPORTED | Self::MECHANISM_INVALID => {
                "the module does not offer this"
            }
            Self::CANT_LOCK | Self::NEED_TO_CREATE_THREADS => {
                "the module cannot be used from several threads; ask its vendor for a build that can"
            }
            _ => match self.class() {
                ErrorClass::Permanent => "check the key, its attributes and the token's policy",
                ErrorClass::Transient => "try again",
                _ => {
                    "the session is given up; if it goes on, check the token, its connection and the module's log"
                }
            },
        }
    }
}

impl fmt::Display for Rv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None if self.0 >= 0x8000_0000 => {
                write!(f, "CKR_VENDOR_DEFINED + {:#x}", self.0 - 0x8000_0000)
            }
            None => write!(f, "CKR {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Rv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_codes_and_classes() {
        assert_eq!(
            Rv::from(RvError::DeviceError).to_string(),
            "CKR_DEVICE_ERROR"
        );
        assert_eq!(Rv::PIN_INCORRECT.0, 0xa0);
        assert_eq!(
            Rv::from(RvError::UnknownErrorCode(0x208)).to_string(),
            "CKR_TOKEN_NOT_INITIALIZED"
        );
        assert_eq!(
            Rv::from(RvError::VendorDefined(0xce53_4351)).to_string(),
            "CKR_VENDOR_DEFINED + 0x4e534351"
        );
        assert_eq!(Rv(0x7777).to_string(), "CKR 0x7777");
        assert_eq!(Rv::PIN_LOCKED.class(), ErrorClass::Credential);
        assert_eq!(Rv::SESSION_COUNT.class(), ErrorClass::Busy);
        assert_eq!(Rv::GENERAL_ERROR.class(), ErrorClass::SessionLost);
        assert_eq!(Rv(0xce53_4351).class(), ErrorClass::SessionLost);
        assert_eq!(Rv::MECHANISM_PARAM_INVALID.class(), ErrorClass::Permanent);
    }
}
