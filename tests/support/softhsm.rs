//! SoftHSM for tests: a token store of its own for each test.
//!
//! SoftHSM reads `SOFTHSM2_CONF` when it is loaded, and a module is loaded once per process. So a test that wants one
//! starts its own binary again, for that test alone, with the variable set: no test sees another's tokens, sessions,
//! logins or refused PINs, and nothing has to change the environment of a running process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use taskseal::Certificate;
use taskseal::issue;
use taskseal::pkcs11::load;
use taskseal::pkcs11::module::{Attribute, AttributeKind as Kind, ModuleSession, User};
use taskseal::pkcs11::{
    self, Builder, KeyInfo, NewKey, Pin, PinSource, Pkcs11Signer, TokenInfo, Uri,
};
use taskseal::signer::SigningKey;

use super::spy::{Spy, spy};
use taskseal_testkit::faults::{Faults, faulty};

/// The user's PIN on every token made here.
pub const PIN: &str = "12345678";
/// The security officer's.
pub const SO_PIN: &str = "87654321";

/// How long a test may take, on a slow machine with others beside it; `TASKSEAL_TEST_SECONDS` says otherwise.
const DEADLINE: Duration = Duration::from_secs(300);

/// How the lines begin that a test that passed shows.
const SHOWN: [&str; 4] = ["skipped: ", "soak: ", "measured: ", "|"];

const DIRECTORY: &str = "TASKSEAL_TEST_SOFTHSM";

/// Runs `test` in a process of its own with an empty token store. Says so and passes when there is no SoftHSM, except
/// with `CI=true`, where it fails.
pub fn test<F: FnOnce(&SoftHsm)>(test: F) {
    test_named(name_of::<F>(), test);
}

/// [`test`] for a test of that name.
pub fn test_named(name: &str, test: impl FnOnce(&SoftHsm)) {
    let Some(module) = taskseal_testkit::SoftHsm::find_module() else {
        return super::python::skip(name, "no SoftHSM; install softhsm2 or set SOFTHSM2_MODULE");
    };
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return test(&SoftHsm {
            module,
            directory: directory.into(),
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("softhsm2.conf");
    let tokens = directory.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&configuration, text).unwrap();
    run_again(
        name,
        directory.path(),
        &[
            ("SOFTHSM2_CONF", configuration.as_os_str()),
            (DIRECTORY, directory.path().as_os_str()),
            // Read by p11-kit-client.so when it is loaded; see `remote`.
            (
                "P11_KIT_SERVER_ADDRESS",
                format!("unix:path={}", socket(directory.path()).display()).as_ref(),
            ),
        ],
    );
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// Runs the test of that name in a process of its own with these variables; its output goes through `directory`.
pub fn run_again(name: &str, directory: &Path, variables: &[(&str, &OsStr)]) {
    let output = |name: &str| File::create(directory.join(name)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .envs(variables.iter().copied())
        .stdout(output("out"))
        .stderr(output("err"))
        .spawn()
        .unwrap();
    let seconds = std::env::var("TASKSEAL_TEST_SECONDS").map(|text| text.parse().unwrap());
    let deadline = seconds.map_or(DEADLINE, Duration::from_secs);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let [out, err] = ["out", "err"]
        .map(|name| std::fs::read(directory.join(name)).unwrap())
        .map(|output| String::from_utf8_lossy(&output).into_owned());
    let passed = match status {
        // A name that matches nothing would run no test, and pass.
        Some(status) => status.success() && out.contains("1 passed"),
        None => false,
    };
    let ended = status.map_or(format!("not done after {deadline:?}"), |status| {
        status.to_string()
    });
    assert!(passed, "{name}: {ended}\n{out}\n{err}");
    // What it says of skipped tests and of times goes past the capture of output. What a module logs is of no interest.
    let mut stderr = std::io::stderr();
    for line in err
        .lines()
        .filter(|line| SHOWN.iter().any(|start| line.starts_with(start)))
    {
        writeln!(stderr, "{line}").unwrap();
    }
}

/// The name that the test harness knows the test by: the path of its closure without the crate and the closure.
pub fn name_of<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    let (_, path) = path.split_once("::").unwrap();
    path.trim_end_matches("::{{closure}}")
}

/// The token store of this test.
#[derive(Debug)]
pub struct SoftHsm {
    module: PathBuf,
    directory: PathBuf,
}

impl SoftHsm {
    /// The module's file.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// A directory for the test's own files, removed afterwards.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The socket that `p11-kit-client.so` of this process speaks to.
    pub fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// Makes a token `lab` with one key, `k`.
    pub fn token_with_key(&self) -> Token {
        let token = self.token("lab");
        token.generate(2048, "k");
        token
    }

    /// Makes a token with [`PIN`] and [`SO_PIN`].
    pub fn token(&self, label: &str) -> Token {
        let pins = [SO_PIN, PIN].map(|pin| Pin::new(pin).unwrap());
        let info = pkcs11::init_token(&self.module, label, &pins[0], &pins[1]).unwrap();
        Token {
            module: self.module.clone(),
            info,
        }
    }
}

/// A token made for a test.
#[derive(Debug, Clone)]
pub struct Token {
    pub module: PathBuf,
    pub info: TokenInfo,
}

impl Token {
    /// A builder that names the module and the token and has no PIN.
    pub fn builder_without_pin(&self) -> Builder {
        Builder::new()
            .module_path(&self.module)
            .token_label(&self.info.label)
    }

    /// A builder that names the module, the token and the PIN.
    pub fn builder(&self) -> Builder {
        self.builder_without_pin()
            .pin(PinSource::Value(Pin::new(PIN).unwrap()))
    }

    /// [`builder`](Self::builder), through a spy.
    pub fn spied(&self) -> (Builder, Arc<Spy>) {
        let (module, spy) = spy(&self.module);
        (self.builder().module_implementation(module), spy)
    }

    /// [`builder`](Self::builder), behind faults.
    pub fn faulty(&self) -> (Builder, Arc<Faults>) {
        let (module, faults) = faulty(&self.module).unwrap();
        (self.builder().module_implementation(module), faults)
    }

    /// A URI with the module, the token, the PIN and these path attributes.
    pub fn uri(&self, attributes: &str) -> Uri {
        let label = self.info.label.replace(' ', "%20");
        let module = self.module.display();
        format!("pkcs11:token={label};{attributes}?module-path={module}&pin-value={PIN}")
            .parse()
            .unwrap()
    }

    /// Generates a key.
    pub fn generate(&self, bits: usize, label: &str) -> KeyInfo {
        let key = NewKey {
            bits,
            label: label.to_owned(),
            id: None,
        };
        pkcs11::generate_key(&self.builder(), &key).unwrap()
    }

    /// Makes an RSA key of 2048 bits with these attributes, which [`pkcs11::generate_key`] would not make.
    pub fn make_key(&self, label: &str, attributes: &[(Kind, bool)]) {
        let named = [Kind::Label, Kind::Id].map(|kind| Attribute::bytes(kind, label.as_bytes()));
        let mut public = named.to_vec();
        public.extend([
            Attribute::flag(Kind::Token, true),
            Attribute::number(Kind::ModulusBits, 2048),
            Attribute::bytes(Kind::PublicExponent, &[1, 0, 1]),
        ]);
        let mut private = named.to_vec();
        private.extend(
            [Kind::Token, Kind::Private, Kind::Sign].map(|kind| Attribute::flag(kind, true)),
        );
        private.extend(
            attributes
                .iter()
                .map(|(kind, value)| Attribute::flag(*kind, *value)),
        );
        self.session().generate_rsa(&public, &private).unwrap();
    }

    /// Destroys whatever has that label.
    pub fn destroy(&self, label: &str) {
        let session = self.session();
        let labelled = [Attribute::bytes(Kind::Label, label.as_bytes())];
        for handle in session.find(&labelled).unwrap() {
            session.destroy(handle).unwrap();
        }
    }

    /// A session of the test's own: writable, with the user logged in.
    pub fn session(&self) -> Box<dyn ModuleSession> {
        let module = load(&self.module).unwrap();
        let session = module.open_session(self.info.slot_id, true).unwrap();
        if !session.user_is_logged_in().unwrap() {
            session
                .login(User::User, Some(&Pin::new(PIN).unwrap()))
                .unwrap();
        }
        session
    }

    /// Generates a key and signs a certificate for it with itself.
    pub fn generate_certified(&self, bits: usize, label: &str) -> (KeyInfo, Certificate) {
        let info = self.generate(bits, label);
        let key = self.builder().object_label(label).open_key().unwrap();
        (info, certificate(&key, &format!("CN={label}")))
    }

    /// Generates a key with a certificate and opens the signer.
    pub fn signer(&self, bits: usize, label: &str) -> Pkcs11Signer {
        let (_, certificate) = self.generate_certified(bits, label);
        self.builder()
            .object_label(label)
            .open_signer(certificate)
            .unwrap()
    }
}

/// A certificate for a key, valid from an hour ago for a day.
pub fn certificate(key: &dyn SigningKey, subject: &str) -> Certificate {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let now = SystemTime::now();
    issue::self_sign(key, subject, now - hours(1), now + hours(24)).unwrap()
}
