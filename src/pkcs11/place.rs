//! [`Place`]: which module and which token are meant, and the way in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::Error;
use super::filter::TokenFilter;
use super::guard::Guard;
use super::limits::Rules;
use super::module::Module;
use super::pin::PinSource;
use super::process::Deadline;
use super::session::Access;
use super::token::TokenInfo;
use super::uri::{LibraryFilter, Uri};

/// Where a key is. All that is needed to find it again: after a new start of the module, or in a forked child.
#[derive(Clone)]
pub(crate) struct Place {
    pub(super) module: ModuleChoice,
    /// A text for the module at its initialisation.
    pub(super) init_reserved: Option<String>,
    pub(super) library: LibraryFilter,
    pub(super) token: TokenFilter,
    /// A URI that names a source of the PIN, which goes before `pin`.
    pub(super) pin_uri: Option<Uri>,
    pub(super) pin: Option<PinSource>,
    pub(super) login_on_final_try: bool,
    pub(super) rules: Rules,
}

#[derive(Clone)]
pub(super) enum ModuleChoice {
    None,
    Path(PathBuf),
    Name(String),
    Given(Arc<dyn Module>),
}

impl Place {
    /// The module's guard. Loads the library, and calls nothing in it.
    pub(crate) fn guard(&self) -> Result<Guard, Error> {
        let reserved = self.init_reserved.as_deref();
        match &self.module {
            ModuleChoice::None => Err(Error::NoModule),
            ModuleChoice::Path(path) => Ok(Guard::loaded(path, reserved)?.as_ref().clone()),
            ModuleChoice::Name(name) => Ok(Guard::loaded(&find_module(name)?, reserved)?
                .as_ref()
                .clone()),
            ModuleChoice::Given(module) => Ok(Guard::given(module)),
        }
    }

    /// Starts the module and finds the token: the one that is `known` wherever it is now, else the one that is meant.
    pub(crate) fn access(
        &self,
        guard: &Guard,
        known: Option<&TokenInfo>,
        deadline: Deadline,
    ) -> Result<Access, Error> {
        guard.start(&self.rules, deadline)?;
        // Before the token is looked for: if the module is started anew meanwhile, this is seen to be old.
        let epoch = guard.epoch();
        self.check_library(guard)?;
        let token = self.token.find_again(guard, known)?;
        guard.saw_token();
        // A URI says where its own PIN is. What the program was given is for all the others.
        let pin = match (&self.pin_uri, &self.pin) {
            (Some(uri), _) => uri.pin_source()?.unwrap_or_default(),
            (None, Some(pin)) => pin.clone(),
            (None, None) => PinSource::None,
        };
        Ok(Access::new(
            guard.clone(),
            epoch,
            token,
            pin,
            self.login_on_final_try,
        ))
    }

    fn check_library(&self, module: &dyn Module) -> Result<(), Error> {
        let wanted = &self.library;
        if *wanted == LibraryFilter::default() {
            return Ok(());
        }
        let is = module.library().map_err(|call| Error::call(call, None))?;
        let version = wanted.version.is_none_or(|(major, minor)| {
            major == is.version.0 && minor.is_none_or(|minor| minor == is.version.1)
        });
        let same =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        if version
            && same(&wanted.manufacturer, &is.manufacturer)
            && same(&wanted.description, &is.description)
        {
            return Ok(());
        }
        Err(Error::LibraryMismatch {
            path: module.path().to_owned(),
            is: format!(
                "{:?} by {:?}, version {}.{}",
                is.description, is.manufacturer, is.version.0, is.version.1
            ),
        })
    }
}

/// Finds a module by its name, as p11-kit does: `lib<name>.so`, then `<name>.so`, in the usual directories.
fn find_module(name: &str) -> Result<PathBuf, Error> {
    const DIRECTORIES: [&str; 11] = [
        "/usr/lib/softhsm",
        "/usr/local/lib/softhsm",
        "/usr/lib64/softhsm",
        "/usr/lib64/pkcs11",
        "/usr/lib/pkcs11",
        "/usr/local/lib/pkcs11",
        "/usr/lib64",
        "/usr/local/lib",
        "/usr/lib",
        "/opt/homebrew/lib/softhsm",
        "/opt/homebrew/lib",
    ];
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let directories = [
        format!("{multiarch}/pkcs11"),
        format!("{multiarch}/softhsm"),
        multiarch,
    ];
    let directories = directories.iter().map(String::as_str).chain(DIRECTORIES);
    let looked: Vec<PathBuf> = directories.map(PathBuf::from).collect();
    if name.contains(['/', '\0']) || name.is_empty() {
        return Err(Error::Argument(format!(
            "{name:?} is no name of a module; use the path instead"
        )));
    }
    let endings: &[&str] = if cfg!(target_os = "macos") {
        &["so", "dylib"]
    } else {
        &["so"]
    };
    let found = looked.iter().find_map(|directory: &PathBuf| {
        endings.iter().find_map(|ending| {
            [format!("lib{name}.{ending}"), format!("{name}.{ending}")]
                .iter()
                .map(|file| directory.join(file))
                .find(|path: &PathBuf| Path::is_file(path))
        })
    });
    found.ok_or_else(|| Error::ModuleNotFound {
        name: name.to_owned(),
        looked,
    })
}
