//! `rbuild diff`: what one image has and another has not.

use std::process::ExitCode;

use rbuild_cache::difference::{ChangeKind, Times, difference};

use super::context::print;
use super::{Context, lookup, opened};
use crate::graph::Platform;

/// `rbuild diff IMAGE IMAGE`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Of images of several platforms, which one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Name or id of the older image
    #[arg(value_name = "OLD")]
    old: String,
    /// Name or id of the newer one: A lines are files that only it has, D lines files that only the older has, C lines what
    /// has other contents, owners or modes, and the directories of all these
    #[arg(value_name = "NEW")]
    new: String,
}

/// Runs the command.
pub fn run(args: DiffArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let find = |text| lookup::find_for(&store, text, args.platform.as_ref());
    let (old, new) = (find(&args.old)?, find(&args.new)?);
    let opened = opened::open(context, &store, &[&old.image, &new.image])?;
    let changes = difference(&opened.views[0], &opened.views[1], Times::Ignored)?;
    let mut out = Vec::new();
    for change in changes {
        out.extend_from_slice(match change.kind {
            ChangeKind::Added => b"A /",
            ChangeKind::Changed => b"C /",
            ChangeKind::Deleted => b"D /",
        });
        out.extend_from_slice(change.entry.path.as_bytes());
        out.push(b'\n');
    }
    print(out)?;
    Ok(ExitCode::SUCCESS)
}
