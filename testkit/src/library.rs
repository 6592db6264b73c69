//! The copy of SoftHSM's module that each token of a test has.
//!
//! SoftHSM asks for its configuration in `C_Initialize`: in the file that `SOFTHSM2_CONF` names, else in the user's
//! directory, else in a place that was fixed when it was built. A module is loaded once per process, so with the variable
//! all tests of a process would share one configuration, and a program with threads could not set it safely. So the kit
//! writes the path of the configuration into a copy of the module, at the two fixed places, and takes the variable's name
//! out. Two copies are two modules for the loader. Nothing in the environment decides any more, in any process.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// The variable's name in the module, with its end.
const VARIABLE: &[u8] = b"SOFTHSM2_CONF\0";
/// The user's configuration.
const USER: &[u8] = b"%s/.config/softhsm2/softhsm2.conf\0";
/// How the built-in path ends.
const BUILT_IN: &[u8] = b"/softhsm2.conf\0";

/// The module's bytes and the places in them.
#[derive(Debug)]
pub(crate) struct Library {
    bytes: Vec<u8>,
    variable: usize,
    /// Start and length of the places for the configuration's path.
    paths: Vec<(usize, usize)>,
}

impl Library {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::file(path))?;
        Self::parse(bytes).ok_or_else(|| Error::UnknownModule(path.to_owned()))
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let variable = find(&bytes, VARIABLE)?;
        let mut paths = Vec::new();
        let user = find(&bytes, USER);
        paths.extend(user.map(|start| (start, USER.len() - 1)));
        // The built-in path has to be there: without a home directory the user's is not asked.
        let mut from = 0;
        let mut built_in = false;
        while let Some(found) = bytes.get(from..).and_then(|rest| find(rest, BUILT_IN)) {
            let end = from + found + BUILT_IN.len() - 1;
            let before = bytes.get(..end)?.iter().rposition(|byte| *byte == 0);
            let start = before.map_or(0, |zero| zero + 1);
            if bytes.get(start) == Some(&b'/') {
                paths.push((start, end - start));
                built_in = true;
            }
            from = end;
        }
        built_in.then_some(Self {
            bytes,
            variable,
            paths,
        })
    }

    /// How many bytes the path of a configuration may have.
    pub(crate) fn room(&self) -> usize {
        self.paths
            .iter()
            .map(|(_, length)| *length)
            .min()
            .unwrap_or(0)
    }

    /// Writes the copy that reads this configuration. A path longer than [`room`](Self::room) is refused.
    pub(crate) fn write(mut self, configuration: &Path, copy: &PathBuf) -> Result<(), Error> {
        let text = configuration.as_os_str().as_encoded_bytes();
        let at_most = self.room();
        if text.len() > at_most || text.contains(&b'%') {
            return Err(Error::PathTooLong { at_most });
        }
        for (start, length) in &self.paths {
            let place = self.bytes.iter_mut().skip(*start).take(*length);
            let padded = text.iter().copied().chain(std::iter::repeat(0));
            place.zip(padded).for_each(|(byte, new)| *byte = new);
        }
        // No variable has an empty name.
        if let Some(byte) = self.bytes.get_mut(self.variable) {
            *byte = 0;
        }
        std::fs::write(copy, &self.bytes).map_err(Error::file(copy))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const FEDORA: &[u8] =
        b"\x7fELF\0SOFTHSM2_CONF\0/etc/softhsm2.conf\0%s/.config/softhsm2/softhsm2.conf\0rest";

    #[test]
    fn the_shortest_place_is_the_room() {
        assert_eq!(Library::parse(FEDORA.to_vec()).unwrap().room(), 18);
    }

    #[test]
    fn both_places_hold_the_new_path_and_nothing_else_moves() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        let library = Library::parse(FEDORA.to_vec()).unwrap();
        library.write(Path::new("/tmp/tsabcdef/c"), &copy).unwrap();
        let written = std::fs::read(&copy).unwrap();
        let mut expected =
            b"\x7fELF\0\0OFTHSM2_CONF\0/tmp/tsabcdef/c\0\0\0\0/tmp/tsabcdef/c".to_vec();
        expected.extend([0; 19]);
        expected.extend(b"rest");
        assert_eq!(written, expected);
    }

    #[test]
    fn a_path_that_has_no_room_is_refused() {
        let library = Library::parse(FEDORA.to_vec()).unwrap();
        let path = Path::new("/a/path/of/more/than/18/bytes");
        let answer = library.write(path, &PathBuf::from("/nowhere/at/all"));
        assert!(matches!(answer, Err(Error::PathTooLong { at_most: 18 })));
    }

    #[test]
    fn what_is_not_softhsm_is_not_copied() {
        assert!(Library::parse(b"\x7fELF another module".to_vec()).is_none());
        assert!(Library::parse(b"SOFTHSM2_CONF\0 and no path".to_vec()).is_none());
    }
}
