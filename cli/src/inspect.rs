//! `taskseal inspect`.

use std::io::Write as _;

use serde::Serialize;
use taskseal::envelope::dangerous_inspect_unverified;
use taskseal::{Envelope, Format};

use crate::args::{FormatChoice, Global, InspectArgs};
use crate::failure::Failure;
use crate::output::{self, style};
use crate::{input, json};

/// How much of a body is shown, in characters, and of a signature, in bytes.
const BODY_SHOWN: usize = 2000;
const SIGNATURE_SHOWN: usize = 16;

/// The parts, as whoever wrote them says.
#[derive(Serialize)]
struct Facts<'a> {
    verified: bool,
    format: &'static str,
    signer_id: &'a str,
    signature: String,
    signature_bytes: usize,
    content_type: &'a str,
    content_encoding: &'a str,
    body_bytes: usize,
    /// The body if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The body if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

pub(crate) fn run(args: &InspectArgs, global: Global) -> Result<(), Failure> {
    let wire = input::envelope(args.file.as_deref(), args.max_size)?;
    let format = match args.format {
        FormatChoice::Auto => None,
        FormatChoice::One(format) => Some(format),
    };
    let unpacked = dangerous_inspect_unverified(&wire, format).map_err(|error| {
        Failure::from(error).hint("is it a sealed message of Celery's auth serializer?")
    })?;
    let envelope = unpacked.envelope();
    if global.json {
        let body = std::str::from_utf8(envelope.body).ok();
        return Ok(output::json(&Facts {
            verified: false,
            format: unpacked.format().as_str(),
            signer_id: envelope.signer_id,
            signature: output::hex(envelope.signature),
            signature_bytes: envelope.signature.len(),
            content_type: envelope.content_type,
            content_encoding: envelope.content_encoding,
            body_bytes: envelope.body.len(),
            body,
            body_hex: body.is_none().then(|| output::hex(envelope.body)),
        })?);
    }
    let mut out = anstream::stdout().lock();
    let (bad, dim) = (style::BAD, style::DIM);
    writeln!(
        out,
        "{bad}NOT VERIFIED{bad:#}  {dim}anybody may have written this; `taskseal open` verifies it{dim:#}"
    )?;
    let limit = if args.full { usize::MAX } else { BODY_SHOWN };
    let parts = parts(unpacked.format(), &envelope, limit);
    Ok(output::facts(&mut out, &parts)?)
}

/// The parts of an envelope, readable; so many characters of the body.
pub(crate) fn parts(
    format: Format,
    envelope: &Envelope<'_>,
    limit: usize,
) -> [(&'static str, String); 7] {
    let signature = envelope.signature;
    let start = signature.get(..SIGNATURE_SHOWN).unwrap_or(signature);
    let shown = format!("{}… ({} bytes)", output::hex(start), signature.len());
    [
        ("format", format.to_string()),
        ("signer id", output::escaped(envelope.signer_id)),
        ("signature", shown),
        ("content type", output::escaped(envelope.content_type)),
        ("encoding", output::escaped(envelope.content_encoding)),
        ("body", format!("{} bytes", envelope.body.len())),
        ("", preview(envelope.body, limit)),
    ]
}

/// The beginning of a body: JSON over several lines, other text escaped, other bytes in hexadecimal.
fn preview(body: &[u8], limit: usize) -> String {
    // Four bytes a character at the most; pretty-printing makes the text longer, never shorter.
    let head = body.get(..limit.saturating_mul(4)).unwrap_or(body);
    let text = match (json::pretty(head), std::str::from_utf8(head)) {
        (Some(pretty), _) => {
            let lines: Vec<String> = pretty.lines().map(output::escaped).collect();
            lines.join("\n")
        }
        (None, Ok(text)) => output::escaped(text),
        (None, Err(_)) => output::hex(body.get(..limit / 2).unwrap_or(body)),
    };
    output::shortened(&text, limit)
}
