//! `rbuild search`: images of Docker Hub, or of another registry that can be searched.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::context::print;
use super::format::Format;
use super::{Context, human};

const HUB: &str = "index.docker.io";

/// `rbuild search TERM`.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// Only images for which this is true: stars=N, is-official=BOOL, is-automated=BOOL
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `json`, or a Go template for each image: .Name, .Description, .StarCount, .IsOfficial
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    /// Whole descriptions
    #[arg(long)]
    no_trunc: bool,
    /// What to look for; with a host before it, there
    #[arg(value_name = "[HOST[:PORT]/]TERM")]
    term: String,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

/// Runs the command.
pub fn run(args: SearchArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let filters = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let format = Format::parse(args.format.as_deref())?;
    let (host, term) = match args.term.split_once('/') {
        Some((host, term)) if host.contains(['.', ':']) || host == "localhost" => (host, term),
        _ => (HUB, args.term.as_str()),
    };
    let target = format!("/v1/search?q={}&n={}", escaped(term), args.limit);
    let doing = format!("searching {host} for {term:?}");
    let bytes = context.registry().get(host, target, doing.clone())?;
    let answer: Answer = serde_json::from_slice(&bytes)
        .with_context(|| format!("{doing}: its answer cannot be understood"))?;
    let most = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let found = answer
        .results
        .iter()
        .filter(|found| filters.iter().all(|filter| filter.takes(found)))
        .take(most);
    let rows: Vec<Value> = found.map(|found| found.values(args.no_trunc)).collect();
    let headings = json!({
        "Name": "NAME",
        "Description": "DESCRIPTION",
        "StarCount": "STARS",
        "IsOfficial": "OFFICIAL",
        "IsAutomated": "AUTOMATED",
    });
    let own = || {
        let columns = ["Name", "Description", "StarCount", "IsOfficial"];
        let cells = |row: &Value| {
            columns
                .map(|column| row[column].as_str().unwrap_or_default().to_owned())
                .to_vec()
        };
        std::iter::once(&headings).chain(&rows).map(cells).collect()
    };
    print(format.render(&rows, &headings, own)?)?;
    Ok(ExitCode::SUCCESS)
}

impl Found {
    /// As docker's templates have them: all text.
    fn values(&self, whole: bool) -> Value {
        let description = plain(self.description.as_deref().unwrap_or_default());
        let mark = |is: bool| if is { "[OK]" } else { "" };
        json!({
            "Name": plain(&self.name),
            "Description": if whole { description } else { human::ellipsis(&description, 45) },
            "StarCount": self.star_count.to_string(),
            "IsOfficial": mark(self.is_official),
            "IsAutomated": mark(self.is_automated),
        })
    }
}

/// Text of strangers, for a terminal and one line.
fn plain(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

enum Filter {
    Stars(u64),
    Official(bool),
    Automated(bool),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let wrong = || format!("invalid filter {text:?}");
        match key {
            "stars" => value.parse().map(Self::Stars).with_context(wrong),
            "is-official" => value.parse().map(Self::Official).with_context(wrong),
            "is-automated" => value.parse().map(Self::Automated).with_context(wrong),
            _ => bail!("invalid filter {key:?}: there are stars, is-official and is-automated"),
        }
    }

    fn takes(&self, found: &Found) -> bool {
        match self {
            Self::Stars(least) => found.star_count >= *least,
            Self::Official(wanted) => found.is_official == *wanted,
            Self::Automated(wanted) => found.is_automated == *wanted,
        }
    }
}

/// For the query of an address.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}
