//! A module that stands before a real one and fails by script or by chance.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use taskseal::pkcs11::module::{
    Attribute, AttributeKind, Attributes, CallError, CipherMechanism, LibraryInfo, MechanismInfo,
    MechanismKind, Module, ModuleSession, ObjectClass, ObjectHandle, SignMechanism, SlotInfo, User,
    load,
};
use taskseal::pkcs11::{Pin, Rv, TokenInfo};

/// Label of the key that signs what [`Fault::OtherKey`] hands out.
pub const OTHER_KEY: &str = "other";

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
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
}

#[derive(Default)]
struct Plan {
    scripts: HashMap<&'static str, VecDeque<Fault>>,
    always: HashMap<&'static str, Fault>,
    chance: Option<Chance>,
    away_until: Option<Instant>,
    no_slots_until: Option<Instant>,
    dead: Option<Rv>,
    counts: HashMap<&'static str, usize>,
    answers: HashMap<&'static str, HashMap<String, usize>>,
}

/// Faults by chance, from a seed.
pub struct Chance {
    state: u64,
    /// Of a million calls of that function, so many get the fault.
    pub faults: Vec<(&'static str, u32, Fault)>,
}

impl Chance {
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

/// What the module and its sessions share.
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
    most_open: AtomicUsize,
    /// Counts the token's absences; sessions from before one are gone.
    epoch: AtomicUsize,
    hanging: AtomicUsize,
    released: Mutex<usize>,
    release: Condvar,
}

impl Faults {
    /// The next calls of the function get these faults, one each.
    pub fn script(&self, function: &'static str, faults: impl IntoIterator<Item = Fault>) {
        let mut plan = self.plan.lock().unwrap();
        plan.scripts.entry(function).or_default().extend(faults);
    }

    /// Every call of the function gets this fault, until [`clear`](Self::clear).
    pub fn always(&self, function: &'static str, fault: Fault) {
        self.plan.lock().unwrap().always.insert(function, fault);
    }

    pub fn by_chance(&self, chance: Option<Chance>) {
        self.plan.lock().unwrap().chance = chance;
    }

    /// What the module does from now on, without any call.
    pub fn happens(&self, fault: Fault) {
        self.plan.lock().unwrap().apply(fault, self);
    }

    /// Nothing goes wrong any more. Calls that hang go on hanging.
    pub fn clear(&self) {
        let mut plan = self.plan.lock().unwrap();
        plan.scripts.clear();
        plan.always.clear();
        plan.chance = None;
        plan.away_until = None;
        plan.no_slots_until = None;
        plan.dead = None;
        self.blind.store(false, Ordering::SeqCst);
    }

    /// Lets the calls go on that hang now.
    pub fn release(&self) {
        *self.released.lock().unwrap() += 1;
        self.release.notify_all();
    }

    /// How often the function was called.
    pub fn count(&self, function: &str) -> usize {
        let plan = self.plan.lock().unwrap();
        plan.counts.get(function).copied().unwrap_or(0)
    }

    /// How often it came back from the real module with this.
    pub fn answers(&self, function: &str, answer: &str) -> usize {
        let plan = self.plan.lock().unwrap();
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
        let mut plan = self.plan.lock().unwrap();
        *plan
            .answers
            .entry(function)
            .or_default()
            .entry(text)
            .or_default() += 1;
    }

    /// Counts the call and does what delays it; what else is wrong with it is returned.
    fn call(&self, function: &'static str) -> Result<Option<Fault>, CallError> {
        let mut plan = self.plan.lock().unwrap();
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
            Fault::Rv(rv) => return Err(CallError::new(function, rv)),
            Fault::Delay(time) => {
                drop(plan);
                std::thread::sleep(time);
            }
            Fault::Hang => {
                drop(plan);
                self.hanging.fetch_add(1, Ordering::SeqCst);
                let mut released = self.released.lock().unwrap();
                let before = *released;
                while *released == before {
                    released = self.release.wait(released).unwrap();
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
            Fault::Away(_) | Fault::NoSlots(_) | Fault::Blind | Fault::Dead(_) => {
                plan.apply(fault, self);
            }
        }
        Ok(None)
    }
}

impl Plan {
    fn apply(&mut self, fault: Fault, faults: &Faults) {
        match fault {
            Fault::Away(time) => {
                self.away_until = Some(Instant::now() + time);
                faults.epoch.fetch_add(1, Ordering::SeqCst);
            }
            Fault::NoSlots(time) => self.no_slots_until = Some(Instant::now() + time),
            Fault::Blind => faults.blind.store(true, Ordering::SeqCst),
            Fault::Dead(rv) => self.dead = Some(rv),
            _ => panic!("{fault:?} belongs to a call"),
        }
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

/// The real module at `path` behind faults, of which there are none yet.
pub fn faulty(path: &Path) -> (Arc<dyn Module>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let module = FaultModule {
        inner: load(path).unwrap(),
        faults: faults.clone(),
    };
    (Arc::new(module), faults)
}

#[derive(Debug)]
struct FaultModule {
    inner: Arc<dyn Module>,
    faults: Arc<Faults>,
}

impl FaultModule {
    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.faults.call(function).map(|_| ())
    }
}

impl Module for FaultModule {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn initialize(&self) -> Result<(), CallError> {
        self.faults.blind.store(false, Ordering::SeqCst);
        self.before("C_Initialize")?;
        self.inner.initialize()?;
        self.faults.plan.lock().unwrap().dead = None;
        Ok(())
    }

    fn finalize(&self) -> Result<(), CallError> {
        self.before("C_Finalize")?;
        self.inner.finalize()
    }

    fn another(&self) -> Option<Arc<dyn Module>> {
        let others = &self.faults.others;
        let left = |others: usize| others.checked_sub(1);
        others
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, left)
            .ok()?;
        Some(Arc::new(Self {
            inner: self.inner.clone(),
            faults: self.faults.clone(),
        }))
    }

    fn library(&self) -> Result<LibraryInfo, CallError> {
        self.before("C_GetInfo")?;
        self.inner.library()
    }

    fn slots(&self) -> Result<Vec<u64>, CallError> {
        self.before("C_GetSlotList")?;
        let plan = self.faults.plan.lock().unwrap();
        let hidden = plan
            .no_slots_until
            .is_some_and(|until| Instant::now() < until);
        if hidden || plan.is_away() || self.faults.blind.load(Ordering::SeqCst) {
            return Ok(Vec::new());
        }
        drop(plan);
        self.inner.slots()
    }

    fn slot(&self, slot: u64) -> Result<SlotInfo, CallError> {
        self.before("C_GetSlotInfo")?;
        self.inner.slot(slot)
    }

    fn token(&self, slot: u64) -> Result<TokenInfo, CallError> {
        self.before("C_GetTokenInfo")?;
        let mut info = self.inner.token(slot)?;
        info.flags.protected_authentication_path = self.faults.pin_pad.load(Ordering::SeqCst);
        Ok(info)
    }

    fn mechanism(
        &self,
        slot: u64,
        kind: MechanismKind,
    ) -> Result<Option<MechanismInfo>, CallError> {
        self.before("C_GetMechanismInfo")?;
        self.inner.mechanism(slot, kind)
    }

    fn open_session(&self, slot: u64, writable: bool) -> Result<Box<dyn ModuleSession>, CallError> {
        const NAME: &str = "C_OpenSession";
        self.before(NAME)?;
        if self.faults.plan.lock().unwrap().is_away() {
            return Err(CallError::new(NAME, Rv::TOKEN_NOT_PRESENT));
        }
        let inner = self.inner.open_session(slot, writable)?;
        let open = self.faults.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.faults.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Box::new(FaultSession {
            inner: Some(inner),
            faults: self.faults.clone(),
            epoch: self.faults.epoch.load(Ordering::SeqCst),
            lost: AtomicBool::new(false),
        }))
    }

    fn init_token(&self, slot: u64, so_pin: &Pin, label: &str) -> Result<(), CallError> {
        self.before("C_InitToken")?;
        self.inner.init_token(slot, so_pin, label)
    }
}

struct FaultSession {
    /// `None` only after it was closed.
    inner: Option<Box<dyn ModuleSession>>,
    faults: Arc<Faults>,
    epoch: usize,
    lost: AtomicBool,
}

impl FaultSession {
    fn inner(&self) -> &dyn ModuleSession {
        self.inner.as_deref().unwrap()
    }

    fn before(&self, function: &'static str) -> Result<(), CallError> {
        self.fault(function).map(|_| ())
    }

    fn fault(&self, function: &'static str) -> Result<Option<Fault>, CallError> {
        let failed = |rv| Err(CallError::new(function, rv));
        let fault = self.faults.call(function)?;
        let plan = self.faults.plan.lock().unwrap();
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

impl ModuleSession for FaultSession {
    fn close(mut self: Box<Self>) -> Result<(), CallError> {
        self.before("C_CloseSession")?;
        self.inner.take().unwrap().close()
    }

    fn user_is_logged_in(&self) -> Result<bool, CallError> {
        self.before("C_GetSessionInfo")?;
        self.inner().user_is_logged_in()
    }

    fn login(&self, user: User, pin: Option<&Pin>) -> Result<(), CallError> {
        self.before("C_Login")?;
        let answer = self.inner().login(user, pin);
        self.faults.answered("C_Login", &answer);
        answer
    }

    fn init_pin(&self, pin: &Pin) -> Result<(), CallError> {
        self.before("C_InitPIN")?;
        self.inner().init_pin(pin)
    }

    fn find(&self, template: &[Attribute]) -> Result<Vec<ObjectHandle>, CallError> {
        self.before("C_FindObjects")?;
        let is_labelled = |attribute: &Attribute| attribute.kind == AttributeKind::Label;
        let labels = self.faults.labels_hidden.load(Ordering::SeqCst);
        if self.faults.objects_hidden.load(Ordering::SeqCst)
            || (labels && template.iter().any(is_labelled))
        {
            return Ok(Vec::new());
        }
        self.inner().find(template)
    }

    fn attributes(
        &self,
        object: ObjectHandle,
        kinds: &[AttributeKind],
    ) -> Result<Attributes, CallError> {
        self.before("C_GetAttributeValue")?;
        self.inner().attributes(object, kinds)
    }

    fn sign(
        &self,
        mechanism: SignMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let fault = self.fault("C_Sign")?;
        let inner = self.inner();
        let key = match fault {
            Some(Fault::OtherKey) => {
                let other = [
                    Attribute::class(ObjectClass::PrivateKey),
                    Attribute::bytes(AttributeKind::Label, OTHER_KEY.as_bytes()),
                ];
                *inner.find(&other)?.first().unwrap()
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

    fn sign_init(&self, mechanism: SignMechanism, key: ObjectHandle) -> Result<(), CallError> {
        self.before("C_SignInit")?;
        self.inner().sign_init(mechanism, key)
    }

    fn sign_update(&self, data: &[u8]) -> Result<(), CallError> {
        self.before("C_SignUpdate")?;
        self.inner().sign_update(data)
    }

    fn sign_final(&self) -> Result<Vec<u8>, CallError> {
        self.before("C_SignFinal")?;
        self.inner().sign_final()
    }

    fn encrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Encrypt")?;
        self.inner().encrypt(mechanism, key, data)
    }

    fn decrypt(
        &self,
        mechanism: CipherMechanism,
        key: ObjectHandle,
        data: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        self.before("C_Decrypt")?;
        self.inner().decrypt(mechanism, key, data)
    }

    fn generate_secret(
        &self,
        mechanism: MechanismKind,
        template: &[Attribute],
    ) -> Result<ObjectHandle, CallError> {
        self.before("C_GenerateKey")?;
        self.inner().generate_secret(mechanism, template)
    }

    fn generate_rsa(
        &self,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<(ObjectHandle, ObjectHandle), CallError> {
        let fault = self.fault("C_GenerateKeyPair")?;
        let made = self.inner().generate_rsa(public, private)?;
        match fault {
            Some(Fault::MadeBut(rv)) => Err(CallError::new("C_GenerateKeyPair", rv)),
            _ => Ok(made),
        }
    }

    fn create(&self, template: &[Attribute]) -> Result<ObjectHandle, CallError> {
        self.before("C_CreateObject")?;
        self.inner().create(template)
    }

    fn destroy(&self, object: ObjectHandle) -> Result<(), CallError> {
        self.before("C_DestroyObject")?;
        self.inner().destroy(object)
    }
}
