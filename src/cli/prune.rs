//! `rbuild prune`: gives disk space back.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use rbuild_cache::{PruneFilter, PruneKind, PruneOptions, UsageItem};

use super::confirm::Confirmation;
use super::context::print;
use super::{Context, human, trees};

/// `rbuild prune`.
#[derive(Debug, clap::Args)]
pub struct PruneArgs {
    /// Remove all build cache, not only what no image needs
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    confirmation: Confirmation,
    /// Only things for which this is true: until=24h (not used for so long), id=, type=regular, exec.cachemount,
    /// source.git.checkout or source.local, description=, shared=, private=, mutable=, immutable=, inuse=false
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Keep as much of the cache as this; what is worth most and was used last stays
    #[arg(long, visible_alias = "reserved-space", value_name = "SIZE")]
    keep_storage: Option<String>,
    /// Remove what the cache takes beyond this
    #[arg(long, value_name = "SIZE")]
    max_used_space: Option<String>,
    /// Remove until so much of the disk is free
    #[arg(long, value_name = "SIZE")]
    min_free_space: Option<String>,
    /// Also list blobs, and count records
    #[arg(long)]
    verbose: bool,
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
        for (flag, size) in [
            ("keep-storage", &self.keep_storage),
            ("max-used-space", &self.max_used_space),
            ("min-free-space", &self.min_free_space),
        ] {
            if let Some(size) = size {
                rule.push_str(&format!(" --{flag} {size}"));
            }
        }
        rule
    }

    fn options(&self) -> anyhow::Result<PruneOptions> {
        let Filters {
            until,
            kind,
            filter,
            in_use,
        } = Filters::parse(&self.filter)?;
        if in_use == Some(true) {
            bail!("the filter inuse=true chooses nothing: what running builds use is never removed");
        }
        let kind = match kind {
            None => None,
            Some("regular") => Some(PruneKind::Regular),
            Some("exec.cachemount") => Some(PruneKind::CacheMounts),
            Some("source.git.checkout") => Some(PruneKind::Git),
            Some("source.local") => Some(PruneKind::Local),
            Some(other) => bail!(
                "the filter type={other} chooses nothing that can be removed by itself: use regular, exec.cachemount, \
                 source.git.checkout or source.local"
            ),
        };
        let size = |text: &Option<String>| {
            let size = text.as_deref().map(|text| {
                human::parse_size(text).with_context(|| format!("invalid size {text:?}: write it like 10GB"))
            });
            size.transpose()
        };
        Ok(PruneOptions {
            all: self.all,
            until,
            keep_storage: size(&self.keep_storage)?,
            max_used: size(&self.max_used_space)?,
            min_free: size(&self.min_free_space)?,
            kind,
            filter,
            rule: self.rule(),
            ..PruneOptions::default()
        })
    }
}

/// `--filter` of this command and of `du`: all have to hold.
#[derive(Debug, Default)]
pub struct Filters {
    until: Option<Duration>,
    kind: Option<&'static str>,
    filter: PruneFilter,
    in_use: Option<bool>,
}

/// The types that things have in BuildKit.
const TYPES: [&str; 7] = [
    "regular",
    "exec.cachemount",
    "source.git.checkout",
    "source.http",
    "source.local",
    "internal",
    "frontend",
];

impl Filters {
    /// Understands what docker understands, as far as this store has it.
    pub fn parse(texts: &[String]) -> anyhow::Result<Self> {
        let mut filters = Self::default();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            // Docker takes `key~=value` for a regular expression; without its signs that is a part, as `key=value` is here.
            let key = match key.strip_suffix('~') {
                Some(_) if value.contains(|sign| r"\^$|?*+()[]{}".contains(sign)) => {
                    bail!(
                        "regular expressions are not supported in the filter {text:?}: write a part of the text"
                    )
                }
                Some(key) => key,
                None => key,
            };
            let (key, negated) = match key.strip_suffix('!') {
                Some(key) => (key, true),
                None => (key, false),
            };
            let truth = || match value {
                "" | "true" | "1" => Ok(!negated),
                "false" | "0" => Ok(negated),
                _ => bail!("invalid filter {text:?}: {key} is true or false"),
            };
            if negated && ["until", "unused-for", "type", "id", "description"].contains(&key) {
                bail!("the filter {text:?} is not supported: != is for what is true or false");
            }
            match key {
                "until" | "unused-for" => {
                    let seconds = human::parse_duration(value)
                        .with_context(|| format!("invalid duration {value:?}: write it like 24h"))?;
                    filters.until = Some(Duration::from_secs(seconds));
                }
                "type" => match TYPES.iter().find(|known| **known == value) {
                    Some(known) => filters.kind = Some(known),
                    None => bail!(
                        "unknown type {value:?} in a filter: there are {}",
                        TYPES.join(", ")
                    ),
                },
                "id" => filters.filter.ids.push(value.trim_end_matches('*').to_owned()),
                "description" => filters.filter.descriptions.push(value.to_owned()),
                "inuse" => filters.in_use = Some(truth()?),
                "shared" => filters.filter.shared = Some(truth()?),
                "private" => filters.filter.shared = Some(!truth()?),
                "mutable" => filters.filter.mutable = Some(truth()?),
                "immutable" => filters.filter.mutable = Some(!truth()?),
                "parents" | "parent" => {
                    bail!(
                        "the filter {key} is not supported: layers of this store have no parents, choose by id or until"
                    )
                }
                _ => bail!(
                    "unknown filter {key:?}: there are until, id, type, description, inuse, shared, private, mutable and \
                     immutable"
                ),
            }
        }
        Ok(filters)
    }

    /// Whether `item` is chosen.
    pub fn admit(&self, item: &UsageItem) -> bool {
        let PruneFilter {
            ids,
            descriptions,
            shared,
            mutable,
        } = &self.filter;
        let unused = SystemTime::now().duration_since(item.used).unwrap_or_default();
        self.until.is_none_or(|until| unused > until)
            && self.kind.is_none_or(|kind| kind == item.kind)
            && self.in_use.is_none_or(|wanted| wanted == item.in_use)
            && ids.iter().all(|part| item.id.contains(part.as_str()))
            && descriptions
                .iter()
                .all(|part| item.description.contains(part.as_str()))
            && shared.is_none_or(|wanted| wanted == item.shared)
            && mutable.is_none_or(|wanted| wanted == item.mutable)
    }
}

/// Runs the command.
pub fn run(args: PruneArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let options = args.options()?;
    let what = match args.all {
        true => "all build cache",
        false => "all dangling build cache",
    };
    if !args.confirmation.given(what)? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let _inside = trees::enter(&store)?;
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
    if args.verbose {
        report
            .blobs
            .iter()
            .for_each(|digest| out.push_str(&format!("deleted blob: {digest}\n")));
        out.push_str(&format!("deleted records: {}\n\n", report.records));
    }
    out.push_str(&format!("Total reclaimed space: {}\n", human::size(report.freed)));
    print(out)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Filters, String> {
        Filters::parse(&[text.to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_are_those_of_docker() {
        for (text, shared, mutable, in_use) in [
            ("shared", Some(true), None, None),
            ("shared!=true", Some(false), None, None),
            ("private=true", Some(false), None, None),
            ("private!=1", Some(true), None, None),
            ("mutable=0", None, Some(false), None),
            ("immutable", None, Some(false), None),
            ("inuse=false", None, None, Some(false)),
            ("inuse!=false", None, None, Some(true)),
        ] {
            let filters = parsed(text).unwrap();
            let found = (filters.filter.shared, filters.filter.mutable, filters.in_use);
            assert_eq!(found, (shared, mutable, in_use), "{text}");
        }
        for text in ["until=2h30m", "unused-for=2h30m"] {
            assert_eq!(
                parsed(text).unwrap().until,
                Some(Duration::from_secs(9000)),
                "{text}"
            );
        }
        assert_eq!(parsed("type=source.local").unwrap().kind, Some("source.local"));
        assert_eq!(parsed("id=abc*").unwrap().filter.ids, ["abc"]);
        assert_eq!(
            parsed("description~=RUN a.c").unwrap().filter.descriptions,
            ["RUN a.c"]
        );
    }

    #[test]
    fn what_would_choose_something_else_is_refused() {
        for (text, part) in [
            (
                "description~=^RUN .*make",
                "regular expressions are not supported",
            ),
            ("id!=abc", "is not supported"),
            ("until!=1h", "is not supported"),
            ("shared=maybe", "true or false"),
            ("until=soon", "invalid duration"),
            ("type=layer", "unknown type"),
            ("parents=abc", "no parents"),
            ("label=a", "unknown filter"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
