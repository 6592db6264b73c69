//! The library before SoftHSM, as another program meets it: `pkcs11-tool`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use taskseal_testkit::SoftHsm;

/// The library that cargo built beside this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let directory = test.parent().unwrap().parent().unwrap();
    let path = directory.join("libtaskseal_testkit_module.so");
    if path.is_file() {
        return path;
    }
    directory.join("deps/libtaskseal_testkit_module.so")
}

/// Signs with `pkcs11-tool` while the file has these lines.
fn sign(hsm: &SoftHsm, lines: &str) -> Output {
    let file = hsm.directory().join("faults");
    let text = format!("module {}\n{lines}", hsm.module().display());
    std::fs::write(&file, text).unwrap();
    let input = hsm.directory().join("input");
    std::fs::write(&input, [7; 32]).unwrap();
    let mut tool = Command::new("pkcs11-tool");
    tool.env("TASKSEAL_FAULTS", &file)
        .arg("--module")
        .arg(library());
    tool.args([
        "--token-label",
        "testkit",
        "--login",
        "--pin",
        hsm.pin(),
        "--sign",
    ]);
    tool.args(["--label", "worker", "--mechanism", "SHA256-RSA-PKCS"]);
    tool.arg("--input-file")
        .arg(&input)
        .arg("--output-file")
        .arg(hsm.directory().join("out"));
    tool.output().expect("pkcs11-tool of the package opensc")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_faults_the_real_module_answers() {
    let hsm = SoftHsm::start().unwrap();
    let output = sign(&hsm, "");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        std::fs::read(hsm.directory().join("out")).unwrap().len(),
        256
    );
}

#[test]
fn a_login_fails_as_the_file_says() {
    let hsm = SoftHsm::start().unwrap();
    let output = sign(&hsm, "C_Login fail CKR_PIN_LOCKED\n");
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("CKR_PIN_LOCKED"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_call_is_late_as_the_file_says() {
    let hsm = SoftHsm::start().unwrap();
    let start = Instant::now();
    let output = sign(&hsm, "C_SignInit delay 700\n");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(start.elapsed() >= Duration::from_millis(700));
}

#[test]
fn a_line_that_cannot_be_read_fails_and_is_named() {
    let hsm = SoftHsm::start().unwrap();
    let output = sign(&hsm, "C_Sign explode\n");
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("C_Sign explode"),
        "{}",
        stderr(&output)
    );
}
