//! The value of `# check=` and of `BUILDKIT_DOCKERFILE_CHECK` (spec L18).

use crate::value::parse_bool;

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

    fn parse(value: &str) -> Self {
        match value.trim() {
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }
}

/// The value is not a list of options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(String);

impl CheckOptions {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(value: &str) -> Result<Self, CheckError> {
        let mut options = Self::default();
        if value.trim().is_empty() {
            return Ok(options);
        }
        for part in value.trim().splitn(3, ';') {
            let Some((key, value)) = part.split_once('=') else {
                return Err(CheckError(format!("invalid check option {part:?}")));
            };
            match key.trim() {
                "skip" => options.skip = Rules::parse(value),
                "experimental" => options.experimental = Rules::parse(value),
                "error" => {
                    options.error = parse_bool(value.trim()).ok_or_else(|| {
                        CheckError(format!("failed to parse check option {part:?}: invalid syntax"))
                    })?;
                }
                key => return Err(CheckError(format!("invalid check option {key:?}"))),
            }
        }
        Ok(options)
    }

    /// What the comments above an instruction say about it: `# check=skip=A`. A value that cannot be read says nothing.
    pub fn of_comments(comments: &[String]) -> Self {
        let values = comments
            .iter()
            .filter_map(|comment| comment.trim().strip_prefix("check="));
        values
            .filter_map(|value| Self::parse(value).ok())
            .next_back()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l18_options() {
        let options = CheckOptions::parse("skip=A, B;error=True;experimental=all").expect("three parts");
        assert!(options.skip.contains("A") && options.skip.contains("B") && !options.skip.contains("b"));
        assert!(options.error && options.experimental.contains("anything"));
        assert_eq!(CheckOptions::parse(""), Ok(CheckOptions::default()));
        for (value, message) in [
            ("skip", "invalid check option \"skip\""),
            ("nope=1", "invalid check option \"nope\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(
                CheckOptions::parse(value).map_err(|error| error.to_string()),
                Err(message.to_owned())
            );
        }
    }
}
