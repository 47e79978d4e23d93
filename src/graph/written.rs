//! What the author wrote for a vertex. For people and for comparing builds; in no digest and no key.

use serde::{Deserialize, Serialize};

/// Parts of names that say that a value is secret, and those that say that it is not.
const SECRET_WORDS: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const PUBLIC_WORDS: [&str; 3] = ["public", "file", "version"];

/// The instruction that a vertex comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The stage as messages name it: its name, or `stage-0`.
    pub stage: String,
    /// The step's number in the stage, from 1, as the progress output shows it.
    pub step: usize,
    /// The instruction in one line, unexpanded, with its heredocs below.
    pub text: String,
    /// The variables that reach it: of a RUN those that ARG set, of others those that its text names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variables: Vec<Variable>,
}

/// A variable at one place of a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether ARG set it, and not ENV.
    pub is_argument: bool,
}

/// Whether the name of a variable looks as if its value should not be seen.
pub fn is_sensitive(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET_WORDS) && !has(&PUBLIC_WORDS)
}
