//! A PKCS#11 module that stands before a real one and fails by script or by chance.
//!
//! Use this when a test has to know what a program does while its token is slow, hangs, loses sessions or is away.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use taskseal::Signer as _;
//! use taskseal::pkcs11::Rv;
//! use taskseal_testkit::SoftHsm;
//!
//! let hsm = SoftHsm::start()?;
//! let (builder, faults) = hsm.faulty()?;
//! let signer = builder.object_label(hsm.key_label()).open_signer(hsm.certificate().clone())?;
//! faults
//!     .next("C_Sign")
//!     .fail(Rv::DEVICE_ERROR, 2)
//!     .hang_for(Duration::from_secs(3));
//! signer.sign(b"a message")?; // two failures, then three seconds
//! # Ok(())
//! # }
//! ```

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use taskseal::pkcs11::load;
use taskseal::pkcs11::module::{
    Attribute, AttributeKind, CallError, Module, ModuleSession, ObjectClass, ObjectHandle,
    SignMechanism, User,
};
use taskseal::pkcs11::{self, Pin, Rv, TokenInfo};

use crate::wrap::{Hook, SessionHook, wrap};

/// Label of the key that signs what [`Fault::OtherKey`] hands out.
pub const OTHER_KEY: &str = "other";

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing: the call is made. It takes its turn in a script.
    None,
    /// The call is not made and comes back with this.
    Rv(Rv),
    /// The call is made later.
    Delay(Duration),
    /// The call is made when [`Faults::release`] is called.
    Hang,
    /// `C_Sign`: another key signs.
    OtherKey,
    /// `C_Sign`: a byte is missing.
    Short,
    /// `C_Sign`: a byte too many.
    Long,
    /// `C_GenerateKeyPair`: makes the pair and comes back with this.
    MadeBut(Rv),
    /// This session is gone from now on.
    LoseSession,
    /// The token is away for so long: no slot, and every call in a session is `CKR_DEVICE_REMOVED`. When it is back, the
    /// sessions from before do not come with it.
    Away(Duration),
    /// `C_GetSlotList` is empty for so long.
    NoSlots(Duration),
    /// `C_Initialize` is `CKR_OK`, but there is no slot until the next one.
    Blind,
    /// Until the next `C_Initialize` every call in a session comes back with this.
    Dead(Rv),
    /// As p11-kit-client when its server is killed, and back after so long: until the next `C_Initialize` every call is
    /// `CKR_DEVICE_ERROR`; that one shows no slots until the next, while the server is away.
    ServerAway(Duration),
}

#[derive(Default)]
struct Plan {
    scripts: HashMap<&'static str, VecDeque<Fault>>,
    always: HashMap<&'static str, Fault>,
    chance: Option<Chance>,
    away_until: Option<Instant>,
    no_slots_until: Option<Instant>,
    dead: Option<Rv>,
    cut: bool,
    server_back: Option<Instant>,
    counts: HashMap<&'static str, usize>,
    answers: HashMap<&'static str, HashMap<String, usize>>,
}

/// Faults by chance, from a seed.
#[derive(Debug)]
pub struct Chance {
    state: u64,
    /// Of a million calls of that function, so many get the fault.
    pub faults: Vec<(&'static str, u32, Fault)>,
}

impl Chance {
    /// Draws from this seed: the same seed, the same faults.
    #[must_use]
    pub fn new(seed: u64, faults: Vec<(&'static str, u32, Fault)>) -> Self {
        Self {
            state: seed | 1,
            faults,
        }
    }

    fn draw(&mut self, function: &str) -> Option<Fault> {
        for (name, rate, fault) in &self.faults {
            if *name != function {
                continue;
            }
            // xorshift64*
            self.state ^= self.state >> 12;
            self.state ^= self.state << 25;
            self.state ^= self.state >> 27;
            let number = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
            if number % 1_000_000 < u64::from(*rate) {
                return Some(*fault);
            }
        }
        None
    }
}

/// What goes wrong with a module that [`faulty`] made; shared by it and its sessions.
#[derive(Default)]
pub struct Faults {
    plan: Mutex<Plan>,
    blind: AtomicBool,
    /// How many other instances of the module there are.
    pub others: AtomicUsize,
    /// Objects with a label are not found.
    pub labels_hidden: AtomicBool,
    /// No object is found.
    pub objects_hidden: AtomicBool,
    /// The token has a PIN pad.
    pub pin_pad: AtomicBool,
    open: AtomicUsize,
    /// Counts the token's absences; sessions from before one are gone.
    epoch: AtomicUsize,
    hanging: AtomicUsize,
    released: Mutex<usize>,
    release: Condvar,
}

impl Faults {
    /// What happens to the next calls of the function, `C_…`, told step by step.
    pub fn next(&self, function: &'static str) -> Next<'_> {
        Next {
            faults: self,
            function,
        }
    }

    /// The next calls of the function get these faults, one each.
    pub fn script(&self, function: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.scripts.entry(function).or_default().extend(faults);
    }

    /// Every call of the function gets this fault, until [`clear`](Self::clear).
    pub fn always(&self, function: &'static str, fault: Fault) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .always
            .insert(function, fault);
    }

    /// Calls get faults by chance from now on, or no more.
    pub fn by_chance(&self, chance: Option<Chance>) {
        self.plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .chance = chance;
    }

    /// What the module does from now on, without any call.
    ///
    /// # Panics
    /// With a fault that can only happen to a call, such as [`Fault::Rv`].
    pub fn happens(&self, fault: Fault) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(plan.apply(fault, self), "{fault:?} belongs to a call");
    }

    /// Nothing goes wrong any more. Calls that hang go on hanging.
    pub fn clear(&self) {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.scripts.clear();
        plan.always.clear();
        plan.chance = None;
        plan.away_until = None;
        plan.no_slots_until = None;
        plan.dead = None;
        plan.cut = false;
        plan.server_back = None;
        self.blind.store(false, Ordering::SeqCst);
    }

    /// Lets the calls go on that hang now.
    pub fn release(&self) {
        *self.released.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.release.notify_all();
    }

    /// How often the function was called.
    pub fn count(&self, function: &str) -> usize {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.counts.get(function).copied().unwrap_or(0)
    }

    /// How often it came back from the real module with this.
    pub fn answers(&self, function: &str, answer: &str) -> usize {
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.answers
            .get(function)
            .and_then(|answers| answers.get(answer))
            .copied()
            .unwrap_or(0)
    }

    /// How many sessions are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// How many calls hang.
    pub fn hanging(&self) -> usize {
        self.hanging.load(Ordering::SeqCst)
    }

    fn answered(&self, function: &'static str, answer: &Result<(), CallError>) {
        let text = match answer {
            Ok(()) => "CKR_OK".to_owned(),
            Err(call) => call.rv().map(|rv| rv.to_string()).unwrap_or_default(),
        };
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan
            .answers
            .entry(function)
            .or_default()
            .entry(text)
            .or_default() += 1;
    }

    /// Counts the call and does what delays it; what else is wrong with it is returned.
    fn call(&self, function: &'static str) -> Result<Option<Fault>, CallError> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        *plan.counts.entry(function).or_default() += 1;
        let scripted = plan.scripts.get_mut(function).and_then(VecDeque::pop_front);
        let fault = scripted
            .or_else(|| plan.always.get(function).copied())
            .or_else(|| {
                plan.chance
                    .as_mut()
                    .and_then(|chance| chance.draw(function))
            });
        let Some(fault) = fault else { return Ok(None) };
        match fault {
            Fault::None => {}
            Fault::Rv(rv) => return Err(CallError::new(function, rv)),
            Fault::Delay(time) => {
                drop(plan);
                std::thread::sleep(time);
            }
            Fault::Hang => {
                drop(plan);
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
                let before = *released;
                while *released == before {
                    released = self
                        .release
                        .wait(released)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                self.hanging.fetch_sub(1, Ordering::SeqCst);
            }
            Fault::OtherKey
            | Fault::Short
            | Fault::Long
            | Fault::MadeBut(_)
            | Fault::LoseSession => {
                return Ok(Some(fault));
            }
            Fault::Away(_)
            | Fault::NoSlots(_)
            | Fault::Blind
            | Fault::Dead(_)
            | Fault::ServerAway(_) => {
                plan.apply(fault, self);
            }
        }
        Ok(None)
    }
}

impl Plan {
    fn apply(&mut self, fault: Fault, faults: &Faults) -> bool {
        match fault {
            Fault::Away(time) => {
                self.away_until = Some(Instant::now() + time);
                faults.epoch.fetch_add(1, Ordering::SeqCst);
            }
            Fault::NoSlots(time) => self.no_slots_until = Some(Instant::now() + time),
            Fault::Blind => faults.blind.store(true, Ordering::SeqCst),
            Fault::Dead(rv) => self.dead = Some(rv),
            Fault::ServerAway(time) => {
                self.server_back = Some(Instant::now() + time);
                self.dead = Some(Rv::DEVICE_ERROR);
                self.cut = true;
            }
            _ => return false,
        }
        true
    }

    fn is_away(&self) -> bool {
        self.away_until.is_some_and(|until| Instant::now() < until)
    }
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}

/// The real module at `path` behind faults, of which there are none yet. `Builder::module_implementation` takes it.
///
/// # Errors
/// The module cannot be loaded.
pub fn faulty(path: &Path) -> Result<(Arc<dyn Module>, Arc<Faults>), pkcs11::Error> {
    let faults = Arc::new(Faults::default());
    Ok((wrap(load(path)?, faults.clone()), faults))
}

/// What happens to the next calls of one function: the steps of [`Faults::next`], each behind those that were told before.
#[derive(Debug)]
pub struct Next<'a> {
    faults: &'a Faults,
    function: &'static str,
}

impl Next<'_> {
    /// So many calls are made as if nothing stood before the module.
    pub fn pass(self, times: usize) -> Self {
        self.then(Fault::None, times)
    }

    /// So many calls are not made and come back with this.
    pub fn fail(self, rv: Rv, times: usize) -> Self {
        self.then(Fault::Rv(rv), times)
    }

    /// One call is made so much later.
    pub fn hang_for(self, time: Duration) -> Self {
        self.then(Fault::Delay(time), 1)
    }

    /// One call is made when [`Faults::release`] is called.
    pub fn hang(self) -> Self {
        self.then(Fault::Hang, 1)
    }

    /// So many calls get this fault.
    pub fn then(self, fault: Fault, times: usize) -> Self {
        self.faults
            .script(self.function, std::iter::repeat_n(fault, times));
        self
    }
}

impl Hook for Faults {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.call(function).map(drop)
    }

    fn session(self: Arc<Self>) -> Box<dyn SessionHook> {
        self.open.fetch_add(1, Ordering::SeqCst);
        Box::new(FaultSession {
            epoch: self.epoch.load(Ordering::SeqCst),
            faults: self,
            lost: AtomicBool::new(false),
        })
    }

    fn another(&self) -> bool {
        let left = |others: usize| others.checked_sub(1);
        self.others
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .is_ok()
    }

    fn initialize(&self, inner: &dyn Module) -> Result<(), CallError> {
        self.blind.store(false, Ordering::SeqCst);
        self.before("C_Initialize")?;
        inner.initialize()?;
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        plan.dead = None;
        plan.cut = false;
        if plan.server_back.is_some_and(|back| Instant::now() < back) {
            self.blind.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn slots(&self, inner: &dyn Module) -> Result<Vec<u64>, CallError> {
        self.before("C_GetSlotList")?;
        let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        if plan.cut {
            return Err(CallError::new("C_GetSlotList", Rv::DEVICE_ERROR));
        }
        let hidden = plan
            .no_slots_until
            .is_some_and(|until| Instant::now() < until);
        if hidden || plan.is_away() || self.blind.load(Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        drop(plan);
        inner.slots()
    }

    fn token(&self, inner: &dyn Module, slot: u64) -> Result<TokenInfo, CallError> {
        self.before("C_GetTokenInfo")?;
        let mut info = inner.token(slot)?;
        info.flags.protected_authentication_path = self.pin_pad.load(Ordering::SeqCst);
        Ok(info)
    }

    fn open_session(
        &self,
        inner: &dyn Module,
        slot: u64,
        writable: bool,
    ) -> Result<Box<dyn ModuleSession>, CallError> {
        const NAME: &str = "C_OpenSession";
        self.before(NAME)?;
        if self
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_away()
        {
            return Err(CallError::new(NAME, Rv::TOKEN_NOT_PRESENT));
        }
        inner.open_session(slot, writable)
    }
}

struct FaultSession {
    faults: Arc<Faults>,
    epoch: usize,
    lost: AtomicBool,
}

impl FaultSession {
    fn fault(&self, function: &'static str) -> Result<Option<Fault>, CallError> {
        let failed = |rv| Err(CallError::new(function, rv));
        let fault = self.faults.call(function)?;
        let plan = self
            .faults
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if plan.is_away() {
            return failed(Rv::DEVICE_REMOVED);
        }
        if let Some(rv) = plan.dead {
            return failed(rv);
        }
        drop(plan);
        if matches!(fault, Some(Fault::LoseSession)) {
            self.lost.store(true, Ordering::SeqCst);
        }
        let gone = self.epoch != self.faults.epoch.load(Ordering::SeqCst);
        if gone || self.lost.load(Ordering::SeqCst) {
            return failed(Rv::SESSION_HANDLE_INVALID);
        }
        Ok(fault)
    }
}

impl Drop for FaultSession {
    fn drop(&mut self) {
        self.faults.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl SessionHook for FaultSession {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.fault(function).map(drop)
    }

    fn login(
        &self,
        inner: &dyn ModuleSession,
        user: User,
        pin: Option<&Pin>,
    ) -> Result<(), CallError> {
        self.before("C_Login")?;
        let answer = inner.login(user, pin);
        self.faults.answered("C_Login", &answer);
        answer
    }

    fn find(
        &self,
        inner: &dyn ModuleSession,
        template: &[Attribute],
    ) -> Result<Vec<ObjectHandle>, CallError> {
        self.before("C_FindObjects")?;
        let is_labelled = |attribute: &Attribute| attribute.kind == AttributeKind::Label;
        let labels = self.faults.labels_hidden.load(Ordering::SeqCst);
        if self.faults.objects_hidden.load(Ordering::SeqCst)
            || (labels && template.iter().any(is_labelled))
        {
            return Ok(Vec::new());
        }
        inner.find(template)
    }

    fn sign(
        &self,
        inner: &dyn ModuleSession,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let fault = self.fault("C_Sign")?;
        let key = match fault {
            Some(Fault::OtherKey) => {
                let other = [
                    Attribute::class(ObjectClass::PrivateKey),
                    Attribute::bytes(AttributeKind::Label, OTHER_KEY.as_bytes()),
                ];
                *inner
                    .find(&other)?
                    .first()
                    .ok_or(CallError::new("C_Sign", Rv::KEY_HANDLE_INVALID))?
            }
            _ => key,
        };
        let mut signature = inner.sign(mechanism, key, data)?;
        match fault {
            Some(Fault::Short) => drop(signature.pop()),
            Some(Fault::Long) => signature.push(0),
            _ => {}
        }
        Ok(signature)
    }

    fn generate_rsa(
        &self,
        inner: &dyn ModuleSession,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        let fault = self.fault("C_GenerateKeyPair")?;
        let made = inner.generate_rsa(public, private)?;
        match fault {
            Some(Fault::MadeBut(rv)) => Err(CallError::new("C_GenerateKeyPair", rv)),
            _ => Ok(made),
        }
    }
}
