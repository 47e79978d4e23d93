//! A Dockerfile as text again.
//!
//! Directives, then each instruction in one line with its comments above and its heredocs below. It parses to the same
//! instructions; blank lines, other comments and line breaks are not kept.

use std::fmt;

use crate::instruction::{Dockerfile, Heredoc, Instruction, Source, Spanned};

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = self.directives.escape;
        if let Some(syntax) = &self.directives.syntax {
            writeln!(f, "# syntax={syntax}")?;
        }
        if escape != '\\' {
            writeln!(f, "# escape={escape}")?;
        }
        if let Some(check) = &self.directives.check {
            writeln!(f, "# check={check}")?;
        }
        // Ends the directives: no comment may become one.
        writeln!(f)?;
        for arg in &self.global_args {
            line(f, arg, escape, &arg.text)?;
        }
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 || !self.global_args.is_empty() {
                writeln!(f)?;
            }
            line(f, &stage.from, escape, &stage.from.text)?;
            for instruction in &stage.instructions {
                write_instruction(f, instruction, escape)?;
            }
        }
        Ok(())
    }
}

fn write_instruction(
    f: &mut fmt::Formatter<'_>,
    instruction: &Spanned<Instruction>,
    escape: char,
) -> fmt::Result {
    match &instruction.value {
        Instruction::Onbuild(trigger) if trigger.contains('\n') => line(
            f,
            instruction,
            escape,
            &format!("{} {trigger}", instruction.keyword),
        ),
        Instruction::Run(run) => {
            line(f, instruction, escape, &instruction.text)?;
            run.heredocs.iter().try_for_each(|heredoc| body(f, heredoc))
        }
        Instruction::Copy(copy) => {
            line(f, instruction, escape, &instruction.text)?;
            bodies(f, &copy.sources)
        }
        Instruction::Add(add) => {
            line(f, instruction, escape, &instruction.text)?;
            bodies(f, &add.sources)
        }
        _ => line(f, instruction, escape, &instruction.text),
    }
}

/// The comments and the line. A line that ends like a continued one, because what came after its escape character
/// was blank, gets a blank that keeps it from being one.
fn line<T>(f: &mut fmt::Formatter<'_>, place: &Spanned<T>, escape: char, text: &str) -> fmt::Result {
    for comment in &place.comments {
        writeln!(f, "# {comment}")?;
    }
    let continued = text
        .strip_suffix(escape)
        .is_some_and(|before| !before.ends_with(escape));
    writeln!(f, "{text}{}", if continued { "\u{b}" } else { "" })
}

fn bodies(f: &mut fmt::Formatter<'_>, sources: &[Source]) -> fmt::Result {
    sources.iter().try_for_each(|source| match source {
        Source::Heredoc(heredoc) => body(f, heredoc),
        Source::Path(_) => Ok(()),
    })
}

fn body(f: &mut fmt::Formatter<'_>, heredoc: &Heredoc) -> fmt::Result {
    writeln!(f, "{}{}", heredoc.body, heredoc.name)
}
