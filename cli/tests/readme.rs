//! The README's lines of shell and Rust, run as they stand.
#![cfg(feature = "pkcs11")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{Place, softhsm};

#[test]
fn the_lines_of_the_readme_do_what_they_say() {
    let Some(module) = softhsm() else {
        return;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();

    // The example is the README's text, so running it runs the README.
    let example = std::fs::read_to_string(root.join("examples/quickstart.rs")).unwrap();
    assert!(
        example.ends_with(block(&readme, "rust,no_run")),
        "examples/quickstart.rs is another text"
    );

    let usual = "/usr/lib/softhsm/libsofthsm2.so";
    let shell = block(&readme, "sh");
    assert!(shell.contains(usual));
    let shell = shell.replace(usual, module.to_str().unwrap());
    let bin = Path::new(env!("CARGO_BIN_EXE_taskseal")).parent().unwrap();
    let manifest = root.join("Cargo.toml");
    // Built for the whole workspace, as the tests are, so that nothing is compiled again with other features.
    let script = format!(
        "set -eu\nexport PATH=\"{bin}:$PATH\"\n{shell}\n\
         {cargo} build --quiet --locked --manifest-path \"{manifest}\" --workspace --example quickstart\n\
         \"{bin}/examples/quickstart\"\n",
        bin = bin.display(),
        cargo = env!("CARGO"),
        manifest = manifest.display(),
    );
    let place = Place::new();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new("bash")
        .args(["-c", &script])
        .current_dir(place.path("."))
        .env("CARGO_TERM_COLOR", "never")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("NOT VERIFIED"), "inspect: {stdout}");
    assert!(stdout.contains("\n[[2, 3], {}, {}]\n"), "open: {stdout}");
    assert!(stderr.contains("CN=worker-7"), "who signed it: {stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(
        last.starts_with("Example worker-7 ") && last.ends_with("signed [[2,3],{},{}]"),
        "{last}"
    );
}

/// The first block of that language.
fn block<'t>(text: &'t str, language: &str) -> &'t str {
    let (_, from) = text.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0
}
