//! The lock file: what the names of a Dockerfile meant when somebody decided that they shall go on meaning it.
//!
//! TOML that people read in diffs: one line for each digest, sorted, without times of its own, and without credentials. Keys are
//! names after expansion: of images in full, of files by address, of repositories with what was asked of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rbuild_cache::Digest;
use rbuild_parser::git_url::{GitUrl, is_commit};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// The version of the format that is written.
pub const VERSION: u32 = 1;
/// More than this is no lock file.
pub const LOCK_LIMIT: u64 = 16 << 20;

/// The entries of a lock file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Of the format.
    version: Version,
    /// Images by name: `docker.io/library/debian:12`, `oci-layout://DIR:TAG`.
    #[serde(default)]
    pub images: BTreeMap<String, LockedImage>,
    /// Files of web servers by address.
    #[serde(default)]
    pub files: BTreeMap<String, LockedFile>,
    /// Commits of repositories by [`git_name`].
    #[serde(default)]
    pub git: BTreeMap<String, LockedCommit>,
}

/// What an image's name led to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// The index, or the manifest of the only image.
    pub digest: Digest,
    /// The manifests of its images, by platform.
    #[serde(default)]
    pub platforms: BTreeMap<String, Digest>,
}

/// What a web server had.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// The bytes.
    pub digest: Digest,
    /// The time that the file bears, in seconds since 1970 (`Last-Modified`).
    pub modified: i64,
}

/// What a repository had.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedCommit {
    /// The whole commit id.
    #[serde(deserialize_with = "commit")]
    pub commit: String,
    /// The whole name of the ref that led there; empty if it has none.
    #[serde(default, rename = "ref")]
    pub reference: String,
}

/// A version that can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Self),
            other => Err(D::Error::custom(format!(
                "the format of version {other} is not known: this program reads version {VERSION}"
            ))),
        }
    }
}

fn commit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if is_commit(&text) {
        return Ok(text);
    }
    Err(D::Error::custom(format!("{text:?} is no whole commit id")))
}

/// What is asked of a repository: its address, and what of ref and checksum was given. The directory does not count: all of a
/// repository that is asked for in the same words is of one commit.
pub fn git_name(url: &GitUrl) -> String {
    let mut name = url.remote.to_string();
    if let Some(checksum) = &url.checksum {
        name.push_str(&format!("?checksum={checksum}"));
    }
    if let Some(reference) = &url.reference {
        name.push_str(&format!("#{reference}"));
    }
    name
}

impl Lock {
    /// The file's text, the same for the same entries.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# What this Dockerfile builds from, by digest. Written by `rbuild lock`, renewed by `rbuild lock --update`,\n\
             # and what `rbuild --locked` builds from.\nversion = {VERSION}\n"
        );
        // Writing to a string does not fail.
        for (name, image) in &self.images {
            let _ = write!(
                text,
                "\n[images.{}]\ndigest = \"{}\"\n",
                quoted(name),
                image.digest
            );
            for (platform, digest) in &image.platforms {
                let _ = writeln!(text, "platforms.{} = \"{digest}\"", quoted(platform));
            }
        }
        for (url, file) in &self.files {
            let _ = write!(
                text,
                "\n[files.{}]\ndigest = \"{}\"\nmodified = {}\n",
                quoted(url),
                file.digest,
                file.modified
            );
        }
        for (name, git) in &self.git {
            let _ = write!(text, "\n[git.{}]\ncommit = \"{}\"\n", quoted(name), git.commit);
            if !git.reference.is_empty() {
                let _ = writeln!(text, "ref = {}", quoted(&git.reference));
            }
        }
        text
    }

    /// The names of all entries, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (images, files, git) = (self.images.keys(), self.files.keys(), self.git.keys());
        images.chain(files).chain(git).map(String::as_str)
    }

    /// What an entry names, in short, for messages; `None` when there is no such entry.
    pub fn value(&self, name: &str) -> Option<String> {
        let image = self.images.get(name).map(|image| image.digest.to_string());
        image
            .or_else(|| self.files.get(name).map(|file| file.digest.to_string()))
            .or_else(|| self.git.get(name).map(|git| git.commit.clone()))
    }

    /// Takes the entries of `newer`, which win. Platforms of an image stay as long as its digest does.
    pub fn merge(&mut self, newer: Self) {
        for (name, mut image) in newer.images {
            if let Some(old) = self.images.remove(&name)
                && old.digest == image.digest
            {
                for (platform, digest) in old.platforms {
                    image.platforms.entry(platform).or_insert(digest);
                }
            }
            self.images.insert(name, image);
        }
        self.files.extend(newer.files);
        self.git.extend(newer.git);
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for scalar in text.chars() {
        match scalar {
            '"' | '\\' => quoted.extend(['\\', scalar]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Lock {
        let image = LockedImage {
            digest: Digest::of(b"index"),
            platforms: [
                ("linux/arm64".to_owned(), Digest::of(b"arm64")),
                ("linux/amd64".to_owned(), Digest::of(b"amd64")),
            ]
            .into(),
        };
        let file = LockedFile {
            digest: Digest::of(b"file"),
            modified: 7,
        };
        let git = LockedCommit {
            commit: "a".repeat(40),
            reference: "refs/heads/main".to_owned(),
        };
        let bare = LockedCommit {
            commit: "b".repeat(64),
            reference: String::new(),
        };
        Lock {
            images: [("docker.io/library/debian:12".to_owned(), image)].into(),
            files: [("https://host/a?b=\"c\\d\u{7f}\"".to_owned(), file)].into(),
            git: [
                ("https://host/r.git#main".to_owned(), git),
                ("https://host/r.git".to_owned(), bare),
            ]
            .into(),
            ..Lock::default()
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let lock = example();
        let text = lock.text();
        assert_eq!(toml::from_str::<Lock>(&text).unwrap(), lock);
        assert_eq!(toml::from_str::<Lock>(&text).unwrap().text(), text);
        let digests: Vec<&str> = text.lines().filter(|line| line.contains("platforms")).collect();
        assert!(
            digests.len() == 2 && digests[0].contains("amd64"),
            "a line for each platform, sorted: {text}"
        );
        assert_eq!(Lock::default(), toml::from_str("version = 1").unwrap());
    }

    #[test]
    fn entries_are_merged_by_name() {
        let mut lock = example();
        let name = "docker.io/library/debian:12".to_owned();
        let only_riscv = |digest| LockedImage {
            digest,
            platforms: [("linux/riscv64".to_owned(), Digest::of(b"riscv"))].into(),
        };
        let newer = |digest| Lock {
            images: [(name.clone(), only_riscv(digest))].into(),
            ..Lock::default()
        };
        lock.merge(newer(Digest::of(b"index")));
        assert_eq!(lock.images[&name].platforms.len(), 3, "of the same index");
        lock.merge(newer(Digest::of(b"another")));
        assert_eq!(
            lock.images[&name].platforms.len(),
            1,
            "of another index others are gone"
        );
        assert_eq!(lock.names().count(), 4);
        assert_eq!(lock.value("https://host/r.git#main"), Some("a".repeat(40)));
        assert_eq!(lock.value("x"), None);
    }

    #[test]
    fn repositories_are_named_by_what_decides_the_commit() {
        for (url, name) in [
            ("https://u:p@host/r.git#main:dir", "https://host/r.git#main"),
            ("https://host/r.git#:dir", "https://host/r.git"),
            (
                "https://host/r.git?ref=v1&checksum=ABCD",
                "https://host/r.git?checksum=abcd#v1",
            ),
        ] {
            let url = GitUrl::of_context(url).unwrap().unwrap();
            assert_eq!(git_name(&url), name);
        }
    }
}
