//! `rbuild why`: why the steps of the last build ran.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};

use super::context::print;
use super::explained::{self, Format};
use super::{Context, human};
use crate::solver::why::{self, LastBuild, Step};

/// `rbuild why [STEP]`.
#[derive(Debug, clap::Args)]
pub struct WhyArgs {
    /// All of the last build, as without a STEP
    #[arg(long, conflicts_with = "step")]
    last: bool,
    /// How the answer is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,
    /// A step of the last build: its number (3), its stage and number (build:3), or its line in the Dockerfile (:12)
    #[arg(value_name = "STEP")]
    step: Option<String>,
}

/// Runs the command.
pub fn run(args: WhyArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let last = why::last(&store)?
        .context("no build is recorded in this store: build something, or name another store with --root")?;
    let mut steps = last.record.steps();
    if last.repeated {
        // The causes are those of an earlier build with the same result.
        steps.iter_mut().for_each(|step| step.cause = None);
    }
    let all = steps.len();
    if let Some(wanted) = &args.step {
        steps = chosen(steps, wanted)?;
    }
    let text = match args.format {
        Format::Json => {
            let at = jiff::Timestamp::try_from(last.at).unwrap_or_default();
            let mut document = explained::asked(&last.record.asked);
            document["at"] = at.to_string().into();
            document["succeeded"] = last.record.succeeded.into();
            document["steps"] = explained::steps(&steps, |_| "ran").into();
            explained::document(&document)?
        }
        Format::Text => text(&last, &steps, all, args.step.is_some()),
    };
    print(text)?;
    Ok(ExitCode::SUCCESS)
}

fn text(last: &LastBuild, steps: &[Step<'_>], all: usize, is_asked: bool) -> String {
    let asked = &last.record.asked;
    let ran = steps.iter().filter(|step| step.cause.is_some()).count();
    let mut text = String::new();
    if !is_asked {
        let ago = SystemTime::now().duration_since(last.at).unwrap_or_default();
        let failed = if last.record.succeeded {
            ""
        } else {
            ", which failed"
        };
        text.push_str(&format!(
            "{ran} of {all} steps ran in the build of {} {} ago{failed}\n",
            asked.context,
            human::duration(ago.as_secs()).to_ascii_lowercase(),
        ));
    }
    for step in steps {
        if step.cause.is_some() || is_asked {
            text.push_str(&explained::lines(step, &asked.dockerfile));
        }
        if step.cause.is_none() && is_asked {
            text.push_str("    it was cached\n");
        }
    }
    text
}

/// The steps that `wanted` means.
fn chosen<'a>(steps: Vec<Step<'a>>, wanted: &str) -> anyhow::Result<Vec<Step<'a>>> {
    let (stage, number) = wanted
        .rsplit_once(':')
        .map_or((None, wanted), |(stage, number)| (Some(stage), number));
    let Ok(number) = number.parse::<usize>() else {
        bail!("invalid step {wanted:?}: write 3, STAGE:3, or :12 for line 12 of the Dockerfile");
    };
    let is_wanted = |step: &Step<'_>| match (&step.node.written, stage) {
        (_, Some("")) => step.node.line == Some(number),
        (Some(written), Some(stage)) => written.step == number && written.stage.eq_ignore_ascii_case(stage),
        (Some(written), None) => written.step == number,
        (None, _) => false,
    };
    let known: Vec<String> = steps.iter().filter_map(|step| name(step)).collect();
    let chosen: Vec<Step<'a>> = steps.into_iter().filter(is_wanted).collect();
    if chosen.is_empty() {
        bail!("the last build has no step {wanted}: it has {}", known.join(", "));
    }
    Ok(chosen)
}

/// `build:3`
fn name(step: &Step<'_>) -> Option<String> {
    let written = step.node.written.as_ref()?;
    Some(format!("{}:{}", written.stage, written.step))
}
