//! Stock Celery in a process of its own, which does nothing but wait while ours is timed, and times itself.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::root;

pub struct Celery {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its versions, for the report.
    pub versions: String,
}

impl Celery {
    /// Starts it, in the virtual environment that `./scripts/bench` makes. `None` without one.
    pub fn start() -> Option<Self> {
        let environment = root().join("target/venv/celery-current");
        let python: PathBuf = std::env::var_os("TASKSEAL_BENCH_PYTHON")
            .map_or_else(|| environment.join("bin/python"), PathBuf::from);
        if !python.is_file() {
            return None;
        }
        let mut process = Command::new(python)
            .arg(root().join("benches/support/celery_worker.py"))
            .arg(root().join("docs/examples"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut celery = Self {
            requests: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            versions: String::new(),
        };
        celery.versions = celery.ask(&json!({"do": "versions"}))["versions"]
            .as_str()
            .unwrap()
            .to_owned();
        Some(celery)
    }

    /// Keeps a value under a name, to be serialized; answers with what Celery makes of it.
    pub fn keep_value(&mut self, name: &str, value: &Value) -> String {
        let answer = self.ask(&json!({"do": "value", "name": name, "value": value}));
        answer["message"].as_str().unwrap().to_owned()
    }

    /// Keeps a message under a name, to be deserialized; answers with the value that Celery reads in it.
    pub fn keep_message(&mut self, name: &str, message: &str) -> Value {
        self.ask(&json!({"do": "message", "name": name, "message": message}))["value"].take()
    }

    /// Keeps data and a Fernet key under a name; answers with a token.
    pub fn keep_secret(&mut self, name: &str, key: &str, data: &[u8]) -> String {
        let data = std::str::from_utf8(data).unwrap();
        let request = json!({"do": "secret", "name": name, "key": key, "data": data});
        let answer = self.ask(&request);
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Time of so many calls of one of its actions with what was kept under `name`, measured in there.
    pub fn time(&mut self, what: &str, name: &str, times: u32) -> Duration {
        let answer = self.ask(&json!({"do": what, "name": name, "times": times}));
        Duration::from_nanos(answer["ns"].as_u64().unwrap())
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").unwrap();
        self.requests.flush().unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the Python process has ended")
    }
}

impl Drop for Celery {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
