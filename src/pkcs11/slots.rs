//! The tokens in a module's slots, and finding the one that is meant.

use super::error::{Error, TokenWanted};
use super::filter::TokenFilter;
use super::module::{CallError, Module};
use super::token::TokenInfo;

/// What is known of the token in a slot. One bad slot must not end a search, so failing to read is part of the
/// answer.
pub(super) fn read_token(module: &dyn Module, slot: u64) -> TokenInfo {
    module.token(slot).unwrap_or_else(|error| {
        tracing::debug!(slot, %error, "a token's information cannot be read");
        TokenInfo {
            unreadable: Some(error.to_string()),
            ..TokenInfo::new(slot)
        }
    })
}

/// Every token of a module.
pub(crate) fn tokens(module: &dyn Module) -> Result<Vec<TokenInfo>, CallError> {
    Ok(module
        .slots()?
        .into_iter()
        .map(|slot| read_token(module, slot))
        .collect())
}

impl TokenFilter {
    /// Finds the one token that is meant.
    pub(crate) fn find(&self, module: &dyn Module) -> Result<TokenInfo, Error> {
        let all = tokens(module).map_err(|call| Error::call(call, None))?;
        let mut matching = Vec::new();
        for token in &all {
            if self.matches(module, token) {
                matching.push(token.clone());
            }
        }
        let wanted = TokenWanted {
            module: module.path().to_owned(),
            attributes: self.to_string(),
        };
        match (matching.pop(), matching.is_empty()) {
            (Some(token), true) => Ok(token),
            (Some(token), false) => {
                matching.push(token);
                Err(Error::SeveralTokens {
                    wanted,
                    found: matching,
                })
            }
            (None, _) => Err(Error::TokenNotFound { wanted, found: all }),
        }
    }

    /// Finds a token again that is `known`: slots change their numbers whenever a module is started, and its label may
    /// have become another's too. If it is nowhere, what the filter means now is taken.
    pub(crate) fn find_again(
        &self,
        module: &dyn Module,
        known: Option<&TokenInfo>,
    ) -> Result<TokenInfo, Error> {
        let Some(known) = known.filter(|known| known.unreadable.is_none()) else {
            return self.find(module);
        };
        let all = tokens(module).map_err(|call| Error::call(call, None))?;
        let identity = known.identity();
        let mut same = all
            .into_iter()
            .filter(|token| token.unreadable.is_none() && token.identity() == identity);
        match (same.next(), same.next()) {
            (Some(token), None) => Ok(token),
            _ => self.find(module),
        }
    }

    fn matches(&self, module: &dyn Module, token: &TokenInfo) -> bool {
        fn same(wanted: Option<&String>, is: &str) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        let by_token = [&self.label, &self.manufacturer, &self.serial, &self.model];
        let named = by_token.iter().any(|wanted| wanted.is_some());
        if self.slot_id.is_some_and(|slot| slot != token.slot_id) {
            return false;
        }
        if token.unreadable.is_some() {
            // Found by its slot alone; what it is called cannot be known.
            return self.slot_id.is_some() && !named;
        }
        // A blank token is always listed by some modules. It holds no key, so it is meant only when its slot is named.
        if !token.flags.initialized && self.slot_id.is_none() && !named {
            return false;
        }
        same(self.label.as_ref(), &token.label)
            && same(self.manufacturer.as_ref(), &token.manufacturer)
            && same(self.serial.as_ref(), &token.serial)
            && same(self.model.as_ref(), &token.model)
            && self.slot_matches(module, token.slot_id)
    }

    fn slot_matches(&self, module: &dyn Module, slot: u64) -> bool {
        if self.slot_description.is_none() && self.slot_manufacturer.is_none() {
            return true;
        }
        module.slot(slot).is_ok_and(|info| {
            self.slot_description
                .as_ref()
                .is_none_or(|wanted| *wanted == info.description)
                && self
                    .slot_manufacturer
                    .as_ref()
                    .is_none_or(|wanted| *wanted == info.manufacturer)
        })
    }
}
