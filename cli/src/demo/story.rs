//! The steps of the demo.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use taskseal::envelope::dangerous_inspect_unverified;
use taskseal::issue;
use taskseal::pkcs11::{
    Builder, KeyInfo, NewKey, Pin, PinSource, Pkcs11Signer, TokenInfo, generate_key,
    import_certificate, init_token,
};
use taskseal::{Certificate, FsCertStore, Opener, Sealed, Sealer, SignError, Signer};

use super::encrypt;
use super::place::{BODY, Place, broken};
use super::refusals::{self, Refusal};
use super::show::Show;
use crate::args::Global;
use crate::args::token::DemoArgs;
use crate::cert::CertificateFacts;
use crate::failure::Failure;
use crate::output;
use crate::{inspect, key, secret};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Where the label of the token and the names of keys and certificates come from.
const TOKEN: &str = "taskseal-demo";
const WORKER: &str = "worker-7";
const STRANGER: &str = "stranger";

/// What came out, for `--json`.
#[derive(Serialize)]
struct Facts<'a> {
    module: &'a Path,
    token: &'a str,
    key: KeyFacts<'a>,
    certificate: CertificateFacts,
    wire: &'a str,
    opened: OpenedFacts,
    refused: &'a [Refusal],
    #[serde(skip_serializing_if = "Option::is_none")]
    readable: Option<Vec<encrypt::Scope>>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'a Path>,
}

#[derive(Serialize)]
struct KeyFacts<'a> {
    label: &'a str,
    id: String,
    bits: Option<usize>,
    sensitive: Option<bool>,
    extractable: Option<bool>,
}

#[derive(Serialize)]
struct OpenedFacts {
    signer_id: String,
    scheme: String,
    body_is_the_same: bool,
}

pub(super) fn tell(
    place: &Place,
    module: &Path,
    args: &DemoArgs,
    global: Global,
) -> Result<(), Failure> {
    let start = Instant::now();
    let keep = args.keep.is_some();
    let mut show = Show::new(global);
    show.title(
        "taskseal demo",
        "the whole way of a message, with a key that stays in its token",
    )?;

    show.step("Make a token")?;
    let (token, builder) = make_token(place, module)?;
    show.facts(&[
        ("module", module.display().to_string()),
        ("token", format!("{TOKEN}, serial {}", token.serial)),
    ])?;

    show.step("Generate a key in it, and read back what the token says of it")?;
    let made = make_key(&builder, WORKER)?;
    show.facts(&key::facts(&made))?;

    show.step("Make a certificate for the key, signed by the key")?;
    let signer = make_signer(&builder, WORKER)?;
    let certificate = signer.certificate();
    let trusted = place.trusted().join("worker-7.pem");
    std::fs::write(&trusted, certificate.to_pem())
        .map_err(|error| Failure::file("write", &trusted, &error))?;
    show.facts(&[
        ("subject", certificate.subject().to_owned()),
        ("signer id", certificate.id().to_owned()),
        ("valid until", output::time(certificate.not_after())),
        (
            "thumbprint",
            format!("sha256:{}", certificate.thumbprint_hex()),
        ),
        ("trusted in", trusted.display().to_string()),
    ])?;

    show.step("Seal a task message: the token signs, the envelope goes over the wire")?;
    let sealer = Sealer::new(Arc::clone(&signer) as Arc<dyn Signer>);
    let sealed = sealer.seal_bytes(BODY.as_bytes())?;
    let sealed_at = place.sealed();
    std::fs::write(&sealed_at, sealed.as_bytes())
        .map_err(|error| Failure::file("write", &sealed_at, &error))?;
    show_sealed(&show, &sealed, signer.as_ref())?;

    show.step("Look into the envelope, verifying nothing")?;
    let unpacked = dangerous_inspect_unverified(sealed.as_bytes(), None)?;
    show.facts(&inspect::parts(
        unpacked.format(),
        &unpacked.envelope(),
        400,
    ))?;

    show.step("Open it with the certificate store")?;
    let opener = Opener::new(FsCertStore::open(place.trusted())?);
    let opened = opener.open_message(sealed.content_type(), sealed.as_bytes())?;
    let facts = OpenedFacts {
        signer_id: opened.signer().id().to_owned(),
        scheme: opened.scheme().to_string(),
        body_is_the_same: opened.body() == BODY.as_bytes(),
    };
    if !facts.body_is_the_same || opened.signer() != certificate {
        return Err(broken("what was opened is not what was sealed"));
    }
    show.good("verified", &format!("signed by {}", facts.signer_id))?;
    let body = format!(
        "{} bytes of {}, {}",
        opened.body().len(),
        opened.content_type(),
        facts.scheme
    );
    show.good("", &body)?;

    show.step("Try to get something else past it")?;
    make_key(&builder, STRANGER)?;
    let stranger = make_signer(&builder, STRANGER)?;
    let cast = refusals::Cast {
        place,
        opener: &opener,
        sealed: &sealed,
        sealer: &sealer,
        stranger,
        expired: expired(&builder)?,
    };
    let refused = refusals::try_all(&cast, &show)?;
    let readable = match args.encrypt {
        true => Some(encrypt::compare(
            &mut show,
            Arc::clone(&signer) as _,
            &builder,
        )?),
        false => None,
    };

    let seconds = start.elapsed().as_secs_f64();
    if global.json {
        output::json(&Facts {
            module,
            token: &token.label,
            key: KeyFacts {
                label: &made.label,
                id: made.id_hex(),
                bits: made.bits(),
                sensitive: made.sensitive,
                extractable: made.extractable,
            },
            certificate: CertificateFacts::new(certificate),
            wire: sealed.as_str().unwrap_or_default(),
            opened: facts,
            refused: &refused,
            readable,
            seconds,
            kept: keep.then_some(place.directory.as_path()),
        })?;
    }
    show.line("")?;
    let summary = format!(
        "one message opened, {} refused, each for its reason; the key never left the token ({seconds:.1} s)",
        refused.len()
    );
    show.good("done", &summary)?;
    if keep {
        Ok(go_on(&show, place, module)?)
    } else {
        Ok(())
    }
}

fn make_token(place: &Place, module: &Path) -> Result<(TokenInfo, Builder), Failure> {
    let user_pin = secret::from_file("PIN", &place.pin_file())?;
    let pin = |text: &str| Pin::new(text).map_err(|error| broken(&error.to_string()));
    let (so_pin, user_pin) = (pin(&user_pin)?, pin(&user_pin)?);
    let token = init_token(module, TOKEN, &so_pin, &user_pin)?;
    let builder = Pkcs11Signer::builder()
        .module_path(module)
        .token_label(TOKEN)
        .pin(PinSource::File(place.pin_file()));
    Ok((token, builder))
}

fn make_key(builder: &Builder, label: &str) -> Result<KeyInfo, Failure> {
    let new = NewKey {
        bits: 2048,
        label: label.to_owned(),
        id: None,
    };
    let key = generate_key(builder, &new)?;
    if key.sensitive != Some(true) || key.extractable != Some(false) {
        return Err(broken("the new key can be read out of the token"));
    }
    Ok(key)
}

/// A signer with a new certificate, which is put into the token too.
fn make_signer(builder: &Builder, label: &str) -> Result<Arc<Pkcs11Signer>, Failure> {
    let now = SystemTime::now();
    let certificate = certify(builder, label, now - issue::HEAD_START, now + 365 * DAY)?;
    let builder = builder.clone().object_label(label);
    import_certificate(&builder, &certificate, None)?;
    open(&builder.certificate_from_token())
}

/// The worker's key under a certificate that ended yesterday.
fn expired(builder: &Builder) -> Result<Arc<Pkcs11Signer>, Failure> {
    let now = SystemTime::now();
    let certificate = certify(builder, WORKER, now - 31 * DAY, now - DAY)?;
    open(
        &builder
            .clone()
            .object_label(WORKER)
            .certificate(certificate),
    )
}

fn certify(
    builder: &Builder,
    label: &str,
    from: SystemTime,
    to: SystemTime,
) -> Result<Certificate, Failure> {
    let key = builder.clone().object_label(label).open_key()?;
    Ok(issue::self_sign(
        &key,
        &format!("CN={label},O=Example"),
        from,
        to,
    )?)
}

fn open(builder: &Builder) -> Result<Arc<Pkcs11Signer>, Failure> {
    let signer = builder.open().map_err(|error| match error {
        SignError::Token(error) => Failure::from(error),
        other => other.into(),
    })?;
    Ok(Arc::new(signer))
}

fn show_sealed(show: &Show, sealed: &Sealed, signer: &Pkcs11Signer) -> Result<(), Failure> {
    let wire = sealed.as_str().unwrap_or_default();
    let text = format!(
        "{} ({} bytes of base64)",
        output::shortened(wire, 56),
        wire.len()
    );
    Ok(show.facts(&[
        ("body", output::shortened(BODY, 76)),
        ("scheme", signer.scheme().to_string()),
        (
            "mechanism",
            signer.key().signature_path().as_str().to_owned(),
        ),
        ("wire form", text),
        ("travels as", sealed.content_type().to_owned()),
    ])?)
}

/// What somebody may want to try on the token that was kept.
fn go_on(show: &Show, place: &Place, module: &Path) -> std::io::Result<()> {
    let directory = place.directory.display();
    let key = format!("'pkcs11:token={TOKEN};object={WORKER}?pin-source=file:{directory}/pin'");
    show.line("")?;
    show.line(&format!("Kept in {directory}. Go on with:"))?;
    for line in [
        format!(
            "export SOFTHSM2_CONF={directory}/softhsm2.conf TASKSEAL_MODULE={}",
            module.display()
        ),
        format!("taskseal key list --key {key}"),
        format!(
            "echo '[[1, 2], {{}}, {{}}]' | taskseal seal --key {key} > {directory}/next.sealed"
        ),
        format!("taskseal open --store {directory}/trusted {directory}/next.sealed"),
    ] {
        show.line(&format!("    {line}"))?;
    }
    Ok(())
}
