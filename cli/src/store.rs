//! `taskseal store check`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;
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
    #[serde(skip_serializing_if = "Option::is_none")]
    days_left: Option<i64>,
    #[serde(flatten)]
    certificate: Option<CertificateFacts>,
    #[serde(skip)]
    parsed: Option<Certificate>,
}

fn check(args: &StoreCheckArgs, global: Global) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Report<'a> {
        store: &'a PathBuf,
        ok: usize,
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
    if global.json {
        output::json(&Report {
            store: &args.path,
            ok: count(Status::Ok),
            warnings: count(Status::Warning),
            failed,
            certificates: &findings,
        })?;
    } else {
        table(&findings).print(&mut anstream::stdout().lock())?;
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
            days_left: None,
            certificate: None,
            parsed: None,
        };
        match surveyed.result {
            Ok(certificate) => finding.judge(certificate, warn_days, policy, now),
            // The file has a column of its own.
            Err(StoreError::Certificate { source, .. }) => {
                finding.problem(Status::Failed, source.to_string());
            }
            Err(error) => finding.problem(Status::Failed, error.to_string()),
        }
        finding
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

/// Two certificates under one id: a store with both refuses to load.
fn find_duplicates(findings: &mut [Finding]) {
    let mut first: HashMap<String, usize> = HashMap::new();
    let mut pairs = Vec::new();
    for (at, finding) in findings.iter().enumerate() {
        if let Some(certificate) = &finding.parsed {
            match first.get(certificate.id()) {
                Some(&other) => pairs.extend([(at, other), (other, at)]),
                None => {
                    first.insert(certificate.id().to_owned(), at);
                }
            }
        }
    }
    for (at, other) in pairs {
        let other = findings
            .get(other)
            .map(|other| other.file.display().to_string());
        if let Some(finding) = findings.get_mut(at) {
            let text = format!("has the same id as one in {}", other.unwrap_or_default());
            finding.problem(Status::Failed, text);
        }
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[
        "STATUS",
        "ID",
        "SUBJECT",
        "KEY",
        "DAYS LEFT",
        "FILE",
        "PROBLEM",
    ]);
    for finding in findings {
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
            of(CertificateFacts::short_id),
            of(CertificateFacts::short_subject),
            of(CertificateFacts::key),
            plain(
                finding
                    .days_left
                    .map_or_else(|| "-".to_owned(), |days| days.to_string()),
            ),
            plain(file_name(&finding.file)),
            (output::escaped(&finding.problems.join("; ")), color),
        ]);
    }
    table
}

/// The file without its directory, which the user named.
fn file_name(file: &std::path::Path) -> String {
    let name = file.file_name().unwrap_or(file.as_os_str());
    name.to_string_lossy().into_owned()
}
