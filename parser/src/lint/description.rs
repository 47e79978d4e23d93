//! Comments above ARG and `FROM ... AS` are their descriptions, and then begin with the name.

use super::Findings;
use crate::instruction::{Arg, Dockerfile, Instruction, Spanned};

/// The description of `name` in the comments above its instruction: the last line that begins with the name, without
/// it.
pub fn description<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    let of_name = |comment: &'a String| {
        let rest = comment.strip_prefix(name)?;
        let text = rest.trim_start();
        (text.len() < rest.len() && !text.is_empty()).then_some(text)
    };
    comments.iter().rev().find_map(of_name)
}

pub(super) fn check(file: &Dockerfile, findings: &mut Findings) {
    let mut arg = |arg: &Spanned<Arg>| {
        let names: Vec<&str> = arg.value.args.iter().map(|item| item.key.as_str()).collect();
        named(findings, "ARG", &names, arg);
    };
    file.global_args.iter().for_each(&mut arg);
    for place in file.stages.iter().flat_map(|stage| &stage.instructions) {
        if let Instruction::Arg(value) = &place.value {
            arg(&Spanned {
                value: value.clone(),
                span: place.span,
                keyword: place.keyword.clone(),
                text: String::new(),
                comments: place.comments.clone(),
            });
        }
    }
    for stage in &file.stages {
        if let Some(name) = &stage.from.value.name_as_written {
            named(findings, "FROM", &[name], &stage.from);
        }
    }
}

fn named<T>(findings: &mut Findings, keyword: &str, names: &[&str], place: &Spanned<T>) {
    let comment = place
        .comments
        .iter()
        .rfind(|comment| !comment.starts_with("check="));
    let (Some(comment), Some(first)) = (comment, names.first()) else {
        return;
    };
    let begins_with = comment.split(' ').next().unwrap_or_default();
    if names.iter().any(|name| name.eq_ignore_ascii_case(begins_with)) {
        return;
    }
    let shown = if names.len() > 1 { "<arg_key>" } else { first };
    let message = format!("Comment for {keyword} should follow the format: `# {shown} <description>`");
    findings.add(
        "InvalidDefinitionDescription",
        place.span,
        &place.comments,
        message,
    );
}
