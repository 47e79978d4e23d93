//! `rbuild images`: what is in the store, in docker's columns.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use rbuild_cache::Store;
use rbuild_parser::glob;
use serde_json::{Value, json};

use super::context::print;
use super::lookup::Listed;
use super::template::Template;
use super::{Context, human, lookup};
use crate::registry::Reference;

/// `rbuild images [REPOSITORY[:TAG]]`.
#[derive(Debug, clap::Args)]
pub struct ImagesArgs {
    /// Show all images; images that are no result of a build are never kept, so this changes nothing
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Only images for which this is true: dangling=, label=, before=, since=, until=, reference=
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
    let format = Format::new(&args)?;
    let store = context.store()?;
    let images = lookup::list(&store)?;
    let mut filters = Filters::parse(&args.filter, &images)?;
    if let Some(pattern) = &args.pattern {
        filters.references.push(vec![pattern.clone()]);
    }
    let mut rows = Vec::new();
    for image in &images {
        if filters.admit(image)? {
            rows.extend(image_rows(&store, image, &filters, args.no_trunc)?);
        }
    }
    print(format.render(&rows, &args)?)?;
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
    if image.names.is_empty() && filters.references.is_empty() {
        rows.push(row(none(), none(), none()));
    }
    Ok(rows)
}

/// `--filter`: all keys must hold; of one key given several times one value, but for labels.
#[derive(Default)]
struct Filters {
    dangling: Option<bool>,
    labels: Vec<(String, Option<String>)>,
    before: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    references: Vec<Vec<String>>,
}

impl Filters {
    fn parse(texts: &[String], images: &[Listed]) -> anyhow::Result<Self> {
        let mut filters = Self::default();
        let mut references = Vec::new();
        let created_of = |text: &str| {
            let name = Reference::parse(text).ok();
            let meant = |image: &&Listed| {
                name.as_ref().is_some_and(|name| image.names.contains(name))
                    || image
                        .image
                        .id()
                        .to_string()
                        .strip_prefix("sha256:")
                        .is_some_and(|id| id.starts_with(text))
            };
            let image = images
                .iter()
                .find(meant)
                .with_context(|| format!("No such image: {text}"))?;
            image
                .created_seconds()
                .with_context(|| format!("the image {text} does not say when it was created"))
        };
        for text in texts {
            let (key, value) = text.split_once('=').with_context(|| {
                format!("invalid argument {text:?}: bad format of filter (expected name=value)")
            })?;
            match key.trim().to_ascii_lowercase().as_str() {
                "dangling" => {
                    filters.dangling = Some(match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => bail!("invalid filter 'dangling={value}'"),
                    });
                }
                "label" => filters.labels.push(match value.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (value.to_owned(), None),
                }),
                "before" => {
                    let created = created_of(value)?;
                    filters.before = Some(filters.before.map_or(created, |known: i64| known.max(created)));
                }
                "since" => {
                    let created = created_of(value)?;
                    filters.since = Some(filters.since.map_or(created, |known: i64| known.min(created)));
                }
                "until" => filters.until = Some(until(value)?),
                "reference" => references.push(value.to_owned()),
                _ => bail!("invalid filter '{key}'"),
            }
        }
        if !references.is_empty() {
            filters.references.push(references);
        }
        Ok(filters)
    }

    fn admit(&self, image: &Listed) -> anyhow::Result<bool> {
        let config = image.config();
        let labels = &config["config"]["Labels"];
        let labelled = self
            .labels
            .iter()
            .all(|(key, value)| match (labels.get(key), value) {
                (Some(_), None) => true,
                (Some(found), Some(wanted)) => found.as_str() == Some(wanted),
                (None, _) => false,
            });
        let created = image.created_seconds().unwrap_or(0);
        Ok(labelled
            && self
                .dangling
                .is_none_or(|dangling| dangling == image.names.is_empty())
            && self.before.is_none_or(|time| created < time)
            && self.since.is_none_or(|time| created > time)
            && self.until.is_none_or(|time| created < time))
    }

    fn admit_name(&self, name: &Reference, image: &Listed) -> anyhow::Result<bool> {
        let forms = [
            name.familiar_name(),
            name.familiar(),
            format!("{}@{}", name.familiar_name(), image.descriptor.digest),
        ];
        for any_of in &self.references {
            let mut fits = false;
            for pattern in any_of {
                for form in &forms {
                    let matched = glob::matches(pattern.as_bytes(), form.as_bytes());
                    fits |= matched.map_err(|_| anyhow::anyhow!("invalid reference pattern {pattern:?}"))?;
                }
            }
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A time, or how long ago it was.
pub fn until(text: &str) -> anyhow::Result<i64> {
    if let Some(ago) = human::parse_duration(text) {
        return Ok(jiff::Timestamp::now()
            .as_second()
            .saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX)));
    }
    let time = text
        .parse::<jiff::Timestamp>()
        .map(|time| time.as_second())
        .or_else(|_| text.parse::<i64>());
    time.with_context(|| {
        format!("invalid time {text:?}: give a duration like 24h or a time like 2026-01-02T15:04:05Z")
    })
}

enum Format {
    Table,
    Json,
    Template(Template),
    TableOf(Template),
}

impl Format {
    fn new(args: &ImagesArgs) -> anyhow::Result<Self> {
        Ok(match args.format.as_deref() {
            None | Some("" | "table") => Self::Table,
            Some("json") => Self::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(columns) => Self::TableOf(Template::parse(&columns.replace("\\t", "\t"))?),
                None => Self::Template(Template::parse(&text.replace("\\t", "\t").replace("\\n", "\n"))?),
            },
        })
    }

    fn render(&self, rows: &[Row], args: &ImagesArgs) -> anyhow::Result<String> {
        let now = jiff::Timestamp::now().as_second();
        let lines = |template: &Template| -> anyhow::Result<Vec<String>> {
            rows.iter()
                .map(|row| Ok(template.render(&row.fields(now))?))
                .collect()
        };
        if args.quiet && !matches!(self, Self::Template(_) | Self::Json) {
            return Ok(rows.iter().map(|row| format!("{}\n", row.id)).collect());
        }
        Ok(match self {
            Self::Json => rows.iter().map(|row| format!("{}\n", row.fields(now))).collect(),
            Self::Template(template) => lines(template)?.iter().map(|line| format!("{line}\n")).collect(),
            Self::TableOf(template) => {
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let mut table = vec![cells(&template.render(&headings())?)];
                table.extend(lines(template)?.iter().map(|line| cells(line)));
                human::table(&table)
            }
            Self::Table => {
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
                human::table(&table)
            }
        })
    }
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
