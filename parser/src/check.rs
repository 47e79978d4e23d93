//! The value of `# check=` and of `BUILDKIT_DOCKERFILE_CHECK` (spec L18).

/// Which rules are skipped, and whether a warning fails the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Rules not to report.
    pub skip: Rules,
    /// Experimental rules to report.
    pub experimental: Rules,
    /// Warnings are failures.
    pub error: bool,
}

/// A selection of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rules {
    /// `all`.
    All,
    /// These.
    Named(Vec<String>),
}

impl Default for Rules {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Rules {
    /// Whether `rule` is among them.
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name == rule),
        }
    }
}

/// The value is not a list of options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(String);

impl CheckOptions {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(_value: &str) -> Result<Self, CheckError> {
        Err(CheckError("check options cannot be read yet".into()))
    }
}
