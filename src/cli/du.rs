//! `rbuild du`: what takes the space of the store.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use rbuild_cache::{Usage, UsageItem};
use serde_json::{Value, json};

use super::context::print;
use super::format::Format;
use super::prune::Filters;
use super::{Context, human, trees};

/// `rbuild du`.
#[derive(Debug, clap::Args)]
pub struct DuArgs {
    /// Only things for which this is true: id=, type=, description=, inuse=, shared=, private=, mutable=, immutable=,
    /// until=
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a Go template for each thing
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    format: Option<String>,
    /// Show all that is known about each thing
    #[arg(long)]
    verbose: bool,
}

/// Runs the command.
pub fn run(args: DuArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let filters = Filters::parse(&args.filter)?;
    let format = Format::parse(args.format.as_deref())?;
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
    let mut usage = store.usage()?;
    usage.items.retain(|item| filters.admit(item));
    let now = seconds(SystemTime::now());
    let shown = || -> String {
        let things = match args.verbose {
            true => usage.items.iter().map(|item| details(item, now)).collect(),
            false => things(&usage, now),
        };
        things + &summary(&usage, args.filter.is_empty())
    };
    let out = match format {
        Format::Table => shown(),
        format => {
            let rows: Vec<Value> = usage.items.iter().map(fields).collect();
            format.render(&rows, &headings(), Vec::new)?
        }
    };
    print(out)?;
    Ok(ExitCode::SUCCESS)
}

fn things(usage: &Usage, now: i64) -> String {
    let heads = ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for item in &usage.items {
        rows.push(vec![
            short(&item.id) + if item.mutable { "*" } else { "" },
            (item.reclaimable > 0 && !item.in_use).to_string(),
            human::size(item.bytes),
            human::age(Some(seconds(item.used)), now),
        ]);
    }
    if rows.len() == 1 {
        return String::new();
    }
    human::table(&rows) + "\n"
}

/// Enough of an id to tell things apart; `--filter id=` takes parts of ids.
fn short(id: &str) -> String {
    id.chars().take(20).collect()
}

fn details(item: &UsageItem, now: i64) -> String {
    let mut lines = vec![("ID", item.id.clone())];
    if let Some(created) = item.created {
        lines.push(("Created at", time(i64::try_from(created).unwrap_or(0))));
    }
    lines.push(("Mutable", item.mutable.to_string()));
    lines.push(("Reclaimable", (item.reclaimable > 0 && !item.in_use).to_string()));
    lines.push(("Shared", item.shared.to_string()));
    lines.push(("Size", human::size(item.bytes)));
    if !item.description.is_empty() {
        lines.push(("Description", item.description.clone()));
    }
    lines.push(("In use", item.in_use.to_string()));
    lines.push(("Last used", human::age(Some(seconds(item.used)), now)));
    lines.push(("Type", item.kind.to_owned()));
    let mut out: String = lines
        .into_iter()
        .map(|(name, value)| format!("{:<14}{value}\n", format!("{name}:")))
        .collect();
    out.push('\n');
    out
}

/// By kind, and all together. Of things that were chosen, only these.
fn summary(usage: &Usage, all: bool) -> String {
    let mut rows = Vec::new();
    if all {
        rows.push(["KIND", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec());
        for (kind, bytes, reclaimable) in usage.kinds.iter().filter(|(_, bytes, _)| *bytes > 0) {
            rows.push(vec![
                kind.name().to_owned(),
                human::size(*bytes),
                human::size(*reclaimable),
            ]);
        }
    }
    let mut out = human::table(&rows);
    let sum = |chosen: &dyn Fn(&&UsageItem) -> bool| -> u64 {
        usage.items.iter().filter(chosen).map(|item| item.bytes).sum()
    };
    let (total, reclaimable) = if all {
        (usage.total(), usage.reclaimable())
    } else {
        let free = usage.items.iter().map(|item| item.reclaimable).sum();
        (sum(&|_| true), free)
    };
    if all {
        out.push('\n');
    }
    for (name, bytes) in [
        ("Shared:", sum(&|item| item.shared)),
        ("Private:", sum(&|item| !item.shared)),
        ("Reclaimable:", reclaimable),
        ("Total:", total),
    ] {
        out.push_str(&format!("{name:<14}{}\n", human::size(bytes)));
    }
    out
}

fn fields(item: &UsageItem) -> Value {
    json!({
        "ID": item.id,
        "CreatedAt": item.created.map(|created| time(i64::try_from(created).unwrap_or(0))).unwrap_or_default(),
        "Description": item.description,
        "InUse": item.in_use,
        "LastUsedAt": time(seconds(item.used)),
        "Mutable": item.mutable,
        "Reclaimable": item.reclaimable > 0 && !item.in_use,
        "ReclaimableSize": human::size(item.reclaimable),
        "Shared": item.shared,
        "Size": human::size(item.bytes),
        "SizeBytes": item.bytes,
        "Type": item.kind,
    })
}

/// The heads of the columns that a template names.
fn headings() -> Value {
    json!({
        "ID": "ID",
        "CreatedAt": "CREATED AT",
        "Description": "DESCRIPTION",
        "InUse": "IN USE",
        "LastUsedAt": "LAST ACCESSED",
        "Mutable": "MUTABLE",
        "Reclaimable": "RECLAIMABLE",
        "ReclaimableSize": "RECLAIMABLE SIZE",
        "Shared": "SHARED",
        "Size": "SIZE",
        "SizeBytes": "SIZE",
        "Type": "TYPE",
    })
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}
