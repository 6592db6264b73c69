//! A stock Celery worker.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::python;
use super::redis::{Answer, Redis};

/// A stock worker of an application in `tests/interop/`. Ends when it is dropped, after a panic too.
pub struct Worker {
    process: Child,
    log: tempfile::NamedTempFile,
}

impl Worker {
    /// Starts the worker of that application with these variables in its environment.
    pub fn start(python: &Path, app: &str, environment: &[(&str, &OsStr)]) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let output = || File::options().append(true).open(log.path()).unwrap();
        let process = Command::new(python)
            .args([
                "-m",
                "celery",
                "-A",
                app,
                "worker",
                "--pool=solo",
                "--loglevel=INFO",
            ])
            .args([
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ])
            .current_dir(python::script(app).parent().unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs(environment.iter().copied())
            .stdout(output())
            .stderr(output())
            .spawn()
            .unwrap();
        Self { process, log }
    }

    /// Waits until Redis has a value for the key.
    pub fn wait_for(&mut self, redis: &mut Redis, key: &str) -> Vec<u8> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            if let Answer::Bytes(value) = redis.run(&[b"GET", key.as_bytes()]) {
                return value;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the worker ended ({status}):\n{}", self.end_of_log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("no {key} after a minute:\n{}", self.end_of_log());
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log.path()).unwrap()).into_owned()
    }

    /// The last lines, each cut: a line may hold a whole message.
    pub fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log
            .lines()
            .map(|line| line.chars().take(200).collect::<String>())
            .collect();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It is our own child, and not waited for yet, so that its id cannot be another process'.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Text in the form of a UUID, which is what Celery's ids look like.
pub fn unique_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
