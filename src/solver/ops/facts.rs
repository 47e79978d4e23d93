//! What the key of a copy holds of each file, in a form that can be kept and compared later.

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::Kind;
use serde::{Deserialize, Serialize};

use super::select::{Item, Selection};

/// One file of a selection, without times. Contents and values are shortened digests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// `file`, `directory`, `symlink`, ...
    #[serde(rename = "t")]
    pub kind: String,
    /// Permission bits.
    #[serde(rename = "m")]
    pub mode: u32,
    /// User and group.
    #[serde(rename = "o", default, skip_serializing_if = "is_root")]
    pub owner: (u32, u32),
    /// What is in a file.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Where a link leads, or which device it is.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Extended attributes.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<(String, String)>,
    /// Whether other names in the selection are the same file.
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    pub is_linked: bool,
}

fn is_root(owner: &(u32, u32)) -> bool {
    *owner == (0, 0)
}

impl Selection {
    /// The files that the key depends on, by their paths in the source, in the order of the operands.
    pub fn facts(&self) -> impl Iterator<Item = (&[u8], FileFacts)> {
        let items = self.matches.iter().flat_map(|matched| matched.found.items());
        items.map(|item| (item.entry.path.as_bytes(), FileFacts::of(item)))
    }
}

impl FileFacts {
    fn of(item: &Item) -> Self {
        let entry = &item.entry;
        let (kind, target) = match &entry.kind {
            Kind::Directory { .. } => ("directory", None),
            Kind::File { .. } => ("file", None),
            Kind::Symlink { target } => ("symlink", Some(String::from_utf8_lossy(target).into_owned())),
            Kind::Hardlink { target } => ("hard link", Some(target.to_string())),
            Kind::Fifo => ("fifo", None),
            Kind::CharDevice { major, minor } => ("character device", Some(format!("{major}:{minor}"))),
            Kind::BlockDevice { major, minor } => ("block device", Some(format!("{major}:{minor}"))),
            Kind::Whiteout => ("whiteout", None),
        };
        let attribute = |(name, value): &(Vec<u8>, Vec<u8>)| {
            let value = short(&ContentDigest::of(value));
            (String::from_utf8_lossy(name).into_owned(), value)
        };
        Self {
            kind: kind.to_owned(),
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            content: item.digest.as_ref().map(short),
            target,
            attributes: entry.xattrs.iter().map(attribute).collect(),
            is_linked: item.link.is_some(),
        }
    }
}

fn short(digest: &ContentDigest) -> String {
    digest.hex()[..16].to_owned()
}
