//! `taskseal fernet key` in memory.

use std::io::Write as _;
use std::path::Path;

use taskseal::fernet::software::SoftwareKeys;

use crate::failure::Failure;

pub(super) fn generate(out: Option<&Path>) -> Result<(), Failure> {
    let keys = SoftwareKeys::generate()?;
    let Some(path) = out else {
        let mut out = std::io::stdout().lock();
        out.write_all(keys.expose_text().as_bytes())?;
        return Ok(out.write_all(b"\n")?);
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .and_then(|mut file| writeln!(file, "{}", keys.expose_text()))
        .map_err(|error| Failure::file("write", path, &error))
}
