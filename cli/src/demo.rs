//! `taskseal demo`: the whole way of a message on a SoftHSM token that is made for it and thrown away.

mod encrypt;
mod place;
mod readable;
mod refusals;
mod show;
mod story;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::place::Place;
use crate::args::Global;
use crate::args::token::DemoArgs;
use crate::failure::Failure;

/// Where the packages of the usual systems put SoftHSM's module.
const MODULES: [&str; 10] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/lib/libsofthsm2.so",
];

pub(crate) fn run(args: &DemoArgs, global: Global) -> Result<(), Failure> {
    match &args.inside {
        Some(inside) => story::tell(&Place::of(inside), &module(args)?, args, global),
        None => outside(args),
    }
}

/// Makes the place and runs this command again in it: SoftHSM finds its tokens by a variable that it reads when it is
/// loaded, and changing a process' own environment is not safe.
fn outside(args: &DemoArgs) -> Result<(), Failure> {
    let module = module(args)?;
    // Removed again when it is dropped.
    let mut temporary = None;
    let directory = match &args.keep {
        Some(directory) => kept(directory)?,
        None => {
            let made = tempfile::Builder::new().prefix("taskseal-demo-").tempdir();
            let made = made.map_err(|error| {
                Failure::file("make a directory in", &std::env::temp_dir(), &error)
            })?;
            temporary.insert(made).path().to_owned()
        }
    };
    let place = Place::of(&directory);
    place
        .prepare()
        .map_err(|error| Failure::file("prepare", &directory, &error))?;
    let failed =
        |error: io::Error| Failure::permanent("demo", format!("cannot run the demo: {error}"));
    let status = Command::new(std::env::current_exe().map_err(failed)?)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .arg(&directory)
        .env("SOFTHSM2_CONF", place.configuration())
        .env("SOFTHSM2_MODULE", module)
        .stdin(Stdio::null())
        .status()
        .map_err(failed)?;
    match status.code() {
        Some(0) => Ok(()),
        // It has said why.
        Some(_) => Err(Failure::silent()),
        None => Err(Failure::permanent(
            "demo",
            format!("the demo was ended: {status}"),
        )),
    }
}

/// A directory of the user's, new or empty.
fn kept(directory: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| Failure::file("use", directory, &error);
    fs::create_dir_all(directory).map_err(failed)?;
    if fs::read_dir(directory).map_err(failed)?.next().is_some() {
        let text = format!("{} is not empty", directory.display());
        return Err(
            Failure::permanent("exists", text).hint("--keep takes a new or an empty directory")
        );
    }
    directory.canonicalize().map_err(failed)
}

fn module(args: &DemoArgs) -> Result<PathBuf, Failure> {
    if let Some(module) = &args.module {
        return match fs::metadata(module) {
            Ok(_) => Ok(module.clone()),
            Err(error) => Err(Failure::file("use the module", module, &error)),
        };
    }
    std::env::var_os("SOFTHSM2_MODULE")
        .map(PathBuf::from)
        .into_iter()
        .chain(MODULES.map(PathBuf::from))
        .find(|module| module.is_file())
        .ok_or_else(|| {
            Failure::permanent("no-softhsm", "SoftHSM is not installed: there is no libsofthsm2.so in the usual places")
                .hint("Debian and Ubuntu: sudo apt-get install softhsm2; or name the module with --module PATH")
        })
}
