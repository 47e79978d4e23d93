//! `rbuild prune`: gives disk space back.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rbuild_cache::{PruneKind, PruneOptions, Store};
use rbuild_executor::{Executor, Isolation};

use super::context::print;
use super::{Context, human};

/// `rbuild prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Remove all build cache, not only what no image needs
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what was not used for this long: until=24h; only caches that RUN steps mount, or all but them:
    /// type=exec.cachemount, type=regular
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Keep the cache that was used last, up to this size
    #[arg(long, visible_alias = "reserved-space", value_name = "SIZE")]
    keep_storage: Option<String>,
}

impl PruneArgs {
    /// The command as far as it says what goes: what `why` tells later.
    fn rule(&self) -> String {
        let mut rule = "prune".to_owned();
        if self.all {
            rule.push_str(" --all");
        }
        for filter in &self.filter {
            rule.push_str(&format!(" --filter {filter}"));
        }
        if let Some(size) = &self.keep_storage {
            rule.push_str(&format!(" --keep-storage {size}"));
        }
        rule
    }
}

/// Runs the command.
pub fn run(args: PruneArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let mut options = PruneOptions {
        all: args.all,
        rule: args.rule(),
        ..PruneOptions::default()
    };
    for filter in &args.filter {
        let (key, value) = filter
            .split_once('=')
            .with_context(|| format!("invalid filter {filter:?}: it must be until=DURATION"))?;
        match key {
            "until" => {
                let seconds = human::parse_duration(value)
                    .with_context(|| format!("invalid duration {value:?}: write it like 24h"))?;
                options.until = Some(Duration::from_secs(seconds));
            }
            "type" => {
                options.kind = Some(match value {
                    "exec.cachemount" => PruneKind::CacheMounts,
                    "regular" => PruneKind::Regular,
                    _ => bail!("unknown type {value:?} in a filter: use exec.cachemount or regular"),
                });
            }
            "id" | "parents" | "description" | "inuse" | "mutable" | "immutable" | "shared" | "private" => {
                bail!("the filter {key} is not supported yet: only until and type are");
            }
            _ => bail!("unknown filter {key:?}: only until and type are known"),
        }
    }
    if let Some(text) = &args.keep_storage {
        let size =
            human::parse_size(text).with_context(|| format!("invalid size {text:?}: write it like 10GB"))?;
        options.keep_storage = Some(size);
    }
    if !args.force && !confirmed(args.all)? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let scratch = store.temp_dir()?;
    // Layer trees of an ordinary user hold files of subordinate ids, which only the user namespace may remove.
    if !rustix::process::geteuid().is_root() && has_trees(&store)? {
        Executor::enter(Isolation::Auto, scratch.path())
            .context("entering the user namespace to remove layers")?;
    }
    let report = store.prune(&options)?;
    let mut out = String::new();
    if !report.images.is_empty() {
        out.push_str("Deleted Images:\n");
        report
            .images
            .iter()
            .for_each(|digest| out.push_str(&format!("deleted: {digest}\n")));
        out.push('\n');
    }
    if !report.layers.is_empty() {
        out.push_str("Deleted build cache layers:\n");
        report
            .layers
            .iter()
            .for_each(|layer| out.push_str(&format!("{layer}\n")));
        out.push('\n');
    }
    if !report.mounts.is_empty() {
        out.push_str("Deleted cache mounts:\n");
        report
            .mounts
            .iter()
            .for_each(|id| out.push_str(&format!("{id}\n")));
        out.push('\n');
    }
    out.push_str(&format!("Total reclaimed space: {}\n", human::size(report.freed)));
    print(out)?;
    Ok(ExitCode::SUCCESS)
}

fn has_trees(store: &Store) -> anyhow::Result<bool> {
    let mounts = store.root().join("mounts/v1");
    let mut mounts = mounts
        .read_dir()
        .with_context(|| format!("reading {}", mounts.display()))?;
    if mounts.next().is_some() {
        return Ok(true);
    }
    let layers = store.root().join("layers");
    for layer in layers
        .read_dir()
        .with_context(|| format!("reading {}", layers.display()))?
    {
        let layer = layer?.path();
        if ["fs", "fs.single"].iter().any(|tree| layer.join(tree).exists()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn confirmed(all: bool) -> anyhow::Result<bool> {
    let what = if all {
        "all build cache"
    } else {
        "all dangling build cache"
    };
    if !std::io::stdin().is_terminal() {
        bail!("this will remove {what}: give --force to do so without being asked");
    }
    let mut stderr = std::io::stderr().lock();
    write!(
        stderr,
        "WARNING! This will remove {what}.\nAre you sure you want to continue? [y/N] "
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
