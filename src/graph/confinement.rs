//! How a RUN is confined, where that differs from the usual (`--cap-add`, `--security-opt`, `--shm-size`).

use serde::{Deserialize, Serialize};

/// What the caller changed of the confinement of all RUNs of a build. Part of a step's key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The capabilities instead of the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// System calls.
    #[serde(default)]
    pub system_calls: SystemCalls,
    /// Programs with the setuid bit or file capabilities gain nothing.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Bytes of `/dev/shm`, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<u64>,
}

/// Capabilities by their numbers: bit n is capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What root in the step holds, as far as the builder has it to give.
    pub held: u64,
    /// What was asked for by name: the builder has to have it.
    pub demanded: u64,
}

/// Which system calls a RUN may make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemCalls {
    /// Those of Docker's default profile.
    #[default]
    Usual,
    /// All.
    Unconfined,
    /// Those of a profile, JSON in Docker's format.
    Profile(String),
}

impl Confinement {
    /// Whether nothing was changed.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}
