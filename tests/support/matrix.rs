//! One PKCS#11 module of many: what `scripts/tokens/*` say of it in the environment, or SoftHSM when they say nothing.
//!
//! | variable | |
//! |---|---|
//! | `TASKSEAL_MATRIX_NAME` | the row, such as `kryoptic`; without it, SoftHSM with a token of its own |
//! | `TASKSEAL_MATRIX_URI` | names the module and the token, without a PIN |
//! | `TASKSEAL_MATRIX_THROWAWAY_URI` | the same of a token that may be locked |
//! | `TASKSEAL_MATRIX_PIN` | the user's PIN of both |
//! | `TASKSEAL_MATRIX_EXPECT` | `name=value` words, see [`Fixture::expects`] |
//! | `TASKSEAL_MATRIX_VERSION` | of the module, where it does not say so itself |
//! | `TASKSEAL_MATRIX_SERVER_PID` | of the process that forks one server for each process that uses the module |
//!
//! What the tests find goes into `target/matrix/NAME.json`, from which `scripts/test-tokens --docs` makes a table.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use taskseal::pkcs11::load_with;
use taskseal::pkcs11::module::Module;
use taskseal::pkcs11::{self, Builder, KeyInfo, NewKey, Pin, PinSource, Uri};

use super::softhsm::{self, name_of, run_again, test_named};
use super::spy::{Spy, spy};

const CHILD: &str = "TASKSEAL_MATRIX_CHILD";

/// A module with a token, and what is expected of them.
#[derive(Debug)]
pub struct Fixture {
    pub name: String,
    /// Names the module and the token.
    pub uri: Uri,
    /// A token that may be locked.
    pub throwaway: Uri,
    pub pin: String,
    expect: String,
    /// Where the keys' labels come from.
    keys: AtomicUsize,
}

/// Runs `test` on the module in a process of its own, one test at a time: they share the token.
pub fn test<F: FnOnce(&Fixture)>(test: F) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let name = name_of::<F>();
    let Ok(row) = std::env::var("TASKSEAL_MATRIX_NAME") else {
        return test_named(name, |hsm| test(&Fixture::softhsm(hsm)));
    };
    if std::env::var_os(CHILD).is_some() {
        return test(&Fixture::from_environment(row));
    }
    let directory = tempfile::tempdir().unwrap();
    run_again(name, directory.path(), &[(CHILD, "1".as_ref())]);
}

impl Fixture {
    fn softhsm(hsm: &softhsm::SoftHsm) -> Self {
        let [uri, throwaway] = ["lab", "throwaway"].map(|label| {
            hsm.token(label);
            let module = hsm.module().display();
            let uri = format!("pkcs11:token={label}?module-path={module}");
            uri.parse().unwrap()
        });
        Self {
            name: "softhsm".to_owned(),
            uri,
            throwaway,
            pin: softhsm::PIN.to_owned(),
            expect: "digest=pss max=pss lock=never".to_owned(),
            keys: AtomicUsize::new(0),
        }
    }

    fn from_environment(name: String) -> Self {
        let variable = |name: &str| {
            std::env::var(format!("TASKSEAL_MATRIX_{name}"))
                .unwrap_or_else(|_| panic!("TASKSEAL_MATRIX_{name} is not set; see scripts/tokens"))
        };
        Self {
            name,
            uri: variable("URI").parse().unwrap(),
            throwaway: variable("THROWAWAY_URI").parse().unwrap(),
            pin: variable("PIN"),
            expect: variable("EXPECT"),
            keys: AtomicUsize::new(0),
        }
    }

    /// What is expected of the module, as the scripts say it:
    ///
    /// * `digest`, `max`: the path that a salt of digest length and the maximum take, `pss` or `host`
    /// * `lock`: which wrong PIN in a row is answered with `CKR_PIN_LOCKED`, or `never`
    /// * `destroyed=signs`: it goes on signing with a key that was destroyed
    /// * `logout=own`: what other parts of the process do does not reach our sessions
    /// * `fork=refused`: a forked child gets an error
    /// * `secret=none`: it makes no secret keys, so none of Fernet's
    pub fn expects(&self, name: &str) -> Option<&str> {
        let mut words = self.expect.split_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The process that forks one server for each process that uses the module; `None` where there is none.
    pub fn server(&self) -> Option<u32> {
        let server = std::env::var("TASKSEAL_MATRIX_SERVER_PID").ok()?;
        Some(server.parse().unwrap())
    }

    pub fn module_path(&self) -> &Path {
        self.uri.module_path().unwrap()
    }

    /// The module itself, initialised as the URI says.
    pub fn module(&self) -> Arc<dyn Module> {
        load_with(self.module_path(), self.uri.init_reserved()).unwrap()
    }

    /// A builder for the token with the right PIN.
    pub fn builder(&self) -> Builder {
        self.builder_with(&self.uri, &self.pin)
    }

    /// A builder with another PIN.
    pub fn builder_with(&self, uri: &Uri, pin: &str) -> Builder {
        let pin = Pin::new(pin.to_owned()).unwrap();
        Builder::new().uri(uri).pin(PinSource::Value(pin))
    }

    /// The same through a module that counts calls.
    pub fn spied(&self, builder: Builder) -> (Builder, Arc<Spy>) {
        self.module();
        let (module, spy) = spy(self.module_path());
        (builder.module_implementation(module), spy)
    }

    /// Generates a key with a label of its own.
    pub fn generate(&self, bits: usize) -> KeyInfo {
        pkcs11::generate_key(&self.builder(), &self.new_key(bits)).unwrap()
    }

    /// A label and an id that no other test uses.
    pub fn new_key(&self, bits: usize) -> NewKey {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        NewKey {
            bits,
            label: format!("key {number} of {}", std::process::id()),
            id: None,
        }
    }

    /// Writes down what was found, for the matrix.
    pub fn record(&self, name: &str, value: impl Into<Value>) {
        let path = self.row_path();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut row: Map<String, Value> = std::fs::read(&path)
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        row.insert("name".to_owned(), self.name.clone().into());
        row.insert(name.to_owned(), value.into());
        // Renamed into place: two runs at once must not read half a file.
        let fresh = path.with_extension(std::process::id().to_string());
        std::fs::write(&fresh, serde_json::to_vec_pretty(&row).unwrap()).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn row_path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/matrix")
            .join(format!("{}.json", self.name))
    }
}
