//! Why a step has to run: one cause, the nearest, as data and as text.

use serde::{Deserialize, Serialize};

use super::words;

/// Why a step is not taken from the cache. What is `from` was so in the last build, `to` is so now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// Nothing is known of an earlier build.
    NeverBuilt,
    /// The last build had no such step.
    NewInstruction,
    /// `--no-cache`.
    NoCache,
    /// `--no-cache-filter` names its stage.
    NoCacheFilter,
    /// `--cache-ttl`: the result is older.
    CacheTtl {
        /// Seconds since it was made.
        age: u64,
        /// Seconds that were allowed.
        ttl: u64,
    },
    /// The result was removed.
    Evicted {
        /// By what: `prune --all`, for example.
        rule: String,
        /// When, in seconds since 1970.
        at: u64,
    },
    /// The result cannot be used.
    Damaged {
        /// `record` or `layer`.
        what: Part,
    },
    /// The last build wanted it too, and did not come to its end.
    Unfinished,
    /// The result is not there any more, and nobody wrote down why.
    Gone,
    /// The text of the instruction.
    Instruction {
        /// As it was.
        from: String,
        /// As it is.
        to: String,
    },
    /// A variable that ARG sets.
    Arg {
        /// Its name.
        name: String,
        /// `None` when it was not set.
        from: Option<String>,
        /// `None` when it is not set.
        to: Option<String>,
    },
    /// A variable that ENV or the base image sets.
    Env {
        /// Its name.
        name: String,
        /// `None` when it was not set.
        from: Option<String>,
        /// `None` when it is not set.
        to: Option<String>,
    },
    /// The user, the network, the platform, or something else that an earlier line or a flag decides.
    Setting {
        /// What is set, for example `user`.
        name: String,
        /// As it was.
        from: Option<String>,
        /// As it is.
        to: Option<String>,
    },
    /// A `--mount`.
    Mount {
        /// `None` for a new one.
        from: Option<String>,
        /// `None` for one that is gone.
        to: Option<String>,
    },
    /// The base image is another one.
    BaseImage {
        /// Reference and digest; `None` for no image.
        from: Option<String>,
        /// Reference and digest.
        to: Option<String>,
    },
    /// An image that files are taken from is another one.
    SourceImage {
        /// Reference and digest; `None` for no image.
        from: Option<String>,
        /// Reference and digest.
        to: Option<String>,
    },
    /// A file of a web server, or a commit.
    Remote {
        /// Where it is.
        address: String,
        /// Digest or commit.
        from: Option<String>,
        /// Digest or commit.
        to: String,
    },
    /// Files that it reads.
    Files {
        /// Up to [`super::files::MOST`] of them.
        changes: Vec<FileChange>,
        /// How many there are beside these.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: usize,
    },
    /// A step that it builds upon, or takes files from.
    Step {
        /// Its stage.
        stage: String,
        /// Its number in the stage.
        step: usize,
        /// Its name in the progress output.
        name: String,
    },
    /// It came after another step.
    Order {
        /// The step before it, as it was.
        from: String,
        /// The step or image before it.
        to: String,
    },
    /// Nothing changed: the rules by which keys are made did.
    Version,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// A part of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The record that a key leads to.
    Record,
    /// The layer that the record names.
    Layer,
}

/// What is different about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Its path in the source.
    pub path: String,
    /// What changed.
    pub change: Aspect,
    /// As it was, where that can be said in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// As it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What may be different about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is a directory instead of a file, for instance.
    Type,
    /// What is in it.
    Content,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Where a symbolic link leads.
    Link,
    /// An extended attribute.
    Xattr,
    /// Whether it has other names in the selection.
    Hardlink,
}

impl Aspect {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Type => "type",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Link => "link",
            Self::Xattr => "xattr",
            Self::Hardlink => "hardlink",
        }
    }
}

/// Files that are listed in a text.
const SHOWN_FILES: usize = 10;

impl Cause {
    /// The cause in a line, and more lines for a list of files.
    pub fn lines(&self) -> Vec<String> {
        let line = match self {
            Self::NeverBuilt => "it was never built here".to_owned(),
            Self::NewInstruction => "the instruction is new".to_owned(),
            Self::NoCache => "--no-cache".to_owned(),
            Self::NoCacheFilter => "--no-cache-filter names its stage".to_owned(),
            Self::CacheTtl { age, ttl } => {
                format!("--cache-ttl {ttl}s: the result was made {age}s ago")
            }
            Self::Evicted { rule, at } => format!("its result was removed by {rule} at {}", time(*at)),
            Self::Damaged { what: Part::Record } => {
                "the record of its result was damaged, or written by another version".to_owned()
            }
            Self::Damaged { what: Part::Layer } => {
                "the layer of its result was damaged or removed".to_owned()
            }
            Self::Unfinished => "the last build did not finish it".to_owned(),
            Self::Gone => "its result is no longer in the store".to_owned(),
            Self::Instruction { from, to } => {
                format!("the instruction changed: {}", words::difference(from, to))
            }
            Self::Arg { name, from, to } => format!("ARG {name} {}", changed(from, to)),
            Self::Env { name, from, to } => format!("ENV {name} {}", changed(from, to)),
            Self::Setting { name, from, to } => format!("{name} {}", changed(from, to)),
            Self::Mount { from, to } => format!("a mount {}", changed(from, to)),
            Self::BaseImage { from, to } => format!("the base image {}", changed(from, to)),
            Self::SourceImage { from, to } => {
                format!("the image that it takes files from {}", changed(from, to))
            }
            Self::Remote { address, from, to } => {
                format!("{address} {}", changed(from, &Some(to.clone())))
            }
            Self::Files { changes, more } => return files(changes, *more),
            Self::Step { name, .. } => format!("it builds upon what changed: {name}"),
            Self::Order { from, to } => {
                format!("what comes before it changed: {}", words::difference(from, to))
            }
            Self::Version => "results of this step were recorded by other rules (another version)".to_owned(),
        };
        vec![line]
    }
}

fn files(changes: &[FileChange], more: usize) -> Vec<String> {
    let mut lines = vec!["the files that it reads changed".to_owned()];
    for change in changes.iter().take(SHOWN_FILES) {
        let mut line = format!("  {:<8} {}", change.change.word(), change.path);
        if let (Some(from), Some(to)) = (&change.from, &change.to) {
            line.push_str(&format!(" ({from} -> {to})"));
        }
        lines.push(visible(&line));
    }
    let more = more + changes.len().saturating_sub(SHOWN_FILES);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines
}

/// Names of files may have what ends a line or moves a terminal's cursor.
fn visible(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn changed(from: &Option<String>, to: &Option<String>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("changed: {from:?} -> {to:?}"),
        (None, Some(to)) => format!("was added: {to:?}"),
        (Some(from), None) => format!("was removed: {from:?}"),
        (None, None) => "changed".to_owned(),
    }
}

/// A time of the store, to the second.
pub fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok();
    let time = time.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_do_nothing_to_a_terminal() {
        let change = FileChange {
            path: "a\nb \u{1b}]0;title\u{7} é".to_owned(),
            change: Aspect::Link,
            from: Some("one\r".to_owned()),
            to: Some("two".to_owned()),
        };
        let cause = Cause::Files {
            changes: vec![change],
            more: 0,
        };
        let shown = r"  link     a\nb \u{1b}]0;title\u{7} é (one\r -> two)";
        assert_eq!(cause.lines(), ["the files that it reads changed", shown]);
    }
}
