//! `taskseal key`.

use serde::Serialize;
use taskseal::pkcs11::{KeyInfo, NewKey, Uri, generate_key, list_keys};

use crate::args::Global;
use crate::args::token::{KeyArgs, KeyCommand, KeyGenerateArgs, KeyListArgs};
use crate::failure::Failure;
use crate::keys;
use crate::output::{self, Cell, Table, style};

pub(crate) fn run(args: &KeyArgs, global: Global) -> Result<(), Failure> {
    match &args.command {
        KeyCommand::Generate(args) => generate(args, global),
        KeyCommand::List(args) => list(args, global),
    }
}

/// What is printed of a key. `null` is what the token does not tell.
#[derive(Serialize)]
struct Facts<'a> {
    label: &'a str,
    id: String,
    bits: Option<usize>,
    rsa: Option<bool>,
    sensitive: Option<bool>,
    extractable: Option<bool>,
    always_sensitive: Option<bool>,
    never_extractable: Option<bool>,
    local: Option<bool>,
    sign: Option<bool>,
    certificates: usize,
}

impl<'a> Facts<'a> {
    fn new(key: &'a KeyInfo) -> Self {
        Self {
            label: &key.label,
            id: key.id_hex(),
            bits: key.bits(),
            rsa: key.is_rsa,
            sensitive: key.sensitive,
            extractable: key.extractable,
            always_sensitive: key.always_sensitive,
            never_extractable: key.never_extractable,
            local: key.local,
            sign: key.sign,
            certificates: key.certificates,
        }
    }
}

fn generate(args: &KeyGenerateArgs, global: Global) -> Result<(), Failure> {
    let uri = &args.key.uri;
    let label = uri.object().ok_or_else(|| {
        Failure::permanent("usage", "the URI does not say what the new key is called")
            .hint("add an object to it: 'pkcs11:token=…;object=LABEL'")
    })?;
    let new = NewKey {
        bits: args.bits,
        label: label.to_owned(),
        id: uri.id().map(<[u8]>::to_vec),
    };
    let builder = keys::builder(uri, args.key.module.as_deref());
    let key = generate_key(&builder, &new)?;
    if global.json {
        return Ok(output::json(&Facts::new(&key))?);
    }
    Ok(output::facts(&mut anstream::stdout().lock(), &facts(&key))?)
}

/// What the token says of a key that was just made, read back from it. It is sensitive and not extractable, or else
/// making it was an error.
pub(crate) fn facts(key: &KeyInfo) -> [(&'static str, String); 6] {
    let bits = key
        .bits()
        .map_or_else(|| "?".to_owned(), |bits| bits.to_string());
    [
        ("key", output::escaped(&key.label)),
        ("id", key.id_hex()),
        ("size", format!("RSA, {bits} bits")),
        ("made in token", yes_no(key.local).to_owned()),
        (
            "sensitive",
            format!("{} (its value cannot be read)", yes_no(key.sensitive)),
        ),
        (
            "extractable",
            format!(
                "{} (it cannot be wrapped and taken out)",
                yes_no(key.extractable)
            ),
        ),
    ]
}

fn list(args: &KeyListArgs, global: Global) -> Result<(), Failure> {
    let uri = &args.key.uri;
    let builder = keys::builder(uri, args.key.module.as_deref());
    let mut keys = list_keys(&builder)?;
    keys.retain(|key| is_meant(key, uri));
    if global.json {
        let facts: Vec<Facts<'_>> = keys.iter().map(Facts::new).collect();
        return Ok(output::json(&facts)?);
    }
    if keys.is_empty() {
        output::warn(global, "no such private key is on the token");
        return Ok(());
    }
    let mut table = Table::new(&[
        "LABEL",
        "ID",
        "KEY",
        "SENSITIVE",
        "EXTRACTABLE",
        "CERTIFICATE",
    ]);
    for key in &keys {
        table.row([
            (output::escaped(&key.label), style::PLAIN),
            (key.id_hex(), style::PLAIN),
            (kind(key), style::PLAIN),
            judged(key.sensitive, true),
            judged(key.extractable, false),
            (certificates(key.certificates), style::PLAIN),
        ]);
    }
    Ok(table.print(&mut anstream::stdout().lock())?)
}

fn is_meant(key: &KeyInfo, uri: &Uri) -> bool {
    uri.object().is_none_or(|label| label == key.label) && uri.id().is_none_or(|id| id == key.id)
}

fn kind(key: &KeyInfo) -> String {
    match (key.is_rsa, key.bits()) {
        (_, Some(bits)) => format!("RSA-{bits}"),
        (Some(false), None) => "not RSA".to_owned(),
        (_, None) => "RSA, size unknown".to_owned(),
    }
}

fn certificates(count: usize) -> String {
    match count {
        0 => "no".to_owned(),
        1 => "yes".to_owned(),
        more => format!("{more} of them"),
    }
}

/// Green for what a key has to be, red for what makes taskseal refuse it.
pub(crate) fn judged(is: Option<bool>, wanted: bool) -> Cell {
    let style = if is == Some(wanted) {
        style::GOOD
    } else {
        style::BAD
    };
    (yes_no(is).to_owned(), style)
}

fn yes_no(is: Option<bool>) -> &'static str {
    match is {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}
