//! Reading messages and small files, never more of them than is wanted.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::Path;

use crate::failure::Failure;

/// The largest certificate file that is read, in bytes: room for a chain.
const MAX_CERTIFICATE_FILE: usize = 1024 * 1024;

/// Reads a file, or stdin for `-` and nothing; at most `max` bytes.
pub(crate) fn message(file: Option<&Path>, max: usize) -> Result<Vec<u8>, Failure> {
    read(file, max, max)
}

/// Reads an envelope, and takes the one newline off that an editor or `echo` puts after text. Only an envelope that is
/// not text holds a NUL byte, and that stays as it is.
pub(crate) fn envelope(file: Option<&Path>, max: usize) -> Result<Vec<u8>, Failure> {
    let mut wire = read(file, max.saturating_add("\r\n".len()), max)?;
    if !wire.contains(&0) && wire.last() == Some(&b'\n') {
        wire.pop();
        if wire.last() == Some(&b'\r') {
            wire.pop();
        }
    }
    if wire.len() > max {
        return Err(too_large(max));
    }
    Ok(wire)
}

fn read(file: Option<&Path>, limit: usize, max: usize) -> Result<Vec<u8>, Failure> {
    let (bytes, path) = match file {
        Some(path) if path != Path::new("-") => {
            (File::open(path).and_then(|file| bounded(file, limit)), path)
        }
        _ => (stdin(limit), Path::new("stdin")),
    };
    bytes
        .map_err(|error| Failure::file("read", path, &error))?
        .ok_or_else(|| too_large(max))
}

fn too_large(max: usize) -> Failure {
    let text = format!("refused (too-large): the message is longer than {max} bytes");
    Failure::new("too-large", taskseal::ErrorClass::Rejected, text)
        .hint("--max-size BYTES allows a longer one")
}

/// Reads a file of certificates.
pub(crate) fn certificate_file(path: &Path) -> Result<Vec<u8>, Failure> {
    File::open(path)
        .and_then(|file| bounded(file, MAX_CERTIFICATE_FILE))
        .map_err(|error| Failure::file("read", path, &error))?
        .ok_or_else(|| {
            let text = format!("{} is too large for a certificate", path.display());
            Failure::permanent("certificate", text)
        })
}

fn stdin(max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        // Somebody may wonder why nothing happens.
        let _ = writeln!(
            anstream::stderr(),
            "taskseal: reading the message from the terminal; Ctrl-D ends it"
        );
    }
    bounded(stdin.lock(), max)
}

/// Everything, or nothing when it is more than `max` bytes.
fn bounded(reader: impl Read, max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= max).then_some(bytes))
}
