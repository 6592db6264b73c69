//! `taskseal fernet`, and where its keys come from.

#[cfg(feature = "software")]
mod memory;
#[cfg(not(feature = "software"))]
#[path = "fernet/no_memory.rs"]
mod memory;
#[cfg(feature = "pkcs11")]
mod token;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
#[cfg(feature = "pkcs11")]
use taskseal::pkcs11::Uri;
use taskseal::{ErrorClass, Fernet, MultiFernet};

use crate::args::Global;
#[cfg(feature = "pkcs11")]
use crate::args::fernet::GenerateArgs;
use crate::args::fernet::{
    DecryptArgs, EncryptArgs, FernetArgs, FernetCommand, FernetKeyCommand, RotateArgs,
};
use crate::failure::Failure;
use crate::{input, keys, output};

/// Where Fernet keys are. The key itself is never an argument: other processes can read the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    Variable(String),
    File(PathBuf),
    /// Two keys on a token.
    #[cfg(feature = "pkcs11")]
    Token(Box<Uri>),
    /// A key on the command line, which is refused.
    KeyItself,
}

impl FromStr for KeySource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("env:") {
            return match name {
                "" => Err("env: needs the name of a variable".to_owned()),
                name => Ok(Self::Variable(name.to_owned())),
            };
        }
        if keys::is_uri(text) {
            return Self::token(text);
        }
        match text {
            "" => Err("it is empty".to_owned()),
            // The parser's own error would quote it.
            text if is_key(text) => Ok(Self::KeyItself),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// Whether a text has the form of a key, in either alphabet and with or without its quotes, which no file should have as its name.
fn is_key(text: &str) -> bool {
    let text = taskseal::secret::fernet_key(text.as_bytes()).unwrap_or_default();
    let digits = text.trim_end_matches('=');
    digits.len() == 43
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}

impl KeySource {
    #[cfg(feature = "pkcs11")]
    fn token(text: &str) -> Result<Self, String> {
        keys::token_uri(text).map(Self::Token)
    }

    #[cfg(not(feature = "pkcs11"))]
    fn token(_: &str) -> Result<Self, String> {
        Err(keys::NO_TOKENS.to_owned())
    }

    fn open(&self) -> Result<Vec<Fernet>, Failure> {
        match self {
            Self::Variable(name) => Ok(vec![memory::from_variable(name)?]),
            Self::File(path) => memory::from_file(path),
            #[cfg(feature = "pkcs11")]
            Self::Token(uri) => {
                let module = std::env::var_os("TASKSEAL_MODULE").map(PathBuf::from);
                let keys = crate::token::builder(uri, module.as_deref()).open_fernet_keys()?;
                Ok(vec![Fernet::new(keys)])
            }
            Self::KeyItself => Err(key_itself()),
        }
    }
}

/// The keys of all sources in their order; those of the usual variables when none is named.
pub(crate) fn open_keys(sources: &[KeySource]) -> Result<MultiFernet, Failure> {
    let mut keys = Vec::new();
    for source in sources {
        keys.extend(source.open()?);
    }
    let mut keys = keys.into_iter();
    match keys.next() {
        Some(first) => Ok(MultiFernet::new(first, keys)),
        None => memory::usual(),
    }
}

fn key_itself() -> Failure {
    let text =
        "a key itself was named, which everybody on this machine could read in the process list";
    Failure::new("key", ErrorClass::Credential, text)
        .hint("make a new one, and name its file or env:NAME")
}

/// What was made.
#[derive(Serialize)]
struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    bytes: usize,
}

pub(crate) fn run(args: &FernetArgs, global: Global) -> Result<(), Failure> {
    match &args.command {
        FernetCommand::Encrypt(args) => encrypt(args, global),
        FernetCommand::Decrypt(args) => decrypt(args, global),
        FernetCommand::Rotate(args) => rotate(args, global),
        FernetCommand::Key(args) => match &args.command {
            #[cfg(feature = "pkcs11")]
            FernetKeyCommand::Generate(GenerateArgs {
                key: Some(uri),
                module,
                ..
            }) => token::generate(uri, module.as_deref(), global),
            FernetKeyCommand::Generate(args) => memory::generate(args.out.as_deref()),
            #[cfg(feature = "pkcs11")]
            FernetKeyCommand::Import(args) => token::import(args, global),
            #[cfg(feature = "pkcs11")]
            FernetKeyCommand::List(args) => token::list(args, global),
        },
    }
}

fn encrypt(args: &EncryptArgs, global: Global) -> Result<(), Failure> {
    // The keys first: a mistake in them is told before anything is read from a terminal.
    let keys = open_keys(&args.keys.key)?;
    let data = input::message(args.file.as_deref(), args.keys.max_size)?;
    let token = keys.encrypt(&data)?;
    write(token.as_bytes(), true)?;
    report(None, token.len(), global)
}

fn decrypt(args: &DecryptArgs, global: Global) -> Result<(), Failure> {
    let keys = open_keys(&args.keys.key)?;
    let token = input::envelope(args.file.as_deref(), args.keys.max_size)?;
    let data = keys.decrypt(&token, args.ttl)?;
    write(&data, data.last() != Some(&b'\n'))?;
    report(None, data.len(), global)
}

/// How many tokens are rotated before any of them is written.
const AT_ONCE: usize = 1000;

fn rotate(args: &RotateArgs, global: Global) -> Result<(), Failure> {
    let keys = open_keys(&args.keys.key)?;
    let tokens = input::message(args.file.as_deref(), args.keys.max_size)?;
    let mut lines = tokens
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .zip(1..)
        .filter(|(line, _)| !line.is_empty());
    let (mut count, mut bytes) = (0, 0);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let (some, numbers): (Vec<&[u8]>, Vec<usize>) = lines.by_ref().take(AT_ONCE).unzip();
        if some.is_empty() {
            break;
        }
        for (rotated, number) in keys.rotate_all(&some)?.into_iter().zip(numbers) {
            let rotated = match rotated {
                Ok(rotated) => rotated,
                Err(error) => {
                    // What came before it stays rotated.
                    out.flush()?;
                    return Err(Failure::from(error).on(Path::new(&format!("line {number}"))));
                }
            };
            out.write_all(rotated.as_bytes())?;
            out.write_all(b"\n")?;
            count += 1;
            bytes += rotated.len();
        }
        out.flush()?;
    }
    report(Some(count), bytes, global)
}

fn write(bytes: &[u8], newline: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    if newline && output::stdout_is_terminal() {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn report(tokens: Option<usize>, bytes: usize, global: Global) -> Result<(), Failure> {
    if global.json {
        output::json_line(&mut std::io::stderr().lock(), &Facts { tokens, bytes })?;
    }
    Ok(())
}
