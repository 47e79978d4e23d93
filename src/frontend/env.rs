//! The variables of a stage: one ordered map for ENV and ARG together, where the last writer wins (spec X10).

use super::image::env_key;

/// Names and values in the order in which the names were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Env(pub(super) Vec<(String, String)>);

impl Env {
    /// The variables of an image config.
    pub(super) fn from_entries(entries: &[String]) -> Self {
        let mut env = Self::default();
        for entry in entries {
            let key = env_key(entry);
            env.set(key, entry.get(key.len() + 1..).unwrap_or_default());
        }
        env
    }

    /// Sets a variable, in its place when it is there.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }

    /// The value of a variable; names compare with case (spec X19).
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The names.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// `K=V` for a process.
    pub(super) fn to_entries(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}
