//! `taskseal fernet key` on a token.

use serde::Serialize;
use taskseal::pkcs11::{
    SecretKeyInfo, Uri, generate_fernet_keys, import_fernet_keys, list_secret_keys,
};

use super::memory;
use crate::args::Global;
use crate::args::fernet::ImportArgs;
use crate::args::token::TokenKeyOptions;
use crate::failure::Failure;
use crate::key::judged;
use crate::keys;
use crate::output::{self, Table, style};

/// What is printed of a key on a token. `null` is what the token does not tell.
#[derive(Serialize)]
struct Facts<'a> {
    label: &'a str,
    id: String,
    kind: &'static str,
    bytes: Option<u64>,
    sensitive: Option<bool>,
    extractable: Option<bool>,
    local: Option<bool>,
}

pub(super) fn generate(
    uri: &Uri,
    module: Option<&std::path::Path>,
    global: Global,
) -> Result<(), Failure> {
    print(&generate_fernet_keys(&keys::builder(uri, module))?, global)
}

pub(super) fn import(args: &ImportArgs, global: Global) -> Result<(), Failure> {
    let bytes = memory::bytes_of(&args.from)?;
    let builder = keys::builder(&args.key.uri, args.key.module.as_deref());
    let made = import_fernet_keys(&builder, &bytes)?;
    output::warn(
        global,
        "the key is in the token now, and where it came from as well: whoever had it before still reads everything",
    );
    print(&made, global)
}

pub(super) fn list(args: &TokenKeyOptions, global: Global) -> Result<(), Failure> {
    let builder = keys::builder(&args.uri, args.module.as_deref());
    let mut keys = list_secret_keys(&builder)?;
    keys.retain(|key| args.uri.object().is_none_or(|label| key.label == label));
    if keys.is_empty() && !global.json {
        output::warn(global, "no such secret key is on the token");
        return Ok(());
    }
    print(&keys, global)
}

fn print(keys: &[SecretKeyInfo], global: Global) -> Result<(), Failure> {
    if global.json {
        let facts: Vec<_> = keys
            .iter()
            .map(|key| Facts {
                label: &key.label,
                id: key.id_hex(),
                kind: key.kind(),
                bytes: key.len,
                sensitive: key.sensitive,
                extractable: key.extractable,
                local: key.local,
            })
            .collect();
        return Ok(output::json(&facts)?);
    }
    let mut table = Table::new(&["LABEL", "ID", "KEY", "SENSITIVE", "EXTRACTABLE"]);
    for key in keys {
        let len = key.len.map(|len| format!(", {} bits", len * 8));
        table.row([
            (output::escaped(&key.label), style::PLAIN),
            (key.id_hex(), style::PLAIN),
            (
                format!("{}{}", key.kind(), len.unwrap_or_default()),
                style::PLAIN,
            ),
            judged(key.sensitive, true),
            judged(key.extractable, false),
        ]);
    }
    Ok(table.print(&mut anstream::stdout().lock())?)
}
