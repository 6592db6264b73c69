//! The command line of what needs a token.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the tokens of a PKCS#11 module
    List(TokenListArgs),
    /// Initialise the first blank token of a PKCS#11 module
    Init(TokenInitArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal token list --module /usr/lib/softhsm/libsofthsm2.so
  TASKSEAL_MODULE=/usr/lib/softhsm/libsofthsm2.so taskseal token list --json")]
pub(crate) struct TokenListArgs {
    #[command(flatten)]
    pub(crate) module: ModuleOption,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal token init --module /usr/lib/softhsm/libsofthsm2.so --label prod
  taskseal token init --module … --label prod --so-pin-file so.pin --pin-file user.pin

Only a blank token is initialised; one that holds keys is left alone. The PINs come from the files, else from the \
variables TASKSEAL_SO_PIN_FILE, TASKSEAL_SO_PIN, TASKSEAL_PIN_FILE and TASKSEAL_PIN, else from a prompt.")]
pub(crate) struct TokenInitArgs {
    #[command(flatten)]
    pub(crate) module: ModuleOption,
    /// Label of the new token, at most 32 bytes
    #[arg(long, value_name = "LABEL")]
    pub(crate) label: String,
    /// File whose first line is the security officer's PIN
    #[arg(long, value_name = "FILE", env = "TASKSEAL_SO_PIN_FILE")]
    pub(crate) so_pin_file: Option<PathBuf>,
    /// File whose first line is the user's PIN
    #[arg(long, value_name = "FILE", env = "TASKSEAL_PIN_FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Generate an RSA key pair in a token, not extractable
    Generate(KeyGenerateArgs),
    /// List the private keys of a token
    List(KeyListArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal key generate --key 'pkcs11:token=prod;object=worker?module-name=softhsm2'
  taskseal key generate --key 'pkcs11:token=prod;object=worker;id=%01' --bits 3072

The key's label is the URI's object, its id the URI's id, or else a random one. Its public half stays next to it.")]
pub(crate) struct KeyGenerateArgs {
    #[command(flatten)]
    pub(crate) key: TokenKeyOptions,
    /// Size of the key, in bits
    #[arg(long, value_name = "BITS", default_value = "2048", value_parser = bits_parser())]
    pub(crate) bits: usize,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal key list --key 'pkcs11:token=prod'
  taskseal key list --key 'pkcs11:token=prod;object=worker?pin-source=file:/run/secrets/pin' --json")]
pub(crate) struct KeyListArgs {
    #[command(flatten)]
    pub(crate) key: TokenKeyOptions,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal cert import --key 'pkcs11:token=prod;object=worker' worker.pem

The certificate is found again by its public key, so `taskseal seal` needs no --cert then.")]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    pub(crate) key: TokenKeyOptions,
    /// The certificate (PEM or DER)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal demo
  taskseal demo --encrypt                   # and what a broker can read of a task in each scope
  taskseal demo --keep /tmp/taskseal-demo   # says how to go on with the token afterwards

SoftHSM has to be installed (Debian and Ubuntu: apt-get install softhsm2). Nothing of this machine's own tokens is \
touched.")]
pub(crate) struct DemoArgs {
    /// Also seal one task in every scope, and show what of it can be read at the broker
    #[arg(long)]
    pub(crate) encrypt: bool,
    /// Put the token and all files into this new or empty directory and keep it
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// SoftHSM's PKCS#11 module, where it is in none of the usual places
    #[arg(long, value_name = "PATH")]
    pub(crate) module: Option<PathBuf>,
    /// The directory that the outer run of this command has made.
    #[arg(long, value_name = "DIR", hide = true)]
    pub(crate) inside: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal doctor 'pkcs11:token=prod;object=worker?module-name=softhsm2' --cert worker.pem
  taskseal doctor 'pkcs11:token=prod' --json

Looks at module, token, PIN, key, certificate and mechanisms, makes trial signatures and measures their speed. It makes \
at most one login, and none when the PIN is locked, has one try left, or cannot be judged.

Exit codes: 0 all is well, 1 something failed, 3 there are warnings.")]
pub(crate) struct DoctorArgs {
    /// Token and key as a PKCS#11 URI (RFC 7512)
    #[arg(value_name = "URI", value_parser = crate::args::source::token_uri)]
    pub(crate) uri: Box<taskseal::pkcs11::Uri>,
    /// PKCS#11 module (shared library), where the URI has no module-path
    #[arg(long, value_name = "PATH", env = "TASKSEAL_MODULE")]
    pub(crate) module: Option<PathBuf>,
    /// Certificate of the key (PEM or DER), where it is not on the token
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Digest of the trial signatures
    #[arg(long, value_name = "DIGEST", default_value = "sha256")]
    pub(crate) digest: taskseal::pss::Digest,
    /// Warn when the certificate ends within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) warn_days: i64,
    /// How long to measure the speed with each number of threads, in seconds; 0 for not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=600))]
    pub(crate) seconds: u64,
    /// Log in although the state of the PIN cannot be read; a wrong PIN may then lock the token
    #[arg(long)]
    pub(crate) login_unseen: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal bench --key 'pkcs11:token=prod;object=worker?module-name=softhsm2' --threads 4 --seconds 10

Each signature is of 200 bytes, and is verified before it counts, as in use.")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) key: TokenKeyOptions,
    /// How many threads sign at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    pub(crate) threads: u64,
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Digest of the signatures
    #[arg(long, value_name = "DIGEST", default_value = "sha256")]
    pub(crate) digest: taskseal::pss::Digest,
    /// Length of the salt
    #[arg(long, value_name = "SALT", default_value = "digest")]
    pub(crate) salt: taskseal::pss::Salt,
}

/// Which PKCS#11 module.
#[derive(Debug, Args)]
pub(crate) struct ModuleOption {
    /// PKCS#11 module (shared library)
    #[arg(long = "module", value_name = "PATH", env = "TASKSEAL_MODULE")]
    pub(crate) path: PathBuf,
}

/// Which token and key, PEM files left aside.
#[derive(Debug, Args)]
pub(crate) struct TokenKeyOptions {
    /// Token and key as a PKCS#11 URI (RFC 7512), for example 'pkcs11:token=prod;object=worker'
    #[arg(long = "key", value_name = "URI", value_parser = crate::args::source::token_uri)]
    pub(crate) uri: Box<taskseal::pkcs11::Uri>,
    /// PKCS#11 module (shared library), where the URI has no module-path
    #[arg(long, value_name = "PATH", env = "TASKSEAL_MODULE")]
    pub(crate) module: Option<PathBuf>,
}

fn bits_parser() -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::{PossibleValuesParser, TypedValueParser as _};
    PossibleValuesParser::new(["2048", "3072", "4096"]).try_map(|bits| bits.parse())
}
