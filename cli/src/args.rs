//! The command line.

pub(crate) mod fernet;
pub(crate) mod message;
pub(crate) mod source;
#[cfg(feature = "pkcs11")]
pub(crate) mod token;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use taskseal::pss::{Digest, Salt};
use taskseal::{Format, Policy};

use crate::args::source::KeySource;

/// Options of whole messages. What is about the bodies of tasks is refused beside them.
const WHOLE: [&str; 2] = ["message", "encrypt_key"];

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Sign, seal and open task messages (Celery's `auth` wire format) with RSA keys that stay in the token.
#[derive(Debug, Parser)]
#[command(
    name = "taskseal",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    styles = STYLES,
    max_term_width = 110,
    after_help = "\
Examples:
  taskseal demo
  taskseal seal --key 'pkcs11:token=prod;object=worker' --cert worker.pem task.json > task.sealed
  taskseal open --store /etc/taskseal/trusted task.sealed > task.json

Exit codes: 0 done, 1 refused or failed, 2 wrong usage."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Global {
    /// Print facts and errors as JSON
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Say more on stderr: -v what happens, -vv each step
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
    /// Colour the output [NO_COLOR is honoured]
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options"
    )]
    color: ColorWhen,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ColorWhen {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign a message body and pack it into an envelope
    Seal(SealArgs),
    /// Verify an envelope and print its body
    Open(OpenArgs),
    /// Show the parts of an envelope, verifying nothing
    Inspect(InspectArgs),
    /// Encrypt and decrypt with Fernet keys, or make one
    Fernet(fernet::FernetArgs),
    /// List tokens, or make one
    #[cfg(feature = "pkcs11")]
    Token(token::TokenArgs),
    /// Generate a key in a token, or list its keys
    #[cfg(feature = "pkcs11")]
    Key(token::KeyArgs),
    /// Make a certificate or a request for a key, or import a certificate into a token
    Cert(CertArgs),
    /// Check the certificates that messages are opened with
    Store(StoreArgs),
    /// Examine a token, its key and its certificate, and say what is wrong
    #[cfg(feature = "pkcs11")]
    Doctor(token::DoctorArgs),
    /// Measure how many signatures a token makes per second
    #[cfg(feature = "pkcs11")]
    Bench(token::BenchArgs),
    /// Show the whole way of a message on a throw-away SoftHSM token
    #[cfg(feature = "pkcs11")]
    Demo(token::DemoArgs),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal seal --key 'pkcs11:token=prod;object=worker' --cert worker.pem task.json > task.sealed
  echo '[[1, 2], {}, {}]' | taskseal seal --key worker.key --cert worker.pem
  taskseal seal --key worker.key --cert worker.pem --format celery-5.4 task.json
  taskseal seal --key worker.key --cert worker.pem --encrypt-key fernet.key --queue celery message.json

The body is sealed as it is; nothing is added to it or taken from it. The wire form goes to stdout, with a newline \
after it only when stdout is a terminal. It travels under the outer content type application/data. \
With --message or --encrypt-key the input is a whole message, and the wire form stands in its place.")]
pub(crate) struct SealArgs {
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    #[command(flatten)]
    pub(crate) message: message::SealMessageOptions,
    /// Certificate of the key (PEM or DER); may be left out when the token holds it
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Format of the envelope
    #[arg(long, value_name = "FORMAT", default_value = "celery", value_parser = format_parser())]
    pub(crate) format: Format,
    /// What the body is; not covered by the signature
    #[arg(long, value_name = "TYPE", default_value = "application/json", conflicts_with_all = WHOLE)]
    pub(crate) content_type: String,
    /// How the body's characters are encoded; "binary" for bytes
    #[arg(long, value_name = "ENCODING", default_value = "utf-8", conflicts_with_all = WHOLE)]
    pub(crate) content_encoding: String,
    /// Digest of the signature
    #[arg(long, value_name = "DIGEST", default_value = "sha256", value_parser = digest_parser())]
    pub(crate) digest: Digest,
    /// Salt of the signature: as long as the digest, or as the key allows [default: digest; max for celery-5.4]
    #[arg(long, value_name = "LENGTH", hide_default_value = true, value_parser = salt_parser())]
    pub(crate) salt: Option<Salt>,
    /// Longest wire form that is made, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Policy::MAX_MESSAGE_LEN)]
    pub(crate) max_size: usize,
    /// The body; "-" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal open --store /etc/taskseal/trusted task.sealed > task.json
  taskseal open --store '/etc/taskseal/trusted/*.pem' --json < task.sealed
  taskseal open --store worker.pem --accept application/x-yaml --format auto task.sealed
  taskseal open --store worker.pem --encrypt-key fernet.key --queue celery message.sealed

The body goes to stdout as it was signed (with a newline after it only on a terminal), and who signed it to stderr. A message that is refused gives no body, a \
reason on stderr and exit code 1. One newline after a text envelope is ignored.")]
pub(crate) struct OpenArgs {
    #[command(flatten)]
    pub(crate) message: message::OpenMessageOptions,
    /// Trusted certificates: a directory, a file or a pattern such as '/etc/taskseal/trusted/*.pem'
    #[arg(long, value_name = "PATH")]
    pub(crate) store: PathBuf,
    /// Format that is accepted, repeatable; "auto" for all of them
    #[arg(long, value_name = "FORMAT", default_value = "celery", value_parser = formats_parser())]
    pub(crate) format: Vec<FormatChoice>,
    /// Inner content type that is accepted, repeatable, instead of application/json
    #[arg(long, value_name = "TYPE", default_value = "application/json", conflicts_with_all = WHOLE)]
    pub(crate) accept: Vec<String>,
    /// Digest that the signer uses; an envelope does not name it
    #[arg(long, value_name = "DIGEST", default_value = "sha256", value_parser = digest_parser())]
    pub(crate) digest: Digest,
    /// How far this machine's clock and those of signers may be apart
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub(crate) clock_skew: Duration,
    /// Longest message that is read, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Policy::MAX_MESSAGE_LEN)]
    pub(crate) max_size: usize,
    /// The content type that the message came under; anything but application/data is refused
    #[arg(long, value_name = "TYPE", conflicts_with_all = WHOLE)]
    pub(crate) outer_content_type: Option<String>,
    /// Leave expired certificates out of the store, instead of refusing to load it
    #[arg(long)]
    pub(crate) skip_expired: bool,
    /// Critical extension of a signer's certificate that is ignored although it is not understood, repeatable
    #[arg(long, value_name = "OID")]
    pub(crate) dangerous_ignore_critical: Vec<String>,
    /// The envelope; "-" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal inspect task.sealed
  taskseal inspect --json < task.sealed

Nothing is verified: whoever wrote the envelope may have put anything into it. Use `taskseal open` for what you mean to \
believe.")]
pub(crate) struct InspectArgs {
    /// Format of the envelope; "auto" tells it from the bytes
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = formats_parser())]
    pub(crate) format: FormatChoice,
    /// Longest message that is read, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Policy::MAX_MESSAGE_LEN)]
    pub(crate) max_size: usize,
    /// Show the whole body, not just its beginning
    #[arg(long)]
    pub(crate) full: bool,
    /// The envelope; "-" or nothing for stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    pub(crate) command: CertCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a certificate for a key, signed by that key
    SelfSign(SelfSignArgs),
    /// Make a certificate request (PKCS#10) for a key, signed by that key
    Request(RequestArgs),
    /// Put a certificate next to its key in the token
    #[cfg(feature = "pkcs11")]
    Import(token::ImportArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal cert self-sign --key 'pkcs11:token=prod;object=worker' --subject CN=worker-7,O=Example \\
      --days 365 --out worker.pem
  taskseal cert self-sign --key worker.key --subject 'CN=worker-7,O=Example' --days 30 > worker.pem

A subject is written as in RFC 4514, the last part of the name first, so the signer id of the certificates above begins \
with \"Example worker-7\". Parts are separated by ',' alone. \"\\\" stands before \" #+,;<=>\\ where they are part of a value.")]
pub(crate) struct SelfSignArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectOptions,
    /// How many days it is valid from now; it begins five minutes ago, for clocks that are behind
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) days: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal cert request --key 'pkcs11:token=prod;object=worker' --subject 'CN=worker-7,O=Example' \\
      --out worker.csr
  taskseal cert request --key worker.key --subject 'CN=worker-7,O=Example' > worker.csr")]
pub(crate) struct RequestArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectOptions,
}

/// What is made, of which key, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct SubjectOptions {
    #[command(flatten)]
    pub(crate) key: KeyOptions,
    /// Name of the owner (RFC 4514), for example 'CN=worker-7,O=Example'
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: String,
    /// Digest of the signature
    #[arg(long, value_name = "DIGEST", default_value = "sha256", value_parser = digest_parser())]
    pub(crate) digest: Digest,
    /// File to write, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Overwrite the file if it is there
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
}

/// Which private key.
#[derive(Debug, Args)]
pub(crate) struct KeyOptions {
    /// The private key: a PKCS#11 URI (RFC 7512) such as 'pkcs11:token=prod;object=worker', or a PEM file
    #[arg(long, value_name = "URI|PEM")]
    pub(crate) key: KeySource,
    /// PKCS#11 module (shared library), where the URI has no module-path
    #[cfg(feature = "pkcs11")]
    #[arg(long, value_name = "PATH", env = "TASKSEAL_MODULE")]
    pub(crate) module: Option<PathBuf>,
    /// File whose first line is the PEM key's password [or the variable TASKSEAL_KEY_PASSWORD, or a prompt]
    #[cfg(feature = "software")]
    #[arg(long, value_name = "FILE")]
    pub(crate) key_password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    pub(crate) command: StoreCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// List each certificate, what it counts as, and what is wrong with it
    Check(StoreCheckArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal store check /etc/taskseal/trusted
  taskseal store check --json '/etc/taskseal/trusted/*.pem'
  taskseal store check --warn-days 60 worker.pem

Of a file with a leaf and its chain the leaf alone counts as a signer's.

Exit code 1 when any signer's certificate has expired or cannot be used: messages of its signer would be refused, or the whole \
store would be.")]
pub(crate) struct StoreCheckArgs {
    /// Warn when a certificate ends within so many days
    #[arg(long, value_name = "N", default_value = "30")]
    pub(crate) warn_days: u32,
    /// Critical extension that is ignored although it is not understood, repeatable
    #[arg(long, value_name = "OID")]
    pub(crate) dangerous_ignore_critical: Vec<String>,
    /// A directory, a file or a pattern such as '/etc/taskseal/trusted/*.pem'
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskseal completions bash > /etc/bash_completion.d/taskseal
  taskseal completions zsh > \"${fpath[1]}/_taskseal\"")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// A format by name, or any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FormatChoice {
    Auto,
    One(Format),
}

const FORMATS: [&str; 4] = ["celery", "celery-raw", "celery-5.4", "auto"];

fn format_parser() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::as_str)).try_map(|name| name.parse())
}

fn formats_parser() -> impl TypedValueParser<Value = FormatChoice> {
    PossibleValuesParser::new(FORMATS).try_map(|name| match name.as_str() {
        "auto" => Ok(FormatChoice::Auto),
        name => name.parse().map(FormatChoice::One),
    })
}

fn digest_parser() -> impl TypedValueParser<Value = Digest> {
    PossibleValuesParser::new(["sha256", "sha384", "sha512"]).try_map(|name| name.parse())
}

fn salt_parser() -> impl TypedValueParser<Value = Salt> {
    PossibleValuesParser::new(Salt::ALL.map(Salt::as_str)).try_map(|name| name.parse())
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(Duration::from_secs)
}
