//! `taskseal seal`.

use std::io::Write as _;
use std::time::SystemTime;

use serde::Serialize;
use taskseal::pss::Scheme;
use taskseal::{Policy, Sealed, Sealer, Signer};

use crate::args::{Global, SealArgs};
use crate::failure::Failure;
use crate::{cert, input, keys, message, output};

/// What a producer has to tell its broker about the message.
#[derive(Serialize)]
struct Facts<'a> {
    signer_id: &'a str,
    format: &'static str,
    digest: &'static str,
    salt: &'static str,
    content_type: &'static str,
    content_encoding: &'static str,
    inner_content_type: &'a str,
    inner_content_encoding: &'a str,
    bytes: usize,
}

pub(crate) fn run(args: &SealArgs, global: Global) -> Result<(), Failure> {
    let salt = args.salt.unwrap_or_else(|| args.format.default_salt());
    let scheme = Scheme::new(args.digest, salt);
    // The signer first: a mistake in the key is told before anything is read from a terminal.
    let signer = keys::open_signer(&args.key, args.cert.as_deref(), scheme)?;
    warn_about_certificate(signer.as_ref(), global);
    if args.message.scope.is_message() {
        return message::seal(args, &args.message, signer, global);
    }
    if args.message.destination.is_used() {
        return Err(Failure::permanent(
            "usage",
            "the body of a task is bound to no destination or domain",
        )
        .hint("--message or --encrypt-key seals a whole message, which is"));
    }
    let body = input::message(args.file.as_deref(), args.max_size)?;
    if args.content_type == "application/json" && !is_json(&body) {
        let text = "the body is no JSON, but its content type says application/json; \
                    name what it is with --content-type";
        output::warn(global, text);
    }
    let sealer = Sealer::new(signer)
        .with_format(args.format)
        .with_content(&args.content_type, &args.content_encoding);
    let sealed = sealer.seal_bytes(&body)?;
    message::check_size(sealed.as_bytes().len(), args.max_size)?;
    write(&sealed)?;
    if global.json {
        let facts = Facts {
            signer_id: sealer.signer().certificate().id(),
            format: args.format.as_str(),
            digest: args.digest.as_str(),
            salt: salt.as_str(),
            content_type: sealed.content_type(),
            content_encoding: sealed.content_encoding(),
            inner_content_type: &args.content_type,
            inner_content_encoding: &args.content_encoding,
            bytes: sealed.as_bytes().len(),
        };
        output::json_line(&mut std::io::stderr().lock(), &facts)?;
    }
    Ok(())
}

/// A signature under such a certificate can be made, but nobody will accept it.
fn warn_about_certificate(signer: &dyn Signer, global: Global) {
    let certificate = signer.certificate();
    let judged = Policy::new().check_certificate(certificate, SystemTime::now());
    if let Err(refusal) = judged {
        let (id, problem) = (certificate.id(), cert::problem(&refusal));
        let text = format!("openers will refuse the message: the certificate {id:?}: {problem}");
        output::warn(global, &text);
    }
}

fn write(sealed: &Sealed) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(sealed.as_bytes())?;
    if sealed.as_str().is_some() && output::stdout_is_terminal() {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn is_json(body: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}
