//! `taskseal seal` and `taskseal open` of whole messages.

use std::io::{self, Write as _};
use std::sync::Arc;

use serde::Serialize;
use taskseal::message::OpenedMessage;
use taskseal::{Certificate, ErrorClass, MessageOpener, MessageSealer, Opener, Signer};

use crate::args::message::{OpenMessageOptions, ScopeOptions, SealMessageOptions};
use crate::args::{Global, OpenArgs, SealArgs};
use crate::failure::Failure;
use crate::input;
use crate::output::{self, style};

/// Seals what is read as a whole message.
pub(crate) fn seal(
    args: &SealArgs,
    options: &SealMessageOptions,
    signer: Arc<dyn Signer>,
    global: Global,
) -> Result<(), Failure> {
    let signer_id = signer.certificate().id().to_owned();
    let sealer = sealer(&options.scope, signer)?.with_domain(&options.destination.domain);
    let json = input::message(args.file.as_deref(), args.max_size)?;
    let wire = sealer.seal_json(&json, &options.destination.destination())?;
    check_size(wire.len(), args.max_size)?;
    let mut out = io::stdout().lock();
    out.write_all(wire.as_bytes())?;
    if output::stdout_is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    if global.json {
        #[derive(Serialize)]
        struct Facts<'a> {
            signer_id: &'a str,
            scope: &'static str,
            bytes: usize,
        }
        let facts = Facts {
            signer_id: &signer_id,
            scope: "message",
            bytes: wire.len(),
        };
        output::json_line(&mut io::stderr().lock(), &facts)?;
    }
    Ok(())
}

/// Opens what is read as a whole message.
pub(crate) fn open(
    args: &OpenArgs,
    options: &OpenMessageOptions,
    opener: Opener,
    global: Global,
) -> Result<(), Failure> {
    let opener = self::opener(&options.scope, opener)?
        .with_max_len(args.max_size)
        .with_max_age(options.max_age())
        .with_clock_skew(args.clock_skew)
        .with_domain(&options.destination.domain);
    let wire = input::envelope(args.file.as_deref(), args.max_size)?;
    let opened = opener.open(&wire, &[options.destination.destination()])?;
    let mut out = io::stdout().lock();
    out.write_all(opened.payload())?;
    if output::stdout_is_terminal() {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    if !options.destination.any_is_set() {
        let text = "where the message was sent to was not checked: name it with --queue, --exchange or --routing-key";
        output::warn(global, text);
    }
    Ok(report(&opened, global)?)
}

/// Refuses to give out what openers would refuse for its length.
pub(crate) fn check_size(len: usize, max: usize) -> Result<(), Failure> {
    if len <= max {
        return Ok(());
    }
    let text = format!("the sealed message has {len} bytes; the limit is {max}");
    let hint = "--max-size BYTES allows a longer one; whoever opens it has to allow it too";
    Err(Failure::new("too-large", ErrorClass::Permanent, text).hint(hint))
}

fn sealer(scope: &ScopeOptions, signer: Arc<dyn Signer>) -> Result<MessageSealer, Failure> {
    Ok(match scope.encrypt_key.as_slice() {
        [] => MessageSealer::signed(signer),
        sources => MessageSealer::signed_and_encrypted(signer, crate::fernet::open_keys(sources)?),
    })
}

fn opener(scope: &ScopeOptions, opener: Opener) -> Result<MessageOpener, Failure> {
    Ok(match scope.encrypt_key.as_slice() {
        [] => MessageOpener::signed(opener),
        sources => MessageOpener::signed_and_encrypted(opener, crate::fernet::open_keys(sources)?),
    })
}

/// Who sealed it, when, and for where.
#[derive(Serialize)]
struct Facts<'a> {
    verified: bool,
    signer_id: Option<&'a str>,
    thumbprint_sha256: Option<String>,
    issued_at: String,
    id: Option<String>,
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
    queue: Option<&'a str>,
    message_bytes: usize,
}

fn report(opened: &OpenedMessage, global: Global) -> io::Result<()> {
    let destination = opened.destination();
    let facts = Facts {
        verified: true,
        signer_id: opened.signer().map(Certificate::id),
        thumbprint_sha256: opened.signer().map(Certificate::thumbprint_hex),
        issued_at: output::time(opened.issued_at()),
        id: opened.id().map(|id| id.to_string()),
        exchange: destination.exchange(),
        routing_key: destination.routing_key(),
        queue: destination.queue(),
        message_bytes: opened.payload().len(),
    };
    let mut err = anstream::stderr().lock();
    if global.json {
        return output::json_line(&mut err, &facts);
    }
    let good = style::GOOD;
    let signer = output::escaped(facts.signer_id.unwrap_or_default());
    writeln!(err, "{good}verified{good:#}     signed by {signer}")?;
    let part = |part: Option<&str>| match part {
        Some(text) => output::escaped(&format!("{text:?}")),
        None => "not said".to_owned(),
    };
    output::facts(
        &mut err,
        &[
            (
                "thumbprint",
                format!("sha256:{}", facts.thumbprint_sha256.unwrap_or_default()),
            ),
            ("sealed at", facts.issued_at),
            ("id", facts.id.unwrap_or_default()),
            ("exchange", part(facts.exchange)),
            ("routing key", part(facts.routing_key)),
            ("queue", part(facts.queue)),
        ],
    )
}
