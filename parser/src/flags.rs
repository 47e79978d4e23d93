//! The flags that an instruction takes (spec L33, L34).

use crate::suggest::did_you_mean;

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--x`, `--x=true`, `--x=false`.
    Switch,
    /// `--x=text`, once.
    Text,
    /// `--x=text`, any number of times.
    List,
}

/// Names and kinds.
pub(crate) type Known = &'static [(&'static str, Kind)];

/// A wrong flag or operand: what [`crate::Diagnostic`] has but the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub code: &'static str,
    pub message: String,
    pub help: Option<String>,
}

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }
}

/// Flags as given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// Checks flag words, which start with `--`.
    pub(crate) fn parse(words: &[String], known: Known, instruction: &str) -> Result<Self, Fault> {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        for word in words {
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.as_str(), None),
            };
            let Some((name, kind)) = known
                .iter()
                .find(|(name, _)| flag.strip_prefix("--") == Some(*name))
            else {
                let names: Vec<String> = known.iter().map(|(name, _)| format!("--{name}")).collect();
                let near = did_you_mean(flag, names.iter().map(String::as_str));
                let help = match names.as_slice() {
                    [] => format!(
                        "{instruction} takes no flags; what starts with -- after a bare -- is an operand"
                    ),
                    names => format!("{instruction} takes {}", names.join(", ")),
                };
                return Err(Fault::new("unknown-flag", format!("unknown flag: {flag}{near}")).help(help));
            };
            if *kind != Kind::List && given.iter().any(|(other, _)| other == name) {
                return Err(Fault::new(
                    "duplicate-flag",
                    format!("duplicate flag specified: {flag}"),
                ));
            }
            let missing = || Fault::new("flag-value", format!("missing a value on flag: {flag}"));
            let value = match (kind, value) {
                (Kind::Switch, None) => "true".to_owned(),
                (Kind::Switch, Some("")) => return Err(missing()),
                (Kind::Switch, Some(value)) => match value.to_lowercase().as_str() {
                    lower @ ("true" | "false") => lower.to_owned(),
                    _ => {
                        let message = format!("expecting boolean value for flag {flag}, not: {value}");
                        return Err(Fault::new("flag-value", message));
                    }
                },
                (_, None) => return Err(missing().help(format!("write {flag}=VALUE"))),
                (_, Some(value)) => value.to_owned(),
            };
            given.push((name, value));
        }
        Ok(Self(given))
    }

    /// The value of a text flag; `None` when not given or empty.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.raw(name)
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
    }

    /// The value of a text flag as given.
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a list flag.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(given, _)| *given == name)
            .map(|(_, value)| value.clone())
            .collect()
    }

    /// A switch, if given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.raw(name).map(|value| value == "true")
    }
}
