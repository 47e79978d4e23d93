//! `rbuild system`: what the store takes, and giving that back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rbuild_cache::{DiffId, PruneOptions, Store, Usage};
use serde_json::{Value, json};

use super::confirm::Confirmation;
use super::context::print;
use super::deferred::Deferred;
use super::format::Format;
use super::lookup::Listed;
use super::{Context, human, image_prune, lookup, trees};

/// `rbuild system ...`.
#[derive(Debug, clap::Subcommand)]
pub enum SystemCommand {
    /// Show what images and build cache take
    Df(Deferred<DfArgs>),
    /// Remove images without a name, and build cache
    Prune(Deferred<SystemPruneArgs>),
}

/// `rbuild system df`.
#[derive(Debug, clap::Args)]
pub struct DfArgs {
    /// `table`, `json`, or a Go template for each kind
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    format: Option<String>,
    /// Show each image, too; `rbuild du` shows each thing of the build cache
    #[arg(short, long)]
    verbose: bool,
}

/// `rbuild system prune`.
#[derive(Debug, clap::Args)]
pub struct SystemPruneArgs {
    /// Remove all images and all build cache
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only what was not used for this long: until=24h; only images with a label: label=, label!=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Not possible: there are no volumes
    #[arg(long, hide = true)]
    volumes: bool,
}

/// Runs the command.
pub fn run(command: SystemCommand, context: &Context) -> anyhow::Result<ExitCode> {
    match command {
        SystemCommand::Df(Deferred(args)) => df(&args, context)?,
        SystemCommand::Prune(Deferred(args)) => prune(&args, context)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn df(args: &DfArgs, context: &Context) -> anyhow::Result<()> {
    let format = Format::parse(args.format.as_deref())?;
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
    let images = lookup::list(&store)?;
    let usage = store.usage()?;
    if args.verbose {
        return print(each_image(&store, &images));
    }
    let rows = [
        images_row(&store, &images),
        row("Containers", 0, 0, 0, 0),
        row("Local Volumes", 0, 0, 0, 0),
        cache_row(&usage),
    ];
    let headings = json!({
        "Active": "ACTIVE",
        "Reclaimable": "RECLAIMABLE",
        "Size": "SIZE",
        "TotalCount": "TOTAL",
        "Type": "TYPE",
    });
    let own = || {
        let columns = ["Type", "TotalCount", "Active", "Size", "Reclaimable"];
        let cells = |row: &Value| {
            columns
                .map(|column| row[column].as_str().unwrap_or_default().to_owned())
                .to_vec()
        };
        std::iter::once(&headings).chain(&rows).map(cells).collect()
    };
    print(format.render(&rows, &headings, own)?)
}

fn row(kind: &str, total: usize, active: usize, size: u64, reclaimable: u64) -> Value {
    let share = match (reclaimable, size) {
        (0, _) | (_, 0) => String::new(),
        (part, whole) => format!(" ({}%)", u128::from(part) * 100 / u128::from(whole)),
    };
    json!({
        "Active": active.to_string(),
        "Reclaimable": format!("{}{share}", human::size(reclaimable)),
        "Size": human::size(size),
        "TotalCount": total.to_string(),
        "Type": kind,
    })
}

/// Active are images with a name. Each layer counts once.
fn images_row(store: &Store, images: &[Listed]) -> Value {
    let bytes =
        |layers: &BTreeMap<DiffId, (u64, usize)>| layers.values().map(|(bytes, _)| bytes).sum::<u64>();
    let all = bytes(&layers(store, images.iter()));
    let named = bytes(&layers(
        store,
        images.iter().filter(|image| !image.names.is_empty()),
    ));
    let active = images.iter().filter(|image| !image.names.is_empty()).count();
    row("Images", images.len(), active, all, all.saturating_sub(named))
}

/// The layers of images: bytes, and in how many images they are.
fn layers<'a>(store: &Store, images: impl Iterator<Item = &'a Listed>) -> BTreeMap<DiffId, (u64, usize)> {
    let mut layers: BTreeMap<DiffId, (u64, usize)> = BTreeMap::new();
    for image in images {
        let mut own: Vec<_> = image
            .image
            .facts
            .diff_ids
            .iter()
            .zip(image.layer_sizes(store))
            .collect();
        own.sort();
        own.dedup();
        for (id, bytes) in own {
            layers.entry(*id).or_insert((bytes, 0)).1 += 1;
        }
    }
    layers
}

fn cache_row(usage: &Usage) -> Value {
    let items: Vec<_> = usage.items.iter().filter(|item| !item.shared).collect();
    let active = items.iter().filter(|item| item.in_use).count();
    let size = items.iter().map(|item| item.bytes).sum();
    let reclaimable = items.iter().map(|item| item.reclaimable).sum();
    row("Build Cache", items.len(), active, size, reclaimable)
}

fn each_image(store: &Store, images: &[Listed]) -> String {
    let now = jiff::Timestamp::now().as_second();
    let all = layers(store, images.iter());
    let heads = [
        "REPOSITORY",
        "TAG",
        "IMAGE ID",
        "CREATED",
        "SIZE",
        "SHARED SIZE",
        "UNIQUE SIZE",
        "CONTAINERS",
    ];
    let mut table = vec![heads.map(str::to_owned).to_vec()];
    for image in images {
        let of_image = layers(store, std::iter::once(image));
        let shared: u64 = of_image
            .iter()
            .filter(|(id, _)| all.get(*id).is_some_and(|(_, images)| *images > 1))
            .map(|(_, (bytes, _))| bytes)
            .sum();
        let size = image.size(store);
        let names: Vec<(String, String)> = match image.names.as_slice() {
            [] => vec![("<none>".to_owned(), "<none>".to_owned())],
            names => names
                .iter()
                .map(|name| (name.familiar_name(), name.tag().unwrap_or("<none>").to_owned()))
                .collect(),
        };
        for (repository, tag) in names {
            table.push(vec![
                repository,
                tag,
                image.image.id().hex()[..12].to_owned(),
                human::age(image.created_seconds(), now),
                human::size(size),
                human::size(shared),
                human::size(size.saturating_sub(shared)),
                "0".to_owned(),
            ]);
        }
    }
    format!("Images space usage:\n\n{}", human::table(&table))
}

fn prune(args: &SystemPruneArgs, context: &Context) -> anyhow::Result<()> {
    if args.volumes {
        bail!("--volumes: there are no volumes; caches that RUN steps mount go with --all");
    }
    let mut until = None;
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("until", value)) => {
                let seconds = human::parse_duration(value)
                    .with_context(|| format!("invalid duration {value:?}: write it like 24h"))?;
                until = Some(Duration::from_secs(seconds));
            }
            Some(("label" | "label!", _)) => {}
            _ => bail!("invalid filter {filter:?}: there are until, label and label!"),
        }
    }
    let what = match args.all {
        true => "all images and all build cache",
        false => "all dangling images and unused build cache",
    };
    if !args.confirmation.given(what)? {
        return Ok(());
    }
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
    let mut out = image_prune::remove(&store, args.all, &args.filter)?;
    let report = store.prune(&PruneOptions {
        all: args.all,
        until,
        rule: "system prune".to_owned(),
        ..PruneOptions::default()
    })?;
    if !report.layers.is_empty() {
        out.push_str("Deleted build cache objects:\n");
        report
            .layers
            .iter()
            .for_each(|layer| out.push_str(&format!("{layer}\n")));
        out.push('\n');
    }
    out.push_str(&format!("Total reclaimed space: {}\n", human::size(report.freed)));
    print(out)
}
