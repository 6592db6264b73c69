//! [`FailoverSigner`]: several signers behind one.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::certificate::{Certificate, rfc3339};
use crate::error::ErrorClass;
use crate::pss::Scheme;
use crate::signer::{SignError, Signature, Signer};

/// What a probe signs. Its signature is thrown away; the text says so, should it ever be seen.
const PROBE: &[u8] = b"taskseal: a probe of this key's health, no message";

/// A [`Signer`] that owns several, with certificates of their own, and signs with one that works.
///
/// A member whose certificate has expired or is not valid yet is passed over: nobody would accept what it signs. The log says
/// so once, and once more when that changes.
///
/// A call fails only when every other member failed. A member that failed is passed over by later calls, probed in the
/// background with a signature that is thrown away, and taken back when that works. The envelope names the member that
/// signed, so an opener needs the certificates of all of them in its store.
///
/// A failing member costs the calls that find it out the time that it takes to fail, its own deadline at the most. When no
/// member is known to work, all are tried again, in order.
///
/// The probing thread exists only while a member is passed over, and ends with the signer. It is started anew in a forked
/// child; no lock is taken anywhere in here.
#[derive(Debug, Clone)]
pub struct FailoverSigner {
    inner: Arc<Inner>,
}

/// Which member signs while several work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Preference {
    /// The first of the list that works.
    #[default]
    PreferFirst,
    /// Each in turn.
    RoundRobin,
}

/// How a member of a [`FailoverSigner`] is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberHealth {
    /// Id of its certificate.
    pub signer_id: String,
    /// `None` while it works; else since when it is passed over.
    pub failing_since: Option<SystemTime>,
    /// The class of its last failure, while it is passed over.
    pub class: Option<ErrorClass>,
    /// Whether its certificate is valid. It is passed over while it is not.
    pub validity: Validity,
}

/// Whether a certificate is valid at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Validity {
    /// It is.
    Valid,
    /// It is not yet.
    NotYetValid,
    /// It was.
    Expired,
}

impl Validity {
    fn of(certificate: &Certificate, at: SystemTime) -> Self {
        if certificate.has_expired(at) {
            Self::Expired
        } else if certificate.is_not_yet_valid(at) {
            Self::NotYetValid
        } else {
            Self::Valid
        }
    }
}

impl FailoverSigner {
    /// How long after a failure a member is probed first, unless [`with_probes`](Self::with_probes) says otherwise. The
    /// time doubles with every probe that fails.
    pub const FIRST_PROBE: Duration = Duration::from_secs(1);
    /// The longest time between two probes, unless [`with_probes`](Self::with_probes) says otherwise.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(30);

    /// Joins signers, the preferred one first.
    ///
    /// # Errors
    /// [`FailoverError`] when there is none, or when their schemes differ: an opener is configured for one digest.
    pub fn new(
        members: impl IntoIterator<Item = Arc<dyn Signer>>,
        preference: Preference,
    ) -> Result<Self, FailoverError> {
        Self::with_probes(members, preference, Self::FIRST_PROBE, Self::LONGEST_PAUSE)
    }

    /// Like [`new`](Self::new), with other times between a failure and its first probe, and between two probes.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_probes(
        members: impl IntoIterator<Item = Arc<dyn Signer>>,
        preference: Preference,
        first_probe: Duration,
        longest_pause: Duration,
    ) -> Result<Self, FailoverError> {
        let members: Box<[Member]> = members.into_iter().map(Member::new).collect();
        let (first, others) = members.split_first().ok_or(FailoverError::Empty)?;
        let scheme = first.signer.scheme();
        for (at, other) in (2..).zip(others) {
            if other.signer.scheme() != scheme {
                let found = other.signer.scheme();
                return Err(FailoverError::Schemes { scheme, at, found });
            }
        }
        let certificate = first.signer.certificate().clone();
        let inner = Inner {
            members,
            certificate,
            scheme,
            preference,
            first_probe: first_probe.max(Duration::from_millis(1)),
            longest_pause: longest_pause.max(first_probe),
            turn: AtomicUsize::new(0),
            prober: AtomicU32::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How the members are, in their order.
    #[must_use]
    pub fn health(&self) -> Vec<MemberHealth> {
        self.health_at(SystemTime::now())
    }

    /// Like [`health`](Self::health), as if it were `at`.
    #[must_use]
    pub fn health_at(&self, at: SystemTime) -> Vec<MemberHealth> {
        let members = self.inner.members.iter();
        members.map(|member| member.health(at)).collect()
    }
}

impl Signer for FailoverSigner {
    /// The certificate of the first member.
    fn certificate(&self) -> &Certificate {
        &self.inner.certificate
    }

    fn scheme(&self) -> Scheme {
        self.inner.scheme
    }

    /// Signs with the first member that can, in the order of the [`Preference`].
    ///
    /// # Errors
    /// When every member failed: the last of their errors that says to try again, else the last of all.
    /// [`SignError::OutOfTime`] when none has a certificate that is valid.
    fn sign(&self, message: &[u8]) -> Result<Signature, SignError> {
        self.sign_at(message, SystemTime::now())
    }

    /// Like [`sign`](Self::sign), as if it were `at`.
    ///
    /// # Errors
    /// As for [`sign`](Self::sign).
    fn sign_at(&self, message: &[u8], at: SystemTime) -> Result<Signature, SignError> {
        let mut failure: Option<SignError> = None;
        let members = self.inner.order();
        for member in members.iter().filter(|member| member.is_valid(at)) {
            match member.signer.sign_at(message, at) {
                Ok(signature) => {
                    member.works();
                    return Ok(signature);
                }
                Err(error) => {
                    member.failed(&error);
                    Inner::probe_in_the_background(&self.inner);
                    let keep = |old: &SignError| {
                        old.class().is_retryable() && !error.class().is_retryable()
                    };
                    failure = failure.filter(keep).or(Some(error));
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.inner.out_of_time(at)))
    }
}

struct Inner {
    members: Box<[Member]>,
    certificate: Certificate,
    scheme: Scheme,
    preference: Preference,
    first_probe: Duration,
    longest_pause: Duration,
    turn: AtomicUsize,
    /// The process whose probing thread is at work; 0 when there is none. A forked child has no threads, and sees here
    /// that the one of its parent is not its own.
    prober: AtomicU32,
}

impl Inner {
    /// All members, each once: those that work first.
    fn order(&self) -> Vec<&Member> {
        let start = match self.preference {
            Preference::PreferFirst => 0,
            Preference::RoundRobin => {
                self.turn.fetch_add(1, Ordering::Relaxed) % self.members.len()
            }
        };
        let (before, from) = self.members.split_at(start);
        let (failing, mut order): (Vec<_>, Vec<_>) = from
            .iter()
            .chain(before)
            .partition(|member| member.is_failing());
        order.extend(failing);
        order
    }

    /// No member was tried.
    fn out_of_time(&self, at: SystemTime) -> SignError {
        let describe = |member: &Member| {
            let certificate = member.signer.certificate();
            let what = match Validity::of(certificate, at) {
                Validity::NotYetValid => {
                    format!("is not valid before {}", rfc3339(certificate.not_before()))
                }
                _ => format!("expired at {}", rfc3339(certificate.not_after())),
            };
            format!("{:?} {what}", certificate.id())
        };
        let will_be_valid = |member: &Member| member.signer.certificate().is_not_yet_valid(at);
        SignError::OutOfTime {
            at,
            certificates: self.members.iter().map(describe).collect(),
            will_be_valid: self.members.iter().any(will_be_valid),
        }
    }

    /// Starts the probing thread of this process, unless it is at work.
    fn probe_in_the_background(this: &Arc<Self>) {
        let own = std::process::id();
        let seen = this.prober.load(Ordering::Acquire);
        let exchange = || {
            this.prober
                .compare_exchange(seen, own, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        };
        if seen == own || !exchange() {
            return;
        }
        let (weak, first, longest) = (Arc::downgrade(this), this.first_probe, this.longest_pause);
        let started = thread::Builder::new()
            .name("taskseal-probe".to_owned())
            .spawn(move || probe(&weak, first, longest));
        if let Err(error) = started {
            // Without it a member is only taken back when all others fail too; the next failure tries again.
            tracing::warn!(%error, "no thread could be started to probe the failing signers");
            this.prober.store(0, Ordering::Release);
        }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("members", &self.members)
            .field("preference", &self.preference)
            .finish_non_exhaustive()
    }
}

/// Probes the failing members until none is left or the signer is gone. Holds no reference to it while it waits.
fn probe(signer: &Weak<Inner>, first: Duration, longest: Duration) {
    let mut pause = first;
    loop {
        thread::sleep(pause);
        let Some(inner) = signer.upgrade() else {
            return;
        };
        pause = if inner
            .members
            .iter()
            .filter(|member| member.is_failing())
            .any(Member::probe)
        {
            first
        } else {
            pause.saturating_mul(2).min(longest)
        };
        if inner.members.iter().any(Member::is_failing) {
            continue;
        }
        inner.prober.store(0, Ordering::Release);
        // One may have failed in between, and have seen a thread at work.
        if inner.members.iter().any(Member::is_failing) {
            Inner::probe_in_the_background(&inner);
        }
        return;
    }
}

#[derive(Debug)]
struct Member {
    signer: Arc<dyn Signer>,
    /// Milliseconds since 1970 at which it failed first since it worked; 0 while it works.
    failing_since: AtomicU64,
    /// Index into [`CLASSES`] of its last failure.
    class: AtomicU8,
    /// The [`Validity`] of its certificate that the log was told last.
    validity: AtomicU8,
}

/// The classes that a failure may have.
const CLASSES: [ErrorClass; 7] = [
    ErrorClass::Transient,
    ErrorClass::SessionLost,
    ErrorClass::Busy,
    ErrorClass::Timeout,
    ErrorClass::Credential,
    ErrorClass::Permanent,
    ErrorClass::Rejected,
];

impl Member {
    fn new(signer: Arc<dyn Signer>) -> Self {
        Self {
            signer,
            failing_since: AtomicU64::new(0),
            class: AtomicU8::new(0),
            validity: AtomicU8::new(Validity::Valid as u8),
        }
    }

    /// Whether its certificate is valid. Says it when that has changed.
    fn is_valid(&self, at: SystemTime) -> bool {
        let certificate = self.signer.certificate();
        let validity = Validity::of(certificate, at);
        // Read first: it hardly ever changes, and every signature comes here.
        let has_changed = self.validity.load(Ordering::Relaxed) != validity as u8
            && self.validity.swap(validity as u8, Ordering::Relaxed) != validity as u8;
        if has_changed {
            let signer = certificate.id();
            match validity {
                Validity::Valid => tracing::info!(signer, "a signer's certificate is valid now"),
                Validity::NotYetValid => tracing::warn!(
                    signer,
                    not_before = rfc3339(certificate.not_before()),
                    "a signer's certificate is not valid yet; it is passed over"
                ),
                Validity::Expired => tracing::warn!(
                    signer,
                    not_after = rfc3339(certificate.not_after()),
                    "a signer's certificate has expired; it is passed over"
                ),
            }
        }
        validity == Validity::Valid
    }

    fn is_failing(&self) -> bool {
        self.failing_since.load(Ordering::Acquire) != 0
    }

    fn works(&self) {
        if self.failing_since.swap(0, Ordering::AcqRel) != 0 {
            tracing::info!(
                signer = self.signer.certificate().id(),
                "a signer works again"
            );
        }
    }

    fn failed(&self, error: &SignError) {
        let class = CLASSES
            .iter()
            .position(|class| *class == error.class())
            .unwrap_or_default();
        self.class
            .store(u8::try_from(class).unwrap_or_default(), Ordering::Release);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| since.as_millis());
        let now = u64::try_from(now).unwrap_or(u64::MAX).max(1);
        let first = self
            .failing_since
            .compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if first {
            let signer = self.signer.certificate().id();
            tracing::warn!(signer, class = %error.class(), %error, "a signer failed and is passed over");
        }
    }

    /// Whether it works again.
    fn probe(&self) -> bool {
        let done = self.signer.sign(PROBE);
        match &done {
            Ok(_) => self.works(),
            Err(error) => self.failed(error),
        }
        done.is_ok()
    }

    fn health(&self, at: SystemTime) -> MemberHealth {
        let since = self.failing_since.load(Ordering::Acquire);
        let failing_since = (since != 0)
            .then(|| UNIX_EPOCH.checked_add(Duration::from_millis(since)))
            .flatten();
        let class = CLASSES
            .get(usize::from(self.class.load(Ordering::Acquire)))
            .copied();
        MemberHealth {
            signer_id: self.signer.certificate().id().to_owned(),
            failing_since,
            class: class.filter(|_| failing_since.is_some()),
            validity: Validity::of(self.signer.certificate(), at),
        }
    }
}

/// Signers that cannot be joined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FailoverError {
    /// There is none.
    #[error("a failover signer needs at least one signer")]
    Empty,
    /// Their schemes differ. An opener is configured for one digest.
    #[error(
        "signer {at} signs with {found}, the first one with {scheme}; open them with one scheme"
    )]
    Schemes {
        /// The scheme of the first one.
        scheme: Scheme,
        /// Which one differs, counted from 1.
        at: usize,
        /// Its scheme.
        found: Scheme,
    },
}

impl FailoverError {
    /// Always [`ErrorClass::Permanent`].
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        ErrorClass::Permanent
    }
}
