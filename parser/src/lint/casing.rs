//! Keywords written in one way.

use super::Findings;
use crate::instruction::Dockerfile;

/// How a keyword is written; `None` for a mix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    fn of(word: &str) -> Option<Self> {
        if word == word.to_lowercase() {
            Some(Self::Lower)
        } else if word == word.to_uppercase() {
            Some(Self::Upper)
        } else {
            None
        }
    }
}

/// ConsistentInstructionCasing and FromAsCasing. ARGs before the first FROM have no vote and are not looked at, as in
/// BuildKit.
pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let from = (&stage.from.keyword, stage.from.span, &stage.from.comments);
            let others = stage.instructions.iter();
            std::iter::once(from).chain(others.map(|it| (&it.keyword, it.span, &it.comments)))
        })
    };
    let written = |case| {
        keywords()
            .filter(|(keyword, ..)| Case::of(keyword) == Some(case))
            .count()
    };
    let (majority, name) = if written(Case::Lower) > written(Case::Upper) {
        (Case::Lower, "lowercase")
    } else {
        (Case::Upper, "uppercase")
    };
    for (keyword, span, comments) in keywords() {
        if Case::of(keyword) != Some(majority) {
            let message =
                format!("Command '{keyword}' should match the case of the command majority ({name})");
            findings.add("ConsistentInstructionCasing", span, comments, message);
        }
    }
    for stage in &file.stages {
        let from = &stage.from;
        let keyword = from.text.split_whitespace().rev().nth(1);
        let (Some(_), Some(keyword)) = (&from.value.name, keyword) else {
            continue;
        };
        let matches = match Case::of(&from.keyword) {
            Some(Case::Lower) => keyword == keyword.to_lowercase(),
            Some(Case::Upper) => keyword == keyword.to_uppercase(),
            // The other rule tells that.
            None => true,
        };
        if !matches {
            let message = format!("'{keyword}' and '{}' keywords' casing do not match", from.keyword);
            findings.add("FromAsCasing", from.span, &from.comments, message);
        }
    }
}
