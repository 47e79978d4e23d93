//! What is in an OCI image layout (image-spec, "OCI Image Layout") of this machine? A directory that
//! somebody else made: nothing in it is believed before its digest was checked, and only regular
//! files are opened.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rbuild_cache::{Descriptor, Digest};

use crate::registry::document::{Document, Index, MANIFEST_LIMIT, OCI_INDEX, Reading};

/// A layout directory, by its absolute path.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// Which image of a layout is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The only one, or that with the tag `latest`.
    Default,
    /// That with this tag.
    Tag(String),
    /// That with this digest.
    Digest(Digest),
}

impl Layout {
    /// How an origin starts that is a directory.
    pub const ORIGIN: &str = "oci-layout:";

    /// The layout at `root`.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// `DIR[:TAG|@DIGEST]`, relative to the working directory.
    pub fn open(location: &str) -> anyhow::Result<(Self, Selector)> {
        let (path, selector) = split(location)?;
        let root = Path::new(path)
            .canonicalize()
            .with_context(|| format!("opening the OCI layout {path}"))?;
        Ok((Self { root }, selector))
    }

    /// The layout as the origin of a layer.
    pub fn origin(&self) -> String {
        format!("{}{}", Self::ORIGIN, self.root.display())
    }

    /// The manifest or index that is meant.
    pub fn document(&self, selector: &Selector) -> anyhow::Result<Document> {
        let path = self.root.join("index.json");
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            open_regular(&path)?
                .take(MANIFEST_LIMIT + 1)
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().with_context(|| format!("reading {}", path.display()))?;
        let reading = Document::new(bytes, Some(OCI_INDEX)).and_then(|document| document.read());
        match reading {
            Ok(Reading::Index(index)) => self.entry(choose(&index, selector)?),
            Ok(Reading::Manifest(_)) => bail!("reading {}: it is no index", path.display()),
            Err(reason) => bail!("reading {}: {reason}", path.display()),
        }
    }

    /// The manifest or index that an index names.
    pub fn entry(&self, descriptor: &Descriptor) -> anyhow::Result<Document> {
        let bytes = self.small_blob(descriptor, MANIFEST_LIMIT)?;
        Document::new(bytes, Some(&descriptor.media_type))
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("reading {} of {}", descriptor.digest, self.root.display()))
    }

    /// A blob in memory, verified.
    pub fn small_blob(&self, descriptor: &Descriptor, limit: u64) -> anyhow::Result<Vec<u8>> {
        let Descriptor { digest, size, .. } = descriptor;
        let doing = || format!("reading {digest} of {}", self.root.display());
        if *size > limit {
            bail!("{}: its {size} bytes are more than the {limit} allowed", doing());
        }
        let mut bytes = Vec::new();
        self.blob(digest, *size)
            .and_then(|mut blob| blob.read_to_end(&mut bytes))
            .with_context(doing)?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            bail!("{}: it has the digest {actual}", doing());
        }
        Ok(bytes)
    }

    /// A blob as a stream; who reads it checks its digest.
    pub fn blob(&self, digest: &Digest, size: u64) -> io::Result<File> {
        let path = self.root.join("blobs/sha256").join(digest.hex());
        let file = open_regular(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("opening {}: {error}", path.display())))?;
        let actual = file.metadata()?.len();
        if actual != size {
            let text = format!("{} has {actual} bytes instead of {size}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(file)
    }
}

/// Path and selector. A colon in a directory name is no tag.
fn split(location: &str) -> anyhow::Result<(&str, Selector)> {
    if let Some((path, digest)) = location.rsplit_once('@') {
        if let Ok(digest) = digest.parse() {
            return Ok((path, Selector::Digest(digest)));
        }
        if digest.starts_with("sha256:") {
            bail!("oci-layout://{location}: invalid digest {digest:?}");
        }
    }
    match location.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => {
            Ok((path, Selector::Tag(tag.to_owned())))
        }
        _ => Ok((location, Selector::Default)),
    }
}

fn choose<'a>(index: &'a Index, selector: &Selector) -> anyhow::Result<&'a Descriptor> {
    let tagged = |tag: &str| {
        // Tools that keep whole references there have the tag at their end.
        let suffix = format!(":{tag}");
        let mut found = index.entries.iter().filter(|entry| {
            entry
                .ref_name
                .as_deref()
                .is_some_and(|name| name == tag || name.ends_with(&suffix))
        });
        let first = found.next();
        first
            .filter(|_| found.next().is_none())
            .map(|entry| &entry.descriptor)
    };
    let found = match selector {
        Selector::Digest(digest) => index
            .entries
            .iter()
            .map(|entry| &entry.descriptor)
            .find(|descriptor| descriptor.digest == *digest),
        Selector::Tag(tag) => tagged(tag),
        Selector::Default => {
            let mut images = index.entries.iter().filter(|entry| !entry.is_artifact);
            match (images.next(), images.next()) {
                (Some(only), None) => Some(&only.descriptor),
                _ => tagged("latest"),
            }
        }
    };
    found.with_context(|| {
        let names: Vec<&str> = index
            .entries
            .iter()
            .filter_map(|entry| entry.ref_name.as_deref())
            .collect();
        let wanted = match selector {
            Selector::Digest(digest) => format!("the digest {digest}"),
            Selector::Tag(tag) => format!("the one tag {tag}"),
            Selector::Default => "a single image or one tag latest".to_owned(),
        };
        format!(
            "the OCI layout does not have {wanted}: it has the tags {}",
            names.join(", ")
        )
    })
}

/// Never waits for a FIFO's other end.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        "it is no regular file",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_split() {
        let digest = Digest::of(b"x");
        for (location, path, selector) in [
            ("dir", "dir", Selector::Default),
            ("/a/b:1.0", "/a/b", Selector::Tag("1.0".to_owned())),
            ("/a:b/c", "/a:b/c", Selector::Default),
            (&format!("a@b/c@{digest}"), "a@b/c", Selector::Digest(digest)),
            ("./x:", "./x:", Selector::Default),
        ] {
            assert_eq!(split(location).unwrap(), (path, selector), "{location}");
        }
        assert!(split("dir@sha256:00").is_err());
    }
}
