//! [`Role`]: which certificates of a store are signers, and which are there because a chain is.
//!
//! A file that an ACME client or an authority's tool wrote is a leaf and its chain. Only the leaf is meant to be trusted:
//! whoever holds the key of an authority must not be able to sign messages with it.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::certificate::{Link, NameHash};

/// What a certificate of a store counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Messages are verified with it.
    Signer,
    /// It issued another certificate of its file.
    Issuer,
    /// It is an authority's (`CA:TRUE`), and was issued itself or is in a file with certificates that were.
    Authority,
    /// It is an authority's, and it issued a certificate that is in another file of the store.
    AuthorityOfOthers,
}

impl Role {
    /// Whether messages are verified with it.
    #[must_use]
    pub const fn is_signer(self) -> bool {
        matches!(self, Self::Signer)
    }

    /// `signer`, or `chain` for all that are not.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signer => "signer",
            Self::Issuer | Self::Authority | Self::AuthorityOfOthers => "chain",
        }
    }
}

/// The role with its reason.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signer => "signer",
            Self::Issuer => "chain: it issued another one of its file",
            Self::Authority => {
                "chain: an authority, issued itself or beside certificates that were"
            }
            Self::AuthorityOfOthers => "chain: an authority that issued one of the store",
        })
    }
}

/// The roles of the certificates of one file, as far as that file says. `whole` is false when something in the file could
/// not be read: then an authority may belong to just that.
pub(super) fn in_file<'a>(links: impl Iterator<Item = &'a Link> + Clone, whole: bool) -> Vec<Role> {
    let issued = Issued::new(links.clone());
    let has_issued = !whole || links.clone().any(|link| !link.is_self_issued());
    let is_alone = whole && links.clone().nth(1).is_none();
    links
        .map(|link| match link {
            _ if is_alone => Role::Signer,
            _ if issued.by(link) => Role::Issuer,
            _ if has_issued && link.is_authority => Role::Authority,
            _ => Role::Signer,
        })
        .collect()
}

/// Who issued a set of certificates: subjects, with their key identifiers where they are known.
#[derive(Debug, Default)]
pub(super) struct Issued<'a> {
    by_name: HashMap<NameHash, Keys<'a>>,
}

#[derive(Debug, Default)]
struct Keys<'a> {
    /// A certificate does not say which key of that name issued it.
    any: bool,
    named: HashSet<&'a [u8]>,
}

impl<'a> Issued<'a> {
    pub(super) fn new(links: impl Iterator<Item = &'a Link>) -> Self {
        let mut issued = Self::default();
        // What signed itself was issued by nobody else.
        for link in links.filter(|link| !link.is_self_issued()) {
            let keys = issued.by_name.entry(link.issuer).or_default();
            match &link.authority_key {
                Some(key) => {
                    keys.named.insert(key);
                }
                None => keys.any = true,
            }
        }
        issued
    }

    /// Whether this one issued one of them: by its name, and by its key where both say which.
    pub(super) fn by(&self, link: &Link) -> bool {
        self.by_name
            .get(&link.subject)
            .is_some_and(|keys| match &link.subject_key {
                Some(key) => keys.any || keys.named.contains(&**key),
                None => true,
            })
    }
}
