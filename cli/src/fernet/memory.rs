//! Fernet keys in memory: from files and variables, and new ones.

use std::io::Write as _;
use std::path::Path;

use taskseal::fernet::body::keys_from_env;
use taskseal::fernet::software::SoftwareKeys;
use taskseal::{ErrorClass, Fernet, MultiFernet};
#[cfg(feature = "pkcs11")]
use zeroize::Zeroizing;

#[cfg(feature = "pkcs11")]
use crate::args::source::FernetSource;
use crate::failure::Failure;
use crate::secret::{self, Secret};

/// The keys of the usual variables.
pub(super) fn usual() -> Result<MultiFernet, Failure> {
    keys_from_env().map_err(|error| {
        Failure::from(error)
            .hint("name the key with --key FILE or --key env:NAME; `taskseal fernet key generate` makes one")
    })
}

pub(super) fn from_variable(name: &str) -> Result<Fernet, Failure> {
    key(&variable(name)?, &format!("the variable {name}"))
}

/// One key on each line; empty lines and those that begin with # are none.
pub(super) fn from_file(path: &Path) -> Result<Vec<Fernet>, Failure> {
    let text = secret::whole_file("key", path)?;
    let keys = text
        .lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| key(line, &format!("line {} of {}", at + 1, path.display())))
        .collect::<Result<Vec<_>, _>>()?;
    match keys.is_empty() {
        true => Err(Failure::permanent(
            "key",
            format!("there is no key in {}", path.display()),
        )),
        false => Ok(keys),
    }
}

fn key(text: &str, place: &str) -> Result<Fernet, Failure> {
    parse(text, place).map(Fernet::new)
}

fn parse(text: &str, place: &str) -> Result<SoftwareKeys, Failure> {
    SoftwareKeys::from_text(text).map_err(|_| {
        let text = format!(
            "{place} holds no Fernet key: 32 bytes in base64url with padding, 44 characters"
        );
        Failure::new("key", ErrorClass::Permanent, text)
    })
}

fn variable(name: &str) -> Result<Secret, Failure> {
    secret::from_env(name)?.ok_or_else(|| {
        Failure::permanent("key", format!("the variable {name} is not set or empty"))
    })
}

/// Makes a key and prints it, or writes it to a new file that only its owner can read.
pub(super) fn generate(out: Option<&Path>) -> Result<(), Failure> {
    let keys = SoftwareKeys::generate()?;
    let Some(path) = out else {
        let mut out = std::io::stdout().lock();
        out.write_all(keys.expose_text().as_bytes())?;
        return Ok(out.write_all(b"\n")?);
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .and_then(|mut file| writeln!(file, "{}", keys.expose_text()))
        .map_err(|error| Failure::file("write", path, &error))
}

/// The bytes of the one key that a source has, to put them into a token.
#[cfg(feature = "pkcs11")]
pub(super) fn bytes_of(source: &FernetSource) -> Result<Zeroizing<[u8; 32]>, Failure> {
    let (text, place) = match source {
        FernetSource::Variable(name) => (variable(name)?, format!("the variable {name}")),
        FernetSource::File(path) => (secret::whole_file("key", path)?, path.display().to_string()),
        FernetSource::Token(_) => {
            let text = "a key cannot be taken out of a token, so none is imported from one";
            return Err(Failure::permanent("usage", text));
        }
        FernetSource::KeyItself => return Err(Failure::key_itself()),
    };
    let keys = parse(text.trim(), &place)?;
    Ok(Zeroizing::new(keys.expose_bytes()))
}
