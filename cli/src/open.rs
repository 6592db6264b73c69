//! `taskseal open`.

use std::io::{self, Write as _};
use std::time::SystemTime;

use serde::Serialize;
use taskseal::envelope::dangerous_inspect_unverified;
use taskseal::store::fs::{ExpiredCertificates, Options};
use taskseal::{Format, OpenError, Opened, Opener, Policy, StoreError};

use crate::args::{FormatChoice, Global, OpenArgs};
use crate::failure::Failure;
use crate::output::{self, style};
use crate::{input, message};

/// Who signed the message, and how.
#[derive(Serialize)]
struct Facts<'a> {
    verified: bool,
    signer_id: &'a str,
    subject: &'a str,
    thumbprint_sha256: String,
    not_after: String,
    digest: &'static str,
    salt: &'static str,
    format: &'static str,
    content_type: &'a str,
    content_encoding: &'a str,
    body_bytes: usize,
}

pub(crate) fn run(args: &OpenArgs, global: Global) -> Result<(), Failure> {
    let expired = if args.skip_expired {
        ExpiredCertificates::Skip
    } else {
        ExpiredCertificates::Refuse
    };
    let store = Options::new()
        .expired(expired)
        .open(&args.store)
        .map_err(store_failure)?;
    let opener = Opener::new(store).with_policy(policy(args)?);
    if args.message.scope.is_message() {
        return message::open(args, &args.message, opener, global);
    }
    if args.message.is_used() {
        let text = "the body of a task is bound to no destination or domain, and does not say when it was sealed";
        return Err(Failure::permanent("usage", text)
            .hint("--message or --encrypt-key opens a whole message, which is and does"));
    }
    let wire = input::envelope(args.file.as_deref(), args.max_size)?;
    let result = match &args.outer_content_type {
        Some(outer) => opener.open_message(outer, &wire),
        None => opener.open(&wire),
    };
    let opened = result.map_err(|error| {
        let hint = other_format(args, &wire).or_else(|| hint(&error));
        Failure::from(error).maybe_hint(hint)
    })?;
    // The body first: when it cannot be written, nothing is said about it.
    let mut out = io::stdout().lock();
    out.write_all(opened.body())?;
    if output::stdout_is_terminal() && opened.body().last() != Some(&b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(report(&opened, global)?)
}

fn policy(args: &OpenArgs) -> Result<Policy, Failure> {
    let ignored = args.dangerous_ignore_critical.iter().map(String::as_str);
    Ok(Policy::new()
        .formats(formats(args))
        .content_types(args.accept.iter().map(String::as_str))
        .digest(args.digest)
        .clock_skew(args.clock_skew)
        .max_message_len(args.max_size)
        .dangerous_ignore_critical(ignored)?)
}

fn formats(args: &OpenArgs) -> Vec<Format> {
    let of = |choice: &FormatChoice| match choice {
        FormatChoice::Auto => Format::ALL.to_vec(),
        FormatChoice::One(format) => vec![*format],
    };
    args.format.iter().flat_map(of).collect()
}

fn report(opened: &Opened<'_>, global: Global) -> io::Result<()> {
    let signer = opened.signer();
    let mut err = anstream::stderr().lock();
    if global.json {
        return output::json_line(
            &mut err,
            &Facts {
                verified: true,
                signer_id: signer.id(),
                subject: signer.subject(),
                thumbprint_sha256: signer.thumbprint_hex(),
                not_after: output::time(signer.not_after()),
                digest: opened.scheme().digest.as_str(),
                salt: opened.scheme().salt.as_str(),
                format: opened.format().as_str(),
                content_type: opened.content_type(),
                content_encoding: opened.content_encoding(),
                body_bytes: opened.body().len(),
            },
        );
    }
    let days = output::days_between(SystemTime::now(), signer.not_after());
    let (good, dim) = (style::GOOD, style::DIM);
    writeln!(
        err,
        "{good}verified{good:#}      signed by {}",
        output::escaped(signer.id())
    )?;
    let left = format!("{} ({days} days left)", output::time(signer.not_after()));
    let content = format!(
        "{} {dim}({}; not covered by the signature){dim:#}",
        output::escaped(opened.content_type()),
        output::escaped(opened.content_encoding())
    );
    output::facts(
        &mut err,
        &[
            ("subject", output::escaped(signer.subject())),
            ("thumbprint", format!("sha256:{}", signer.thumbprint_hex())),
            ("valid until", left),
            ("scheme", opened.scheme().to_string()),
            ("format", opened.format().to_string()),
            ("content type", content),
        ],
    )
}

fn store_failure(error: StoreError) -> Failure {
    let hint = match &error {
        StoreError::Expired { .. } => {
            "--skip-expired leaves it out; `taskseal store check` lists all"
        }
        StoreError::NotFound { .. } => {
            "--store takes a directory, a file or a quoted pattern such as '/etc/trusted/*.pem'"
        }
        StoreError::Empty { .. } => "put the signers' certificates there, one PEM file each",
        _ => "`taskseal store check PATH` lists what is wrong with each file",
    };
    Failure::from(error).hint(hint)
}

/// A message in a format that is not accepted may look like one of an unknown signer.
fn other_format(args: &OpenArgs, wire: &[u8]) -> Option<String> {
    let found = dangerous_inspect_unverified(wire, None).ok()?.format();
    if formats(args).contains(&found) {
        return None;
    }
    Some(format!(
        "it looks like the format {found}; --format {found} accepts it, and is repeatable"
    ))
}

/// What the user may do about a refusal that may be none of the sender's fault.
fn hint(error: &OpenError) -> Option<String> {
    Some(match error {
        OpenError::UnknownSigner { .. } => {
            "if you trust it, put its certificate into the store; `taskseal store check` lists what is there".to_owned()
        }
        OpenError::ContentType { .. } => {
            "--accept TYPE accepts another one, instead of application/json".to_owned()
        }
        OpenError::Malformed(_) => {
            "`taskseal inspect` shows what can be read of it; --format names another format".to_owned()
        }
        OpenError::BadSignature { .. } => {
            "signers may use another digest: --digest sha384 or sha512".to_owned()
        }
        OpenError::NotYetValid { .. } => {
            "--clock-skew SECONDS allows for a clock that is a little off".to_owned()
        }
        OpenError::CriticalExtension { oid, .. } => {
            format!("--dangerous-ignore-critical {oid} accepts it, if you know that it changes nothing")
        }
        OpenError::TooLarge { .. } => "--max-size BYTES allows a longer one".to_owned(),
        _ => return None,
    })
}
