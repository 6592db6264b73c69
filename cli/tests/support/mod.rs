//! A directory to work in, and the command in it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use serde_json::Value;

/// A task message of Celery's.
pub const BODY: &str = r#"[["ä", 1], {}, {"chain": null}]"#;

/// A temporary directory with what a test needs; gone with it.
pub struct Place {
    dir: tempfile::TempDir,
    env: Vec<(String, PathBuf)>,
}

impl Place {
    /// An empty directory.
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            env: Vec::new(),
        }
    }

    /// One with `worker.key` and `worker.pem`, the example pair, and `task.json`.
    pub fn with_worker() -> Self {
        let place = Self::new();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
        for name in ["worker.key", "worker.pem"] {
            std::fs::copy(examples.join(name), place.path(name)).unwrap();
        }
        place.write("task.json", BODY);
        place
    }

    /// Every command gets this variable.
    pub fn set_env(&mut self, name: &str, value: impl Into<PathBuf>) {
        self.env.push((name.to_owned(), value.into()));
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The command, in this directory, with none of the tester's own settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskseal"));
        command.current_dir(self.dir.path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["TASKSEAL_", "KOMBU_FERNET_"]
                .iter()
                .any(|start| name.starts_with(start))
                || name == "SOFTHSM2_CONF"
                || name == "NO_COLOR"
            {
                command.env_remove(name);
            }
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it with these words, separated by blanks.
    pub fn run(&self, words: &str) -> Assert {
        self.command().args(words.split_whitespace()).assert()
    }

    /// Runs it with these words and this on stdin.
    pub fn run_with(&self, words: &str, stdin: impl Into<Vec<u8>>) -> Assert {
        let mut command = self.command();
        command
            .args(words.split_whitespace())
            .write_stdin(stdin.into())
            .assert()
    }

    /// Seals the body of `task.json` with the worker's key into a file.
    pub fn seal_as(&self, name: &str, options: &str) {
        let done = self.run(&format!(
            "seal --key worker.key --cert worker.pem {options} task.json"
        ));
        self.write(name, &done.success().get_output().stdout);
    }
}

/// What it wrote on stderr.
pub fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

/// What it wrote on stdout.
pub fn stdout(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stdout.clone()).unwrap()
}

/// The one JSON value on stderr.
pub fn json_on_stderr(assert: &Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stderr).unwrap()
}

/// The one JSON value on stdout.
pub fn json_on_stdout(assert: &Assert) -> Value {
    serde_json::from_slice(&assert.get_output().stdout).unwrap()
}

/// A private key that nothing else has, as PEM.
pub fn other_key() -> String {
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine as _;
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

/// SoftHSM's module, or `None` with a loud word; a failure where everything has to be tested.
pub fn softhsm() -> Option<PathBuf> {
    let named = std::env::var_os("SOFTHSM2_MODULE").map(PathBuf::from);
    let usual = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/pkcs11/libsofthsm2.so",
        "/usr/local/lib/softhsm/libsofthsm2.so",
    ];
    let found = named
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "no SoftHSM, and CI=true"
        );
        eprintln!("skipped: no SoftHSM (apt-get install softhsm2)");
    }
    found
}
