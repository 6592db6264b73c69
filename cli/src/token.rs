//! `taskseal token`.

use serde::Serialize;
use taskseal::pkcs11::{TokenInfo, init_token, list_tokens};

use crate::args::Global;
use crate::args::token::{TokenArgs, TokenCommand, TokenInitArgs, TokenListArgs};
use crate::failure::Failure;
use crate::output::{self, Cell, Table, style};
use crate::pin;

pub(crate) fn run(args: &TokenArgs, global: Global) -> Result<(), Failure> {
    match &args.command {
        TokenCommand::List(args) => list(args, global),
        TokenCommand::Init(args) => init(args, global),
    }
}

/// What is printed of a token.
#[derive(Serialize)]
struct Facts<'a> {
    slot_id: u64,
    label: &'a str,
    serial: &'a str,
    manufacturer: &'a str,
    model: &'a str,
    initialized: bool,
    user_pin_initialized: bool,
    login_required: bool,
    pin_pad: bool,
    user_pin_final_try: bool,
    user_pin_locked: bool,
    firmware: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

impl<'a> Facts<'a> {
    fn new(token: &'a TokenInfo) -> Self {
        let flags = &token.flags;
        Self {
            slot_id: token.slot_id,
            label: &token.label,
            serial: &token.serial,
            manufacturer: &token.manufacturer,
            model: &token.model,
            initialized: flags.initialized,
            user_pin_initialized: flags.user_pin_initialized,
            login_required: flags.login_required,
            pin_pad: flags.protected_authentication_path,
            user_pin_final_try: flags.user_pin_final_try,
            user_pin_locked: flags.user_pin_locked,
            firmware: format!("{}.{}", token.firmware.0, token.firmware.1),
            unreadable: token.unreadable.as_deref(),
            uri: flags.initialized.then(|| uri_of(token)),
        }
    }
}

fn list(args: &TokenListArgs, global: Global) -> Result<(), Failure> {
    let tokens = list_tokens(&args.module.path)?;
    if global.json {
        let facts: Vec<Facts<'_>> = tokens.iter().map(Facts::new).collect();
        return Ok(output::json(&facts)?);
    }
    let mut table = Table::new(&["SLOT", "LABEL", "SERIAL", "MANUFACTURER", "MODEL", "STATE"]);
    for token in &tokens {
        let plain = |text: &str| (output::escaped(text), style::PLAIN);
        table.row([
            plain(&token.slot_id.to_string()),
            plain(dash(&token.label)),
            plain(dash(&token.serial)),
            plain(dash(&token.manufacturer)),
            plain(dash(&token.model)),
            state(token),
        ]);
    }
    Ok(table.print(&mut anstream::stdout().lock())?)
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// The first thing that somebody who wants to use the token has to know.
fn state(token: &TokenInfo) -> Cell {
    let flags = &token.flags;
    let (text, style) = if let Some(reason) = &token.unreadable {
        return (
            format!("cannot be read: {}", output::escaped(reason)),
            style::BAD,
        );
    } else if flags.error_state {
        ("in error state", style::BAD)
    } else if !flags.initialized {
        ("blank", style::DIM)
    } else if flags.user_pin_locked {
        ("PIN locked", style::BAD)
    } else if flags.user_pin_final_try {
        ("one PIN try left", style::BAD)
    } else if flags.user_pin_count_low {
        ("the last PIN was wrong", style::WARNING)
    } else if !flags.user_pin_initialized && flags.login_required {
        ("no user PIN set", style::WARNING)
    } else {
        ("ready", style::GOOD)
    };
    (text.to_owned(), style)
}

fn init(args: &TokenInitArgs, global: Global) -> Result<(), Failure> {
    let so = args.so_pin_file.as_deref();
    let so_pin = pin::new_pin(
        "security officer's PIN",
        so,
        "TASKSEAL_SO_PIN",
        "--so-pin-file",
    )?;
    let user = args.pin_file.as_deref();
    let user_pin = pin::new_pin("user PIN", user, "TASKSEAL_PIN", "--pin-file")?;
    let token = init_token(&args.module.path, &args.label, &so_pin, &user_pin)?;
    if global.json {
        return Ok(output::json(&Facts::new(&token))?);
    }
    Ok(output::facts(
        &mut anstream::stdout().lock(),
        &[
            ("token", output::escaped(&token.label)),
            ("serial", output::escaped(&token.serial)),
            ("uri", uri_of(&token)),
        ],
    )?)
}

/// The URI by which the token is found again: label and serial number, which do not change.
fn uri_of(token: &TokenInfo) -> String {
    let mut uri = format!("pkcs11:token={}", percent_encoded(&token.label));
    if !token.serial.is_empty() {
        uri.push_str(";serial=");
        uri.push_str(&percent_encoded(&token.serial));
    }
    uri
}

/// A value of a PKCS#11 URI (RFC 7512): everything but the unreserved characters escaped.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
