//! The files of a demo, its message, and what is said when it does not go as promised.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A task message of Celery's protocol 2: positional arguments, keyword arguments, options.
pub(super) const BODY: &str = r#"[["report-7.pdf", 3], {"priority": "high"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

/// Something that the demo promises did not happen.
pub(super) fn broken(what: &str) -> Failure {
    Failure::permanent("demo", format!("the demo did not go as promised: {what}"))
}

/// The files of a demo.
pub(super) struct Place {
    pub(super) directory: PathBuf,
}

impl Place {
    pub(super) fn of(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    pub(super) fn configuration(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    pub(super) fn pin_file(&self) -> PathBuf {
        self.directory.join("pin")
    }

    /// The certificate store.
    pub(super) fn trusted(&self) -> PathBuf {
        self.directory.join("trusted")
    }

    pub(super) fn sealed(&self) -> PathBuf {
        self.directory.join("task.sealed")
    }

    /// Makes the directories, SoftHSM's configuration, and the PIN file.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let tokens = self.directory.join("tokens");
        fs::create_dir(&tokens)?;
        fs::create_dir(self.trusted())?;
        let configuration = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            tokens.display()
        );
        fs::write(self.configuration(), configuration)?;
        write_private(
            &self.pin_file(),
            &format!("{:08}\n", random_number() % 100_000_000),
        )
    }
}

/// For the PIN of a token in a directory that only this user can read.
fn random_number() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}
