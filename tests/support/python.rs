//! Python environments with stock Celery, which `./scripts/test` makes under `target/venv/`.

use std::io::{BufRead, BufReader, Seek as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A stock Celery with the `cryptography` of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The present wire format; accepts any salt length.
    Current,
    /// Celery 5.4: the old wire format; accepts the maximum salt alone.
    Old,
    /// The present Celery with `kombu-fernet-serializers`.
    Fernet,
}

impl Environment {
    fn directory(self) -> PathBuf {
        let name = match self {
            Self::Current => "celery-current",
            Self::Old => "celery-old",
            Self::Fernet => "celery-fernet",
        };
        root().join("target/venv").join(name)
    }

    /// Its interpreter, when the environment is complete. Without one, `what` is skipped (see [`skip`]).
    pub fn python(self, what: &str) -> Option<PathBuf> {
        let python = self.directory().join("bin/python");
        if self.directory().join("complete").is_file() && python.is_file() {
            return Some(python);
        }
        skip(
            what,
            &format!(
                "no Python environment {}; run ./scripts/test",
                self.directory().display()
            ),
        );
        None
    }
}

/// Says loudly that a test did not run, past the test runner's capture of output; with `CI=true` that is a failure.
pub fn skip(what: &str, reason: &str) {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        panic!("{what} would be skipped, which CI=true forbids: {reason}");
    }
    // eprintln! would be captured.
    #[allow(clippy::explicit_write)]
    writeln!(std::io::stderr(), "skipped: {what}: {reason}").unwrap();
}

/// A file of `tests/interop/`.
pub fn script(name: &str) -> PathBuf {
    root().join("tests/interop").join(name)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a script of `tests/interop/` to its end and reads the JSON that it printed.
pub fn run_json(python: &Path, name: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(python);
    printed_json(name, command.arg(script(name)).args(arguments))
}

/// Like [`run_json`], for a script that reads JSON.
pub fn run_json_with(python: &Path, name: &str, input: &Value) -> Value {
    let mut file = tempfile::tempfile().unwrap();
    write!(file, "{input}").unwrap();
    file.rewind().unwrap();
    let mut command = Command::new(python);
    printed_json(name, command.arg(script(name)).stdin(file))
}

fn printed_json(name: &str, command: &mut Command) -> Value {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A script that stays and answers one line of JSON with one line of JSON, so that a test costs no interpreter start.
pub struct Peer {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub fn start(python: &Path, name: &str) -> Self {
        let mut process = Command::new(python)
            .arg(script(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            requests,
            answers,
        }
    }

    /// The answer's `ok`, or its `error` (the text of the exception).
    pub fn ask(&mut self, request: &Value) -> Result<Value, String> {
        writeln!(self.requests, "{request}").unwrap();
        self.requests.flush().unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(
            !line.is_empty(),
            "the Python peer ended; its standard error says why"
        );
        let mut answer: Value = serde_json::from_str(&line).unwrap();
        match answer.get_mut("ok") {
            Some(value) => Ok(value.take()),
            None => Err(answer["error"].as_str().unwrap().to_owned()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is our own child, and not waited for yet, so that its id cannot be another process'.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
