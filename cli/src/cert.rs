//! `taskseal cert`.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use taskseal::issue;
use taskseal::pss::{Salt, Scheme};
use taskseal::{Certificate, OpenError};

use crate::args::{CertArgs, CertCommand, Global, RequestArgs, SelfSignArgs, SubjectOptions};
use crate::failure::Failure;
use crate::keys;
use crate::output;

/// The facts of a certificate, as every command prints them with `--json`.
#[derive(Serialize)]
pub(crate) struct CertificateFacts {
    id: String,
    subject: String,
    issuer: String,
    serial_number: String,
    key_bits: usize,
    not_before: String,
    not_after: String,
    thumbprint_sha256: String,
}

impl CertificateFacts {
    pub(crate) fn new(certificate: &Certificate) -> Self {
        Self {
            id: certificate.id().to_owned(),
            subject: certificate.subject().to_owned(),
            issuer: certificate.issuer_name().to_owned(),
            serial_number: certificate.serial_number().to_owned(),
            key_bits: certificate.public_key().bits(),
            not_before: output::time(certificate.not_before()),
            not_after: output::time(certificate.not_after()),
            thumbprint_sha256: certificate.thumbprint_hex(),
        }
    }

    /// The id, for a column of a table.
    pub(crate) fn short_id(&self) -> String {
        output::shortened(&self.id, 60)
    }

    /// The subject, for a column of a table.
    pub(crate) fn short_subject(&self) -> String {
        output::shortened(&self.subject, 40)
    }

    /// Kind and size of the key.
    pub(crate) fn key(&self) -> String {
        format!("RSA-{}", self.key_bits)
    }
}

/// Why the messages of a certificate's key are refused, where the certificate is named already.
pub(crate) fn problem(refusal: &OpenError) -> String {
    match refusal {
        OpenError::Expired { not_after, .. } => {
            format!("expired at {}", output::time(*not_after))
        }
        OpenError::NotYetValid { not_before, .. } => {
            format!("not valid before {}", output::time(*not_before))
        }
        OpenError::KeyUsage { .. } => "its key usage allows no signatures on messages".to_owned(),
        OpenError::CriticalExtension { oid, .. } => {
            format!(
                "its extension {oid} is critical and not understood, or says that it is no certificate"
            )
        }
        OpenError::Key { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

pub(crate) fn run(args: &CertArgs, global: Global) -> Result<(), Failure> {
    match &args.command {
        CertCommand::SelfSign(args) => self_sign(args, global),
        CertCommand::Request(args) => request(args, global),
        #[cfg(feature = "pkcs11")]
        CertCommand::Import(args) => import(args, global),
    }
}

fn self_sign(args: &SelfSignArgs, global: Global) -> Result<(), Failure> {
    refuse_beforehand(&args.subject)?;
    let key = keys::open_key(&args.subject.key, scheme(&args.subject))?;
    let now = SystemTime::now();
    let end = now + Duration::from_secs(u64::from(args.days) * 24 * 60 * 60);
    let certificate = issue::self_sign(
        key.as_ref(),
        &args.subject.subject,
        now - issue::HEAD_START,
        end,
    )?;
    let pem = certificate.to_pem();
    write(&args.subject, &pem)?;
    describe(&certificate, &pem, args.subject.out.as_deref(), global)
}

fn request(args: &RequestArgs, global: Global) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Facts<'a> {
        subject: &'a str,
        key_bits: usize,
        pem: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<&'a Path>,
    }
    refuse_beforehand(&args.subject)?;
    let key = keys::open_key(&args.subject.key, scheme(&args.subject))?;
    let pem = issue::request(key.as_ref(), &args.subject.subject)?;
    write(&args.subject, &pem)?;
    let subject = args.subject.subject.as_str();
    let key_bits = key.public_key().bits();
    let out = args.subject.out.as_deref();
    if global.json {
        return Ok(output::json_line(
            &mut anstream::stderr().lock(),
            &Facts {
                subject,
                key_bits,
                pem: &pem,
                out,
            },
        )?);
    }
    let key = format!("RSA, {key_bits} bits");
    Ok(output::facts(
        &mut anstream::stderr().lock(),
        &[
            ("request for", output::escaped(subject)),
            ("key", key),
            ("written to", destination(out)),
        ],
    )?)
}

/// Says what was made, on stderr: stdout may be the certificate.
fn describe(
    certificate: &Certificate,
    pem: &str,
    out: Option<&Path>,
    global: Global,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Facts<'a> {
        #[serde(flatten)]
        certificate: CertificateFacts,
        pem: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        out: Option<&'a Path>,
    }
    let facts = CertificateFacts::new(certificate);
    let mut err = anstream::stderr().lock();
    if global.json {
        let facts = Facts {
            certificate: facts,
            pem,
            out,
        };
        return Ok(output::json_line(&mut err, &facts)?);
    }
    Ok(output::facts(
        &mut err,
        &[
            ("signer id", output::escaped(&facts.id)),
            ("subject", output::escaped(&facts.subject)),
            ("key", format!("RSA, {} bits", facts.key_bits)),
            ("valid until", facts.not_after),
            ("thumbprint", format!("sha256:{}", facts.thumbprint_sha256)),
            ("written to", destination(out)),
        ],
    )?)
}

fn destination(out: Option<&Path>) -> String {
    out.map_or_else(
        || "stdout".to_owned(),
        |path| output::escaped(&path.to_string_lossy()),
    )
}

/// The salt that every verifier of certificates knows (RFC 4055, 3.1).
fn scheme(subject: &SubjectOptions) -> Scheme {
    Scheme::new(subject.digest, Salt::DigestLength)
}

/// Told before the key is used, so that nobody types a PIN for nothing.
fn refuse_beforehand(subject: &SubjectOptions) -> Result<(), Failure> {
    issue::check_subject(&subject.subject)?;
    match &subject.out {
        Some(path) if !subject.force && path.symlink_metadata().is_ok() => Err(exists(path)),
        _ => Ok(()),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::permanent("exists", format!("{} is there already", path.display()))
        .hint("--force overwrites it")
}

/// To stdout, or to a file that appears whole or not at all.
fn write(subject: &SubjectOptions, pem: &str) -> Result<(), Failure> {
    let Some(path) = &subject.out else {
        return Ok(std::io::stdout().lock().write_all(pem.as_bytes())?);
    };
    let failed = |error: &std::io::Error| Failure::file("write", path, error);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = new_file(directory).map_err(|error| failed(&error))?;
    file.write_all(pem.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(|error| failed(&error))?;
    let persisted = if subject.force {
        file.persist(path)
    } else {
        file.persist_noclobber(path)
    };
    match persisted {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(failed(&error.error)),
    }
}

/// A file that the umask alone restricts: certificates are public, and temporary files are not.
fn new_file(directory: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".taskseal-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder.tempfile_in(directory)
}

/// `taskseal cert import`.
#[cfg(feature = "pkcs11")]
fn import(args: &crate::args::token::ImportArgs, global: Global) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Imported {
        label: String,
        id: String,
        certificate: CertificateFacts,
    }
    let certificate = keys::read_certificate(&args.file)?;
    let builder = keys::builder(&args.key.uri, args.key.module.as_deref());
    let imported = taskseal::pkcs11::import_certificate(&builder, &certificate, None)?;
    let id = output::hex(&imported.id);
    if global.json {
        let certificate = CertificateFacts::new(&imported.certificate);
        return Ok(output::json(&Imported {
            label: imported.label,
            id,
            certificate,
        })?);
    }
    Ok(output::facts(
        &mut anstream::stdout().lock(),
        &[
            ("imported", output::escaped(imported.certificate.id())),
            ("label", output::escaped(&imported.label)),
            ("id", id),
        ],
    )?)
}
