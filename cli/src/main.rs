//! The `taskseal` command.

mod args;
#[cfg(feature = "pkcs11")]
mod bench;
mod cert;
#[cfg(feature = "pkcs11")]
mod demo;
#[cfg(feature = "pkcs11")]
mod doctor;
mod escape;
mod exit;
mod failure;
mod fernet;
mod input;
mod inspect;
mod json;
#[cfg(feature = "pkcs11")]
mod key;
mod keys;
mod message;
mod open;
mod output;
#[cfg(feature = "pkcs11")]
mod pin;
mod seal;
#[cfg(any(feature = "pkcs11", feature = "software"))]
mod secret;
mod store;
#[cfg(feature = "pkcs11")]
mod token;
mod unshown;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::{Cli, Command, Global};
use crate::failure::Failure;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let color = early_color(&arguments);
    color.write_global();
    let parsed = Cli::command()
        .color(to_clap(color))
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error, &arguments),
    };
    let global = cli.global;
    output::start_logging(global);
    match run(cli.command, global) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.report(global.json);
            ExitCode::from(exit::FAILED)
        }
    }
}

fn run(command: Command, global: Global) -> Result<u8, Failure> {
    match command {
        Command::Seal(args) => seal::run(&args, global),
        Command::Open(args) => open::run(&args, global),
        Command::Inspect(args) => inspect::run(&args, global),
        Command::Fernet(args) => fernet::run(&args, global),
        #[cfg(feature = "pkcs11")]
        Command::Token(args) => token::run(&args, global),
        #[cfg(feature = "pkcs11")]
        Command::Key(args) => key::run(&args, global),
        Command::Cert(args) => cert::run(&args, global),
        Command::Store(args) => store::run(&args, global),
        #[cfg(feature = "pkcs11")]
        Command::Doctor(args) => return doctor::run(&args, global),
        #[cfg(feature = "pkcs11")]
        Command::Bench(args) => bench::run(&args, global),
        #[cfg(feature = "pkcs11")]
        Command::Demo(args) => demo::run(&args, global),
        Command::Completions(args) => completions(args.shell),
    }?;
    Ok(exit::DONE)
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "taskseal", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}

/// `--help` and `--version` are answers; everything else is a mistake, told as JSON when JSON was asked for.
fn usage(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        // Nobody is left to tell when this fails.
        let _ = error.print();
        return ExitCode::from(exit::DONE);
    }
    if arguments.iter().any(|argument| argument == "--json") {
        Failure::usage(error).report(true);
    } else {
        let text = unshown::without_secrets(&error.render().ansi().to_string());
        let _ = write!(anstream::stderr(), "{text}");
    }
    ExitCode::from(exit::USAGE)
}

/// The value of `--color`, looked for by hand: the parser's own messages are coloured too.
fn early_color(arguments: &[OsString]) -> anstream::ColorChoice {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    let mut choice = None;
    while let Some(word) = words.next() {
        match word.strip_prefix("--color") {
            Some("") => choice = words.next(),
            Some(rest) => choice = rest.strip_prefix('=').or(choice),
            None if word == "--" => break,
            None => {}
        }
    }
    match choice {
        Some("always") => anstream::ColorChoice::Always,
        Some("never") => anstream::ColorChoice::Never,
        _ => anstream::ColorChoice::Auto,
    }
}

fn to_clap(color: anstream::ColorChoice) -> clap::ColorChoice {
    match color {
        anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi => {
            clap::ColorChoice::Always
        }
        anstream::ColorChoice::Never => clap::ColorChoice::Never,
        anstream::ColorChoice::Auto => clap::ColorChoice::Auto,
    }
}
