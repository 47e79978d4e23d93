//! The build checks (spec 10): what they are called and say of themselves, and those that the text alone decides.
//!
//! What needs values of variables, base images or the context is found where these are known; it is reported under
//! the names of [`RULES`] too. Nothing here is an error: a caller may make it one.

mod casing;
mod description;
mod stage_name;

use crate::check::CheckOptions;
use crate::diagnostic::{Diagnostic, Severity};
use crate::instruction::{Dockerfile, Instruction};
use crate::span::Span;

pub use description::description;

/// What a build check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// `StageNameCasing`, as `# check=skip=` has it.
    pub name: &'static str,
    /// What the rule asks for.
    pub description: &'static str,
    /// Reported only when asked for by name.
    pub experimental: bool,
    documented: bool,
}

impl Rule {
    /// The page that explains the rule; one rule has none.
    pub fn url(&self) -> Option<String> {
        self.documented
            .then(|| format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(self.name)))
    }
}

const fn rule(name: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        description,
        experimental: false,
        documented: true,
    }
}

/// All rules.
pub const RULES: [Rule; 22] = [
    rule("StageNameCasing", "Stage names should be lowercase"),
    rule(
        "FromAsCasing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    rule(
        "NoEmptyContinuation",
        "Empty continuation lines will become errors in a future release",
    ),
    rule(
        "ConsistentInstructionCasing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    rule("DuplicateStageName", "Stage names should be unique"),
    rule(
        "ReservedStageName",
        "Reserved words should not be used as stage names",
    ),
    rule(
        "JSONArgsRecommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    ),
    rule(
        "MaintainerDeprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    rule("UndefinedArgInFrom", "FROM command must use declared ARGs"),
    rule(
        "WorkdirRelativePath",
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
    ),
    rule("UndefinedVar", "Variables should be defined before their use"),
    rule(
        "MultipleInstructionsDisallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    rule(
        "LegacyKeyValueFormat",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    Rule {
        documented: false,
        ..rule(
            "InvalidBaseImagePlatform",
            "Base image platform does not match expected target platform",
        )
    },
    rule(
        "RedundantTargetPlatform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "FROM --platform flag should not use a constant value",
    ),
    rule(
        "CopyIgnoredFile",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    Rule {
        experimental: true,
        ..rule(
            "InvalidDefinitionDescription",
            "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        )
    },
    rule(
        "ExposeProtoCasing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    rule(
        "ExposeInvalidFormat",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
    ),
];

/// The rule of this name.
pub fn find(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

/// What the text alone shows, in the order of the file: all stages, needed or not. Rules that are skipped for one
/// instruction are left out for it; those that are skipped for the file, and experimental ones, are the caller's to
/// leave out.
pub fn check(file: &Dockerfile) -> Vec<Diagnostic> {
    let mut findings = Findings(file.warnings.clone());
    stage_name::check(file, &mut findings);
    casing::check(file, &mut findings);
    description::check(file, &mut findings);
    for place in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if matches!(place.value, Instruction::Maintainer(_)) {
            let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
            findings.add("MaintainerDeprecated", place.span, &place.comments, message);
        }
    }
    let mut found = findings.0;
    found.sort_by_key(|diagnostic| diagnostic.span.start_line);
    found
}

/// Collects what rules find.
struct Findings(Vec<Diagnostic>);

impl Findings {
    fn add(&mut self, rule: &'static str, span: Span, comments: &[String], message: String) {
        if !CheckOptions::of_comments(comments).skip.contains(rule) {
            self.0.push(Diagnostic {
                severity: Severity::Warning,
                code: rule,
                message,
                help: None,
                span,
            });
        }
    }
}

/// `JSONArgsRecommended` to `json-args-recommended`.
fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::with_capacity(name.len() + 8);
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| letters[before]);
        let begins_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || letters.get(index + 1).is_some_and(|after| after.is_lowercase())
            });
        if begins_word {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests;
