//! `?key=value&key=value` of a git URL.

use std::collections::BTreeMap;

use super::GitUrlError;
use super::decode::percent;
use crate::value::parse_bool;

const TEXTS: [&str; 7] = ["ref", "tag", "branch", "subdir", "checksum", "commit", "mtime"];
const FLAGS: [&str; 3] = ["keep-git-dir", "submodules", "fetch-by-commit"];

/// The parts of a query, each known and there once.
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, GitUrlError> {
        let mut parts = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let (key, value) = (percent(key, true)?, percent(value, true)?);
            if TEXTS.contains(&key.as_str()) {
                if value.is_empty() {
                    return Err(GitUrlError::NoValue(key));
                }
            } else if !FLAGS.contains(&key.as_str()) {
                return Err(GitUrlError::Unexpected(key));
            }
            if parts.insert(key.clone(), value).is_some() {
                return Err(GitUrlError::Repeated(key));
            }
        }
        Ok(Self(parts))
    }

    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    /// A flag; there without a value, it is set.
    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, GitUrlError> {
        match self.0.get(key).map(String::as_str) {
            None => Ok(None),
            Some("") => Ok(Some(true)),
            Some(text) => match parse_bool(text) {
                None => Err(GitUrlError::Value(key, text.to_owned())),
                set => Ok(set),
            },
        }
    }
}
