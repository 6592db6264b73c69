//! The command line of `taskseal fernet`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use taskseal::Policy;
#[cfg(feature = "pkcs11")]
use taskseal::pkcs11::Uri;

use crate::args::source::FernetSource;
#[cfg(feature = "pkcs11")]
use crate::args::token::TokenKeyOptions;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct FernetArgs {
    #[command(subcommand)]
    pub(crate) command: FernetCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FernetCommand {
    /// Encrypt bytes into a Fernet token
    Encrypt(EncryptArgs),
    /// Decrypt a Fernet token
    Decrypt(DecryptArgs),
    /// Encrypt tokens anew with the first key, keeping their time
    Rotate(RotateArgs),
    /// Make keys
    Key(FernetKeyArgs),
}

/// Which keys.
#[derive(Debug, Args)]
pub(crate) struct FernetKeyOptions {
    /// Where the keys are: a file with a key on each line, env:NAME, or the URI of two keys in a token; repeatable, the
    /// first key encrypts and all decrypt
    /// [default: the variables KOMBU_FERNET_KEY and KOMBU_FERNET_KEY_PREVIOUS]
    #[arg(long, value_name = "FILE|env:NAME|URI")]
    pub(crate) key: Vec<FernetSource>,
    /// Longest input, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Policy::MAX_MESSAGE_LEN)]
    pub(crate) max_size: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal fernet encrypt --key fernet.key message.json > token
  KOMBU_FERNET_KEY=… taskseal fernet encrypt < message.json

The token goes to stdout, with a newline after it only when stdout is a terminal.")]
pub(crate) struct EncryptArgs {
    #[command(flatten)]
    pub(crate) keys: FernetKeyOptions,
    /// What is encrypted; \"-\" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal fernet decrypt --key new.key --key old.key --ttl 3600 token > message.json
  redis-cli LINDEX celery 0 | taskseal fernet decrypt --key env:MY_KEY

A token that is refused gives no output, a reason on stderr and exit code 1. Why it was refused is not said: it was changed, \
made with another key, or is out of its time. One newline after a token is ignored.")]
pub(crate) struct DecryptArgs {
    #[command(flatten)]
    pub(crate) keys: FernetKeyOptions,
    /// Refuse tokens that are older, or from more than a minute in the future [default: any age]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) ttl: Option<Duration>,
    /// The token; \"-\" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal fernet rotate --key new.key --key old.key tokens.txt > rotated.txt

Reads one token on each line and writes one on each line. The first token that is refused ends it, and says which line it \
was.")]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) keys: FernetKeyOptions,
    /// The tokens; \"-\" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct FernetKeyArgs {
    #[command(subcommand)]
    pub(crate) command: FernetKeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum FernetKeyCommand {
    /// Generate keys in a token, or one in memory that is printed or written to a file
    Generate(GenerateArgs),
    /// Put an existing key into a token
    #[cfg(feature = "pkcs11")]
    Import(ImportArgs),
    /// List the secret keys of a token
    #[cfg(feature = "pkcs11")]
    List(TokenKeyOptions),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal fernet key generate --out fernet.key      # readable for you alone
  export KOMBU_FERNET_KEY=$(taskseal fernet key generate)
  taskseal fernet key generate --key 'pkcs11:token=prod;object=queue?module-name=softhsm2'

Whoever has the key reads everything that is encrypted with it, and can make more of it. In a token it is two keys that \
cannot be read, a generic secret and an AES key, with one label and ids of their own.")]
pub(crate) struct GenerateArgs {
    /// The token, and the label of its two new keys, as a PKCS#11 URI (RFC 7512); without it a key is made in memory
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "URI", value_parser = crate::args::source::token_uri, conflicts_with = "out")]
    pub(crate) key: Option<Box<Uri>>,
    /// PKCS#11 module (shared library), where the URI has no module-path
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "PATH", env = "TASKSEAL_MODULE")]
    pub(crate) module: Option<PathBuf>,
    /// New file to write, instead of stdout; one that is there is left alone
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[cfg(feature = "pkcs11")]
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal fernet key import --key 'pkcs11:token=prod;object=queue' fernet.key
  taskseal fernet key import --key 'pkcs11:token=prod;object=queue' env:KOMBU_FERNET_KEY

Afterwards the token makes the very same Fernet tokens. Whoever had the key before still has it.")]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) key: TokenKeyOptions,
    /// The Fernet key: a file, or env:NAME
    #[arg(value_name = "FILE|env:NAME")]
    pub(crate) from: FernetSource,
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}
