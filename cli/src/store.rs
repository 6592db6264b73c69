//! `taskseal store check`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
use taskseal::store::Role;
use taskseal::store::fs::{Surveyed, survey};
use taskseal::{Certificate, OpenError, Policy, StoreError};

use crate::args::{Global, StoreArgs, StoreCheckArgs, StoreCommand};
use crate::cert::{self, CertificateFacts};
use crate::failure::Failure;
use crate::output::{self, Table, style};

pub(crate) fn run(args: &StoreArgs, global: Global) -> Result<(), Failure> {
    match &args.command {
        StoreCommand::Check(args) => check(args, global),
    }
}

/// How good a certificate is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Failed,
}

/// One certificate, or one file that is none.
#[derive(Serialize)]
struct Finding {
    file: PathBuf,
    status: Status,
    problems: Vec<String>,
    /// What is worth knowing and not wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    /// `signer` or `chain`; nothing for what is no certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts_as: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    days_left: Option<i64>,
    #[serde(flatten)]
    certificate: Option<CertificateFacts>,
    #[serde(skip)]
    role: Option<Role>,
    /// Of a certificate that cannot be used; of others it is among the facts.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip)]
    parsed: Option<Certificate>,
}

fn check(args: &StoreCheckArgs, global: Global) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        store: &'a PathBuf,
        ok: usize,
        signers: usize,
        warnings: usize,
        failed: usize,
        certificates: &'a [Finding],
    }
    let now = SystemTime::now();
    let ignored = args.dangerous_ignore_critical.iter().map(String::as_str);
    let policy = Policy::new().dangerous_ignore_critical(ignored)?;
    let mut findings: Vec<Finding> = survey(&args.path)?
        .into_iter()
        .map(|surveyed| Finding::new(surveyed, args.warn_days, &policy, now))
        .collect();
    if findings.is_empty() {
        let text = format!(
            "the certificate store {} holds no certificate files",
            args.path.display()
        );
        return Err(Failure::permanent("store", text));
    }
    find_duplicates(&mut findings);
    let count = |status| findings.iter().filter(|one| one.status == status).count();
    let failed = count(Status::Failed);
    let is_signer = |one: &&Finding| one.role.is_some_and(Role::is_signer);
    let signers = findings.iter().filter(is_signer).count();
    if global.json {
        output::json(&Report {
            store: &args.path,
            ok: count(Status::Ok),
            signers,
            warnings: count(Status::Warning),
            failed,
            certificates: &findings,
        })?;
    } else {
        table(&findings).print(&mut anstream::stdout().lock())?;
    }
    if failed == 0 && signers == 0 {
        let text =
            "no certificate in it is a signer's: authorities that issued others are not signers";
        return Err(Failure::permanent("store", text)
            .hint("put the certificates of those who sign messages there"));
    }
    if failed == 0 {
        return Ok(());
    }
    let text = format!(
        "{failed} of {} cannot be used to open messages",
        findings.len()
    );
    Err(Failure::permanent("store", text)
        .hint("remove or replace them; one bad file makes the whole store refuse to load"))
}

impl Finding {
    fn new(surveyed: Surveyed, warn_days: u32, policy: &Policy, now: SystemTime) -> Self {
        let mut finding = Self {
            file: surveyed.path,
            status: Status::Ok,
            problems: Vec::new(),
            notes: Vec::new(),
            counts_as: surveyed.role.map(Role::as_str),
            days_left: None,
            certificate: None,
            role: surveyed.role,
            subject: None,
            parsed: None,
        };
        if surveyed.authority && surveyed.role.is_some_and(Role::is_signer) {
            // As many that sign themselves: `openssl req -x509` makes them so.
            finding.notes.push("an authority's (CA:TRUE)".to_owned());
        }
        if surveyed.result.is_err() {
            finding.subject = surveyed.subject;
        }
        match (surveyed.role, surveyed.result) {
            (Some(role), result) if !role.is_signer() => finding.describe(role, result.ok(), now),
            (_, Ok(certificate)) => finding.judge(certificate, warn_days, policy, now),
            // The file has a column of its own.
            (_, Err(StoreError::Certificate { line, source, .. })) => {
                let at = line.map(|line| format!("line {line}: "));
                let text = format!("{}{source}", at.unwrap_or_default());
                finding.problem(Status::Failed, text);
            }
            (_, Err(error)) => finding.problem(Status::Failed, error.to_string()),
        }
        finding
    }

    /// A certificate that is there for a chain alone: nobody asks whether it could be used.
    fn describe(&mut self, role: Role, certificate: Option<Certificate>, now: SystemTime) {
        self.notes.push(role.to_string());
        if let Some(certificate) = &certificate {
            self.days_left = Some(output::days_between(now, certificate.not_after()));
            self.certificate = Some(CertificateFacts::new(certificate));
        }
    }

    /// As an opener with that policy would.
    fn judge(
        &mut self,
        certificate: Certificate,
        warn_days: u32,
        policy: &Policy,
        now: SystemTime,
    ) {
        let days = output::days_between(now, certificate.not_after());
        if !certificate.has_expired(now) && days < i64::from(warn_days) {
            self.problem(Status::Warning, "ends soon".to_owned());
        }
        for refusal in policy.refusals(&certificate, now) {
            let status = match refusal {
                OpenError::NotYetValid { .. } => Status::Warning,
                _ => Status::Failed,
            };
            self.problem(status, cert::problem(&refusal));
        }
        self.days_left = Some(days);
        self.certificate = Some(CertificateFacts::new(&certificate));
        self.parsed = Some(certificate);
    }

    fn problem(&mut self, status: Status, text: String) {
        self.status = self.status.max(status);
        self.problems.push(text);
    }
}

/// Two certificates under one id: a store with both refuses to load. The same one twice is one.
fn find_duplicates(findings: &mut [Finding]) {
    let mut first: HashMap<String, usize> = HashMap::new();
    let (mut pairs, mut copies) = (Vec::new(), Vec::new());
    for (at, finding) in findings.iter().enumerate() {
        if let Some(certificate) = &finding.parsed {
            match first.get(certificate.id()) {
                Some(&other)
                    if findings
                        .get(other)
                        .is_some_and(|one| one.parsed.as_ref() == Some(certificate)) =>
                {
                    copies.push((at, other))
                }
                Some(&other) => pairs.extend([(at, other), (other, at)]),
                None => {
                    first.insert(certificate.id().to_owned(), at);
                }
            }
        }
    }
    let file = |findings: &[Finding], at: usize| {
        let finding = findings.get(at);
        finding
            .map(|one| one.file.display().to_string())
            .unwrap_or_default()
    };
    for (at, other) in pairs {
        let text = format!(
            "has the same id as another one in {}",
            file(findings, other)
        );
        if let Some(finding) = findings.get_mut(at) {
            finding.problem(Status::Failed, text);
        }
    }
    for (at, other) in copies {
        let text = format!("the same certificate as in {}", file(findings, other));
        if let Some(finding) = findings.get_mut(at) {
            finding.notes.push(text);
        }
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[
        "STATUS",
        "COUNTS AS",
        "ID",
        "SUBJECT",
        "KEY",
        "DAYS LEFT",
        "FILE",
        "REMARK",
    ]);
    for finding in findings {
        let remarks: Vec<&str> = finding
            .problems
            .iter()
            .chain(&finding.notes)
            .map(String::as_str)
            .collect();
        let plain = |text: String| (output::escaped(&text), style::PLAIN);
        let (status, color) = match finding.status {
            Status::Ok => ("ok", style::GOOD),
            Status::Warning => ("warning", style::WARNING),
            Status::Failed => ("failed", style::BAD),
        };
        let of = |field: fn(&CertificateFacts) -> String| {
            plain(
                finding
                    .certificate
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), field),
            )
        };
        table.row([
            (status.to_owned(), color),
            plain(finding.counts_as.unwrap_or("-").to_owned()),
            of(CertificateFacts::short_id),
            match &finding.subject {
                Some(subject) => plain(output::shortened(subject, 40)),
                None => of(CertificateFacts::short_subject),
            },
            of(CertificateFacts::key),
            plain(
                finding
                    .days_left
                    .map_or_else(|| "-".to_owned(), |days| days.to_string()),
            ),
            plain(file_name(&finding.file)),
            (output::escaped(&remarks.join("; ")), color),
        ]);
    }
    table
}

/// The file without its directory, which the user named.
fn file_name(file: &std::path::Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}
