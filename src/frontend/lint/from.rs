//! FROM: what its platform and its name are made of.

use rbuild_parser::From;
use rbuild_parser::expand::{Expander, Expansion};

use crate::frontend::args::Arguments;
use crate::frontend::warnings::Warnings;
use crate::graph::{Location, Platform, Reference};

/// A FROM's words after expansion.
pub(in crate::frontend) struct FromWords<'a> {
    pub(in crate::frontend) from: &'a From,
    pub(in crate::frontend) image: &'a Expansion,
    pub(in crate::frontend) platform: Option<&'a Expansion>,
}

/// RedundantTargetPlatform, FromPlatformFlagConstDisallowed and InvalidDefaultArgInFrom.
pub(in crate::frontend) fn check_from(
    words: &FromWords<'_>,
    arguments: &Arguments,
    expander: &Expander,
    location: &Location,
    warnings: &mut Warnings,
) {
    let from = words.from;
    if let (Some(written), Some(platform)) = (&from.platform, words.platform) {
        if is_target_platform(platform, arguments) {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            warnings.rule("RedundantTargetPlatform", location, message);
        }
        if is_constant(platform) && !says_why(from, &platform.text) {
            let message = format!(
                "FROM --platform flag should not use constant value \"{}\"",
                platform.text
            );
            warnings.rule("FromPlatformFlagConstDisallowed", location, message);
        }
    }
    if !is_constant(words.image) && !has_valid_default(&from.image, arguments, expander) {
        let message = format!(
            "Default value for ARG {} results in empty or invalid base image name",
            from.image
        );
        warnings.rule("InvalidDefaultArgInFrom", location, message);
    }
}

fn is_constant(word: &Expansion) -> bool {
    word.used.is_empty() && word.undefined.is_empty()
}

/// Whether the word is `$TARGETPLATFORM` and nothing else.
fn is_target_platform(word: &Expansion, arguments: &Arguments) -> bool {
    const NAME: &str = "TARGETPLATFORM";
    word.undefined.is_empty()
        && word.used == [NAME]
        && arguments.global().get(NAME) == Some(word.text.as_str())
}

/// A stage that is made for one platform says so in its name; what is no platform fails elsewhere.
fn says_why(from: &From, platform: &str) -> bool {
    let Ok(platform) = platform.parse::<Platform>() else {
        return true;
    };
    let name = from.name.as_deref().unwrap_or_default();
    name.contains(&platform.os) || name.contains(&platform.architecture)
}

/// Whether the name is one when no build argument is given.
fn has_valid_default(image: &str, arguments: &Arguments, expander: &Expander) -> bool {
    let Some(defaults) = arguments.defaults() else {
        return true;
    };
    match expander.word(image, &|name| defaults.get(name).map(str::to_owned)) {
        Ok(name) => name.text.contains("://") || Reference::parse(&name.text).is_ok(),
        Err(_) => true,
    }
}
