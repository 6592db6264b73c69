//! "There is no code path in our build that can load a private key": builds a program with the feature `pkcs11` alone
//! (`default-features = false`) and looks at what is in it; and builds one with `software`, in which the same looks find
//! it, so that they can fail.
//!
//! What holds, exactly:
//!
//! * No crate that decodes private keys is in the dependency tree of the `pkcs11` build.
//! * Nothing of `SoftwareKey` is in taskseal's compiled library, and nothing in that library refers to a function of
//!   `aws-lc-rs` that loads, makes or uses a private key.
//! * No such function of `aws-lc-rs` is in the linked program. `aws-lc-rs` is one crate and compiles them all; the linker
//!   drops what nothing calls.
//! * Of the C library below it, functions that decode or generate RSA and EC keys **are** linked in, in both programs:
//!   reading a public key needs the library's tables of key methods, which point to them too. Of the Rust functions that
//!   lead to them none is linked in. The C functions that an application would load a key with
//!   (`EVP_parse_private_key`, `d2i_…PrivateKey`, `PEM_read_…PrivateKey`) are not linked in.
//!
//! The programs are built without optimisation, so that no function is merged into its callers and each has its name.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use object::read::archive::ArchiveFile;
use object::{Object as _, ObjectSymbol as _};
use rustc_demangle::demangle;

/// Functions and types that load, make or use a private key, as they read when demangled.
const PRIVATE: [&str; 7] = [
    "SoftwareKey",
    "SoftwareSigner",
    "KeyPair",
    "decode_private_key",
    "generate_rsa_key",
    "pkcs8::",
    "pkcs5::",
];

/// C functions with which a program loads a private key.
const LOADERS: [&str; 10] = [
    "EVP_parse_private_key",
    "EVP_PKCS82PKEY",
    "EVP_PKEY_new_raw_private_key",
    "RSA_private_key_from_bytes",
    "d2i_PrivateKey",
    "d2i_AutoPrivateKey",
    "d2i_PKCS8PrivateKey_bio",
    "d2i_RSAPrivateKey",
    "PEM_read_bio_PrivateKey",
    "PEM_read_bio_RSAPrivateKey",
];

/// C functions that are linked in nevertheless, behind tables of methods.
const BEHIND_TABLES: [&str; 3] = [
    "RSA_parse_private_key",
    "RSA_generate_key_ex",
    "EC_KEY_parse_private_key",
];

#[test]
fn no_crate_that_decodes_private_keys_is_a_dependency() {
    let tree = |feature| {
        let output = cargo(["tree", "--offline", "--locked", "-e", "normal"])
            .args(["--prefix", "none", "--format", "{p}"])
            .args(["--package", "taskseal", "--no-default-features"])
            .args(["--features", feature])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect::<BTreeSet<_>>()
    };
    let hardware = tree("pkcs11");
    assert!(hardware.contains("cryptoki") && hardware.contains("aws-lc-rs"));
    let decoders = [
        "pkcs1", "pkcs5", "pkcs8", "pkcs12", "sec1", "rsa", "scrypt", "pbkdf2", "ssh-key", "ring",
        "openssl", "rcgen",
    ];
    for name in decoders {
        assert!(!hardware.contains(name), "{name} is in the pkcs11 build");
    }
    let software = tree("software");
    for name in ["pkcs8", "pkcs5"] {
        assert!(software.contains(name), "{name}: the control found nothing");
    }
}

#[test]
fn a_hardware_only_program_has_no_code_that_loads_a_private_key() {
    let hardware = Program::build("hsm-only", "pkcs11", "hsm_only.rs");
    let software = Program::build("software", "software", "software.rs");

    let found = private(&hardware.library);
    assert!(found.is_empty(), "in the pkcs11 library: {found:#?}");
    let found = private(&hardware.binary);
    assert!(found.is_empty(), "in the pkcs11 program: {found:#?}");
    // That the program is one: the front doors are in it.
    for name in [
        "Pkcs11Signer",
        "Opener",
        "Sealer",
        "FsCertStore",
        "issue::self_sign",
        "ParsedPublicKey::verify_digest_sig",
    ] {
        assert!(contains(&hardware.binary, name), "{name} is not linked in");
    }

    // The control: where a key is loaded, the same looks find it.
    for name in ["SoftwareKey", "rsa::key::KeyPair", "pkcs8::"] {
        assert!(contains(&software.library, name), "{name} is not found");
    }
    for name in [
        "SoftwareKey",
        "rsa::key::KeyPair::from_der",
        "decode_private_key",
        "pkcs8::",
        "pkcs5::",
    ] {
        assert!(contains(&software.binary, name), "{name} is not found");
    }

    for name in LOADERS {
        assert!(!has_c(&hardware.binary, name), "{name} is linked in");
    }
    for name in BEHIND_TABLES {
        assert!(
            has_c(&hardware.binary, name),
            "{name} is no longer linked in: good news, say so at the top of this file"
        );
    }
    assert!(has_c(&hardware.binary, "EVP_parse_public_key"));
}

#[test]
fn a_hardware_only_program_cannot_name_the_software_signer() {
    for name in ["SoftwareSigner", "SoftwareKey", "KeyError"] {
        let program = format!("use taskseal::{name};\nfn main() {{}}\n");
        let file = directory().join(format!("{name}.rs"));
        fs::create_dir_all(directory()).unwrap();
        fs::write(&file, program).unwrap();
        let hardware = check(&format!("without-{name}"), "pkcs11", &file);
        assert!(!hardware.status.success(), "{name} is there");
        assert!(
            text(&hardware).contains("error[E0432]") && text(&hardware).contains(name),
            "{}",
            text(&hardware)
        );
        let software = check(&format!("with-{name}"), "software", &file);
        assert!(software.status.success(), "{}", text(&software));
    }
}

/// The symbols of a program and of the library that it was built with, demangled.
struct Program {
    binary: BTreeSet<String>,
    library: BTreeSet<String>,
}

impl Program {
    fn build(name: &str, feature: &str, source: &str) -> Self {
        let source = root().join("tests/fixtures").join(source);
        let output = run("build", name, feature, &source, &["--message-format=json"]);
        assert!(output.status.success(), "{}", text(&output));
        let mut program = Self {
            binary: BTreeSet::new(),
            library: BTreeSet::new(),
        };
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let message: serde_json::Value = serde_json::from_str(line).unwrap();
            let files = message["filenames"].as_array().into_iter().flatten();
            if message["target"]["name"] == "taskseal" {
                files
                    .filter_map(|file| file.as_str().filter(|file| file.ends_with(".rlib")))
                    .for_each(|file| program.library.extend(library_symbols(Path::new(file))));
            } else if let Some(file) = message["executable"].as_str() {
                program.binary.extend(symbols(&fs::read(file).unwrap()));
            }
        }
        assert!(program.binary.len() > 1000 && program.library.len() > 100);
        program
    }
}

fn library_symbols(file: &Path) -> BTreeSet<String> {
    let bytes = fs::read(file).unwrap();
    let archive = ArchiveFile::parse(&*bytes).unwrap();
    let mut all = BTreeSet::new();
    for member in archive.members() {
        let member = member.unwrap();
        if member.name().ends_with(b".o") {
            all.extend(symbols(member.data(&*bytes).unwrap()));
        }
    }
    all
}

/// The names in an object file or program: what it defines and what it refers to.
fn symbols(bytes: &[u8]) -> BTreeSet<String> {
    let file = object::File::parse(bytes).unwrap();
    file.symbols()
        .filter_map(|symbol| symbol.name().ok())
        // `<T>::f` of the newer mangling reads like `T::f` of the older one.
        .map(|name| format!("{:#}", demangle(name)).replace(['<', '>'], ""))
        .collect()
}

fn private(symbols: &BTreeSet<String>) -> Vec<&String> {
    symbols
        .iter()
        .filter(|symbol| PRIVATE.iter().any(|name| symbol.contains(name)))
        .collect()
}

fn contains(symbols: &BTreeSet<String>, name: &str) -> bool {
    symbols.iter().any(|symbol| symbol.contains(name))
}

/// Whether a C function is there; `aws-lc-sys` puts a prefix with its version before each.
fn has_c(symbols: &BTreeSet<String>, name: &str) -> bool {
    symbols.iter().any(|symbol| {
        symbol
            .strip_prefix("aws_lc_")
            .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_'))
            == Some(name)
    })
}

fn check(name: &str, feature: &str, source: &Path) -> Output {
    run("check", name, feature, source, &[])
}

/// Runs cargo on a package of one file that depends on taskseal with one feature: a package of its own, since this
/// package's development dependencies would bring features of theirs.
fn run(command: &str, name: &str, feature: &str, source: &Path, arguments: &[&str]) -> Output {
    // One at a time: cargo would make the others wait anyway.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let package = directory().join(name);
    fs::create_dir_all(&package).unwrap();
    let manifest = format!(
        "[package]\nname = \"{}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [[bin]]\nname = \"program\"\npath = {:?}\n\n\
         [dependencies]\n\
         taskseal = {{ path = {:?}, default-features = false, features = [\"{feature}\"] }}\n\n\
         [workspace]\n",
        name.to_lowercase(),
        source,
        root(),
    );
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    // The versions that this workspace is tested with.
    fs::copy(root().join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    cargo([command, "--offline", "--quiet"])
        .args(arguments)
        .arg("--manifest-path")
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(directory().join("target"))
        .output()
        .unwrap()
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    // What the outer cargo tells its test programs about itself is not for the inner one.
    for (name, _) in std::env::vars_os() {
        let own = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
        });
        if own {
            command.env_remove(name);
        }
    }
    command
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn directory() -> PathBuf {
    root().join("target/no-private-keys")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
