//! `rbuild images`: what is in the store, in docker's columns.

use std::process::ExitCode;

use rbuild_cache::Store;
use serde_json::{Value, json};

use super::config::docker_client;
use super::context::print;
use super::filter::Filters;
use super::format::Format;
use super::lookup::Listed;
use super::{Context, human, lookup};
use crate::exporter::whole::Whole;

/// `rbuild images [REPOSITORY[:TAG]]`.
#[derive(Debug, clap::Args)]
pub struct ImagesArgs {
    /// Show all images; images that are no result of a build are never kept, so this changes nothing
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only images for which this is true: dangling=, label=, label!=, before=, since=, until=, reference=, id=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a Go template for each image
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show the platforms below each image
    #[arg(long, conflicts_with_all = ["quiet", "format", "no_trunc", "digests"])]
    tree: bool,
    /// Only this repository or name; may have wildcards
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pattern: Option<String>,
}

/// One line of the list.
struct Row {
    repository: String,
    tag: String,
    digest: String,
    id: String,
    created: Option<i64>,
    size: u64,
}

/// Runs the command.
pub fn run(args: ImagesArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let usual = match args.format.is_none() && !args.quiet && !args.tree {
        true => docker_client()?["imagesFormat"].as_str().map(str::to_owned),
        false => None,
    };
    let format = Format::parse(args.format.as_deref().or(usual.as_deref()))?;
    let store = context.store()?;
    let images = lookup::list(&store)?;
    let mut filters = Filters::parse(&args.filter, &images)?;
    if let Some(pattern) = &args.pattern {
        filters.require_name(pattern);
    }
    if args.tree {
        print(tree(&store, &images, &filters)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for image in &images {
        if filters.admit(image)? {
            rows.extend(image_rows(&store, image, &filters, args.no_trunc)?);
        }
    }
    if args.quiet && format.is_table() {
        print(rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now().as_second();
    let fields: Vec<Value> = rows.iter().map(|row| row.fields(now)).collect();
    print(format.render(&fields, &headings(), || table(&args, &rows, now))?)?;
    Ok(ExitCode::SUCCESS)
}

fn image_rows(store: &Store, image: &Listed, filters: &Filters, whole: bool) -> anyhow::Result<Vec<Row>> {
    let none = || "<none>".to_owned();
    let id = image.image.id();
    let id = if whole {
        id.to_string()
    } else {
        id.hex()[..12].to_owned()
    };
    let (created, size) = (image.created_seconds(), image.size(store));
    let digest = image.descriptor.digest.to_string();
    let row = |repository, tag, digest| Row {
        repository,
        tag,
        digest,
        id: id.clone(),
        created,
        size,
    };
    let mut rows = Vec::new();
    for name in &image.names {
        if filters.admit_name(name, image)? {
            let tag = name.tag().map_or_else(none, str::to_owned);
            rows.push(row(name.familiar_name(), tag, digest.clone()));
        }
    }
    if image.names.is_empty() && !filters.ask_for_names() {
        rows.push(row(none(), none(), none()));
    }
    Ok(rows)
}

/// The images with their platforms: what they take unpacked, and as they are sent.
fn tree(store: &Store, images: &[Listed], filters: &Filters) -> anyhow::Result<String> {
    let heads = ["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE"];
    let mut table = vec![heads.map(str::to_owned).to_vec()];
    for image in images {
        if !filters.admit(image)? {
            continue;
        }
        let shown = image_rows(store, image, filters, false)?;
        let Some(Row { id, .. }) = shown.first() else {
            continue;
        };
        let platforms = match Whole::read(store, &image.descriptor)? {
            Whole::Image(_) => Vec::new(),
            Whole::Index(index) => index.images().cloned().collect(),
        };
        let platforms: Vec<Listed> = platforms
            .into_iter()
            .map(|one| Listed {
                image: one,
                ..image.clone()
            })
            .collect();
        let own = std::slice::from_ref(image);
        let parts = if platforms.is_empty() { own } else { &platforms };
        let sizes = |parts: &[Listed]| {
            let unpacked = parts.iter().map(|part| part.size(store)).sum();
            let layers = parts.iter().flat_map(|part| &part.image.manifest.layers);
            [
                human::size(unpacked),
                human::size(layers.map(|layer| layer.size).sum()),
            ]
        };
        for row in &shown {
            let name = match row.tag.as_str() {
                "<none>" => "<untagged>".to_owned(),
                tag => format!("{}:{tag}", row.repository),
            };
            table.push([vec![name, id.clone()], sizes(parts).to_vec()].concat());
        }
        for (number, part) in platforms.iter().enumerate() {
            let branch = if number + 1 == platforms.len() {
                "└─"
            } else {
                "├─"
            };
            let name = format!("{branch} {}", part.image.facts.platform);
            let id = part.image.id().hex()[..12].to_owned();
            table.push([vec![name, id], sizes(std::slice::from_ref(part)).to_vec()].concat());
        }
    }
    Ok(human::table(&table))
}

fn table(args: &ImagesArgs, rows: &[Row], now: i64) -> Vec<Vec<String>> {
    let mut table = vec![columns(
        args,
        ["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"],
    )];
    for row in rows {
        let (age, size) = (human::age(row.created, now), human::size(row.size));
        table.push(columns(
            args,
            [&row.repository, &row.tag, &row.digest, &row.id, &age, &size],
        ));
    }
    table
}

fn columns(args: &ImagesArgs, cells: [&str; 6]) -> Vec<String> {
    let shown = cells
        .iter()
        .enumerate()
        .filter(|(column, _)| *column != 2 || args.digests);
    shown.map(|(_, cell)| (*cell).to_owned()).collect()
}

impl Row {
    fn fields(&self, now: i64) -> Value {
        let created = self
            .created
            .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        let created_at = created.map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string());
        let size = human::size(self.size);
        json!({
            "Containers": "N/A",
            "CreatedAt": created_at.unwrap_or_else(|| "N/A".to_owned()),
            "CreatedSince": human::age(self.created, now),
            "Digest": self.digest,
            "ID": self.id,
            "Repository": self.repository,
            "SharedSize": "N/A",
            "Size": size,
            "Tag": self.tag,
            "UniqueSize": "N/A",
            "VirtualSize": size,
        })
    }
}

/// The heads of the columns that a template names.
fn headings() -> Value {
    json!({
        "Containers": "CONTAINERS",
        "CreatedAt": "CREATED AT",
        "CreatedSince": "CREATED",
        "Digest": "DIGEST",
        "ID": "IMAGE ID",
        "Repository": "REPOSITORY",
        "SharedSize": "SHARED SIZE",
        "Size": "SIZE",
        "Tag": "TAG",
        "UniqueSize": "UNIQUE SIZE",
        "VirtualSize": "SIZE",
    })
}
