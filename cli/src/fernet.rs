//! `taskseal fernet`, and where its keys come from.

#[cfg(feature = "software")]
mod memory;
#[cfg(not(feature = "software"))]
#[path = "fernet/no_memory.rs"]
mod memory;
#[cfg(feature = "pkcs11")]
mod token;

use std::io::Write as _;
use std::path::Path;
#[cfg(feature = "pkcs11")]
use std::path::PathBuf;

use serde::Serialize;
use taskseal::{Fernet, MultiFernet};

use crate::args::Global;
#[cfg(feature = "pkcs11")]
use crate::args::fernet::GenerateArgs;
use crate::args::fernet::{
    DecryptArgs, EncryptArgs, FernetArgs, FernetCommand, FernetKeyCommand, RotateArgs,
};
use crate::args::source::FernetSource;
use crate::failure::Failure;
use crate::{input, output};

impl FernetSource {
    fn open(&self) -> Result<Vec<Fernet>, Failure> {
        match self {
            Self::Variable(name) => Ok(vec![memory::from_variable(name)?]),
            Self::File(path) => memory::from_file(path),
            #[cfg(feature = "pkcs11")]
            Self::Token(uri) => {
                let module = std::env::var_os("TASKSEAL_MODULE").map(PathBuf::from);
                let keys = crate::keys::builder(uri, module.as_deref()).open_fernet_keys()?;
                Ok(vec![Fernet::new(keys)])
            }
            Self::KeyItself => Err(Failure::key_itself()),
        }
    }
}

/// The keys of all sources in their order; those of the usual variables when none is named.
pub(crate) fn open_keys(sources: &[FernetSource]) -> Result<MultiFernet, Failure> {
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
