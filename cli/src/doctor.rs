//! `taskseal doctor`: examines a token and what is used on it.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use taskseal::pkcs11::{
    Builder, Error, Inspection, KeyInfo, Pkcs11Key, TokenInfo, find_certificates, list_keys,
};
use taskseal::pss::{Salt, Scheme};
use taskseal::{Certificate, Policy, SigningKey as _};

use crate::args::Global;
use crate::args::token::DoctorArgs;
use crate::failure::Failure;
use crate::output::{self, Table, style};
use crate::{bench, cert, exit, keys};

pub(crate) fn run(args: &DoctorArgs, global: Global) -> Result<u8, Failure> {
    let mut report = Report::default();
    examine(args, &mut report)?;
    let worst = report
        .lines
        .iter()
        .map(|line| line.status)
        .max()
        .unwrap_or(Status::Failed);
    if global.json {
        output::json(&Answer {
            status: worst,
            lines: &report.lines,
        })?;
    } else {
        report.print()?;
    }
    Ok(match worst {
        Status::Ok => exit::DONE,
        Status::Warning => exit::WARNED,
        Status::Failed => exit::FAILED,
    })
}

/// How a line of the report is. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Line {
    status: Status,
    what: &'static str,
    detail: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    status: Status,
    lines: &'a [Line],
}

#[derive(Debug, Default)]
struct Report {
    lines: Vec<Line>,
}

impl Report {
    fn line(&mut self, status: Status, what: &'static str, detail: impl Into<String>) {
        self.lines.push(Line {
            status,
            what,
            detail: detail.into(),
        });
    }

    fn ok(&mut self, what: &'static str, detail: impl Into<String>) {
        self.line(Status::Ok, what, detail);
    }

    fn warn(&mut self, what: &'static str, detail: impl Into<String>) {
        self.line(Status::Warning, what, detail);
    }

    fn failed(&mut self, what: &'static str, detail: impl ToString) {
        self.line(Status::Failed, what, detail.to_string());
    }

    fn print(&self) -> std::io::Result<()> {
        let mut table = Table::new(&["STATUS", "WHAT", "DETAIL"]);
        for line in &self.lines {
            let (word, style) = match line.status {
                Status::Ok => ("ok", style::GOOD),
                Status::Warning => ("warning", style::WARNING),
                Status::Failed => ("failed", style::BAD),
            };
            table.row([
                (word.to_owned(), style),
                (line.what.to_owned(), style::PLAIN),
                (output::escaped(&line.detail), style::PLAIN),
            ]);
        }
        table.print(&mut anstream::stdout().lock())
    }
}

/// Goes on as far as it makes sense; what cannot be examined any more has no line.
fn examine(args: &DoctorArgs, report: &mut Report) -> Result<(), Failure> {
    let given = args
        .cert
        .as_deref()
        .map(keys::read_certificate)
        .transpose()?;
    let builder = keys::builder(&args.uri, args.module.as_deref());
    let inspection = match builder.inspect() {
        Ok(inspection) => inspection,
        Err(error) => {
            report.failed("token", error);
            return Ok(());
        }
    };
    module(&inspection, report);
    if !token_state(&inspection.token, report) || !pin_state(&inspection.token, args, report) {
        return Ok(());
    }
    // Held to the end: the login lasts as long as a session does, so there is only the one.
    let Some(opened) = salts(&builder, args, report) else {
        return Ok(());
    };
    let Some(info) = key(&builder, &opened, report) else {
        return Ok(());
    };
    certificate(&builder, &info, given, args.warn_days, report);
    speed(&opened, args.seconds, report);
    Ok(())
}

fn module(inspection: &Inspection, report: &mut Report) {
    let Inspection {
        description,
        manufacturer,
        version,
        cryptoki,
        ..
    } = inspection;
    let (library, standard) = (dotted(*version), dotted(*cryptoki));
    report.ok("module", inspection.module.display().to_string());
    report.ok(
        "library",
        format!("{description} {library} by {manufacturer}, PKCS#11 {standard}"),
    );
    for mechanism in &inspection.mechanisms {
        let bits = |(min, max): (usize, usize)| format!(" ({min} to {max} bits)");
        let size = mechanism.key_bits.map(bits).unwrap_or_default();
        let word = if mechanism.offered {
            "listed"
        } else {
            "not listed"
        };
        report.ok("mechanism", format!("{}: {word}{size}", mechanism.name));
    }
}

/// Whether it makes sense to go on.
fn token_state(token: &TokenInfo, report: &mut Report) -> bool {
    let flags = &token.flags;
    if token.unreadable.is_some() {
        report.warn("token", token.to_string());
        return true;
    }
    report.ok(
        "token",
        format!("{token}, firmware {}", dotted(token.firmware)),
    );
    if flags.error_state {
        report.failed("token", "it is in error state: a self-test failed");
    }
    if !flags.initialized {
        report.failed(
            "token",
            "it is not initialised; see `taskseal token init --help`",
        );
    }
    if flags.write_protected {
        report.warn(
            "token",
            "it is write-protected: keys can be used, but not made",
        );
    }
    if token.sessions.is_full() {
        let text = format!("{}: none is left", token.sessions);
        report.warn("sessions", text);
    } else {
        report.ok("sessions", token.sessions.to_string());
    }
    flags.initialized && !flags.error_state
}

/// Whether a login can be made that locks nothing.
fn pin_state(token: &TokenInfo, args: &DoctorArgs, report: &mut Report) -> bool {
    const WHAT: &str = "PIN";
    let flags = &token.flags;
    if token.unreadable.is_some() {
        let text = "its state cannot be read, so a wrong PIN might lock it";
        if args.login_unseen {
            report.warn(WHAT, format!("{text}; logging in all the same"));
        } else {
            report.warn(
                WHAT,
                format!("{text}: not logging in (--login-unseen does)"),
            );
        }
        return args.login_unseen;
    }
    if flags.user_pin_locked {
        report.failed(
            WHAT,
            "it is locked; the security officer has to set it anew",
        );
        return false;
    }
    if flags.user_pin_final_try {
        report.failed(WHAT, "one more wrong PIN locks the token: not logging in; log in elsewhere with the right PIN");
        return false;
    }
    if !flags.login_required {
        report.warn(
            WHAT,
            "the token wants no login: whoever reaches it can use its keys",
        );
    } else if !flags.user_pin_initialized {
        report.failed(WHAT, "it is not set");
        return false;
    }
    if flags.user_pin_count_low {
        report.warn(WHAT, "the last login was made with a wrong PIN");
    }
    if flags.user_pin_to_be_changed {
        report.warn(WHAT, "it has to be changed");
    }
    if !flags.user_pin_count_low && !flags.user_pin_to_be_changed {
        report.ok(
            WHAT,
            "no wrong one since the last login, as far as the token tells",
        );
    }
    true
}

/// Tries both salts, and with that the login, the key and its trial signature. The one that is opened last stays open.
fn salts(builder: &Builder, args: &DoctorArgs, report: &mut Report) -> Option<Pkcs11Key> {
    let mut kept = None;
    for salt in Salt::ALL {
        let scheme = Scheme::new(args.digest, salt);
        match builder.clone().scheme(scheme).open_key() {
            Ok(key) => {
                if kept.is_none() {
                    report.ok("login", "the PIN is right, or the process was logged in");
                }
                let path = key.signature_path().as_str();
                report.ok(
                    "signature",
                    format!("{scheme}: signed and verified by {path}"),
                );
                kept = kept.or(Some(key));
            }
            // The other salt may work: one that the token refuses is a fact about the token, not yet a fault.
            Err(error @ Error::Unsupported { .. }) => report.warn("signature", error.to_string()),
            Err(error @ (Error::KeyNotFound { .. } | Error::SeveralKeys { .. })) => {
                report.ok("login", "the PIN is right, or the process was logged in");
                report.failed("key", error);
                return None;
            }
            Err(error) => {
                let what = if error.class() == taskseal::ErrorClass::Credential {
                    "login"
                } else {
                    "key"
                };
                report.failed(what, error);
                return None;
            }
        }
    }
    if kept.is_none() {
        report.failed(
            "signature",
            "the token makes no RSA-PSS signature that can be used here",
        );
    }
    kept
}

/// The key's attributes, as the token tells them. That they are safe was required when the key was opened.
fn key(builder: &Builder, opened: &Pkcs11Key, report: &mut Report) -> Option<KeyInfo> {
    let keys = match list_keys(builder) {
        Ok(keys) => keys,
        Err(error) => {
            report.failed("key", error);
            return None;
        }
    };
    let info = keys
        .into_iter()
        .find(|key| key.is_half_of(opened.public_key()) == Some(true))?;
    report.ok("key", info.to_string());
    report.ok(
        "key",
        "CKA_SENSITIVE is true and CKA_EXTRACTABLE is false: it cannot leave the token",
    );
    for (name, value) in [
        ("CKA_ALWAYS_SENSITIVE", info.always_sensitive),
        ("CKA_NEVER_EXTRACTABLE", info.never_extractable),
        ("CKA_LOCAL", info.local),
    ] {
        match value {
            Some(true) => report.ok("key", format!("{name} is true")),
            Some(false) => report.warn(
                "key",
                format!(
                    "{name} is false: it may have been imported (some modules report this wrongly)"
                ),
            ),
            None => report.warn("key", format!("{name} cannot be read")),
        }
    }
    if info.always_authenticate == Some(true) {
        report.warn(
            "key",
            "CKA_ALWAYS_AUTHENTICATE is true: each signature costs a login",
        );
    }
    Some(info)
}

fn certificate(
    builder: &Builder,
    key: &KeyInfo,
    given: Option<Certificate>,
    warn_days: i64,
    report: &mut Report,
) {
    const WHAT: &str = "certificate";
    let of_key = |certificate: &Certificate| key.is_half_of(certificate.public_key()) == Some(true);
    let certificates = match given {
        Some(certificate) if !of_key(&certificate) => {
            return report.failed(WHAT, format!("{:?} is for another key", certificate.id()));
        }
        Some(certificate) => vec![certificate],
        None => match find_certificates(builder) {
            Ok(found) => found
                .into_iter()
                .map(|found| found.certificate)
                .filter(of_key)
                .collect(),
            Err(error) => return report.failed(WHAT, error),
        },
    };
    if certificates.is_empty() {
        report.warn(
            WHAT,
            "none on the token for this key, and none was given with --cert",
        );
    }
    for certificate in certificates {
        let now = SystemTime::now();
        let days = output::days_between(now, certificate.not_after());
        let text = format!("{:?}: {days} days left", certificate.id());
        if let Err(refusal) = Policy::new().check_certificate(&certificate, now) {
            let problem = cert::problem(&refusal);
            report.failed(WHAT, format!("{:?}: {problem}", certificate.id()));
        } else if days < warn_days {
            report.warn(WHAT, text);
        } else {
            report.ok(WHAT, text);
        }
    }
}

fn speed(key: &Pkcs11Key, seconds: u64, report: &mut Report) {
    if seconds == 0 {
        return;
    }
    for threads in [1, 2] {
        match bench::measure(key, threads, Duration::from_secs(seconds), |_, _| {}) {
            Ok(speed) => {
                let word = if threads == 1 { "thread" } else { "threads" };
                let text = format!("{:.0} signatures/s with {threads} {word}", speed.per_second);
                report.ok("speed", text);
            }
            Err(error) => report.failed("speed", error),
        }
    }
}

fn dotted((major, minor): (u8, u8)) -> String {
    format!("{major}.{minor}")
}
