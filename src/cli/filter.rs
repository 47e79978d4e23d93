//! `--filter` of images.

use anyhow::{Context as _, bail};
use rbuild_parser::glob;

use super::human;
use super::lookup::Listed;
use crate::registry::Reference;

/// `--filter`: all keys must hold; of one key given several times one value, but for labels.
#[derive(Debug, Default)]
pub struct Filters {
    dangling: Option<bool>,
    labels: Vec<Label>,
    ids: Vec<String>,
    before: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    references: Vec<Vec<String>>,
}

impl Filters {
    /// What `texts` say; `images` are all there are.
    pub fn parse(texts: &[String], images: &[Listed]) -> anyhow::Result<Self> {
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
                "label" => filters.labels.push(Label::new(value, true)),
                "label!" => filters.labels.push(Label::new(value, false)),
                "id" => filters
                    .ids
                    .push(value.strip_prefix("sha256:").unwrap_or(value).to_owned()),
                "before" => {
                    let created = created_of(value)?;
                    filters.before = Some(filters.before.map_or(created, |known: i64| known.max(created)));
                }
                "since" | "after" => {
                    let created = created_of(value)?;
                    filters.since = Some(filters.since.map_or(created, |known: i64| known.min(created)));
                }
                "until" => filters.until = Some(until(value)?),
                "reference" => references.push(value.to_owned()),
                _ => bail!(
                    "invalid filter '{key}': there are dangling, label, label!, before, since, until, reference and id"
                ),
            }
        }
        if !references.is_empty() {
            filters.references.push(references);
        }
        Ok(filters)
    }

    /// Also wants a name that fits `pattern`.
    pub fn require_name(&mut self, pattern: &str) {
        self.references.push(vec![pattern.to_owned()]);
    }

    /// Whether names decide.
    pub fn ask_for_names(&self) -> bool {
        !self.references.is_empty()
    }

    /// Whether `image` is meant, its names aside.
    pub fn admit(&self, image: &Listed) -> anyhow::Result<bool> {
        let config = image.config();
        let labels = &config["config"]["Labels"];
        let labelled = self.labels.iter().all(|label| {
            label.fits(
                labels
                    .get(&label.key)
                    .map(|value| value.as_str().unwrap_or_default()),
            )
        });
        let id = image.image.id().hex();
        let created = image.created_seconds().unwrap_or(0);
        Ok(labelled
            && (self.ids.is_empty() || self.ids.iter().any(|start| id.starts_with(start)))
            && self
                .dangling
                .is_none_or(|dangling| dangling == image.names.is_empty())
            && self.before.is_none_or(|time| created < time)
            && self.since.is_none_or(|time| created > time)
            && self.until.is_none_or(|time| created < time))
    }

    /// Whether `name` of `image` is meant.
    pub fn admit_name(&self, name: &Reference, image: &Listed) -> anyhow::Result<bool> {
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

/// A label that has to be there, or must not.
#[derive(Debug)]
struct Label {
    key: String,
    value: Option<String>,
    wanted: bool,
}

impl Label {
    fn new(text: &str, wanted: bool) -> Self {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        Self {
            key: key.to_owned(),
            value,
            wanted,
        }
    }

    fn fits(&self, found: Option<&str>) -> bool {
        let there = found.is_some_and(|found| self.value.as_deref().is_none_or(|value| value == found));
        there == self.wanted
    }
}

/// A time, or how long ago it was.
fn until(text: &str) -> anyhow::Result<i64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for (text, wanted, found, fits) in [
            ("a", true, Some("1"), true),
            ("a", true, None, false),
            ("a=1", true, Some("1"), true),
            ("a=1", true, Some("2"), false),
            ("a", false, Some("1"), false),
            ("a", false, None, true),
            ("a=1", false, Some("2"), true),
        ] {
            assert_eq!(
                Label::new(text, wanted).fits(found),
                fits,
                "{text} {wanted} {found:?}"
            );
        }
    }

    #[test]
    fn unknown_filters_and_times_are_errors() {
        for text in [
            "x=1",
            "dangling",
            "dangling=x",
            "until=yesterday",
            "before=nothing",
        ] {
            assert!(Filters::parse(&[text.to_owned()], &[]).is_err(), "{text}");
        }
        assert!(Filters::parse(&["until=2026-01-02T15:04:05Z".to_owned()], &[]).is_ok());
    }
}
