//! Which files the operands of a copy mean, and the key of all that would be read of them
//! (spec P8 to P10, P17, P30 to P32, 12.1).

mod digests;
mod finder;
mod pattern;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Entry, Kind, LayerPath};
use rbuild_cache::{ContentDigest, Key, KeyBuilder};
use rbuild_parser::ignore::Matcher;

use super::{SourceNumber, Sources};
use crate::graph::{CopyOp, CopySource, InlineFile, Unpack};
use digests::digest_all;
use finder::Finder;

/// The files that a copy would read.
#[derive(Debug)]
pub struct Selection {
    pub(super) matches: Vec<Match>,
    key: Key,
    /// Bytes that an archive may become.
    pub(super) limit: Option<u64>,
}

/// One file or directory that an operand names.
#[derive(Debug)]
pub(super) struct Match {
    /// The tree that has it.
    pub source: SourceNumber,
    /// Its name at the destination, when that is a directory.
    pub name: Vec<u8>,
    pub found: Found,
}

#[derive(Debug)]
pub(super) enum Found {
    /// Anything but a directory.
    File(Item),
    /// A file that ADD extracts.
    Archive(Item),
    /// What lies in a directory, parents before children. The directory itself says nothing, unless it is wanted.
    Contents(Vec<Item>),
    /// The same with `--parents`: all directories between the pivot and what was named are among the items.
    Parents(Vec<Item>),
    /// A heredoc.
    Inline(InlineFile),
}

#[derive(Debug)]
pub(super) struct Item {
    /// Its path below the destination.
    pub relative: Relative,
    /// As the source shows it.
    pub entry: Arc<Entry>,
    /// For a regular file.
    pub digest: Option<ContentDigest>,
    /// Shared by hard links of each other within one match.
    pub link: Option<u64>,
}

/// The path of an item below the destination.
#[derive(Debug)]
pub(super) enum Relative {
    /// The path in the source from this byte on: nearly always it is no path of its own.
    From(u32),
    Path(LayerPath),
}

impl Item {
    /// Its path where the destination is `top`.
    pub fn path_in(&self, top: &LayerPath) -> LayerPath {
        let start = match &self.relative {
            Relative::From(start) => *start as usize,
            Relative::Path(path) => return top.append(path),
        };
        // Most copies keep the names that directories have.
        let above = self.entry.path.as_bytes().get(..start).unwrap_or_default();
        if above.strip_suffix(b"/").unwrap_or(above) == top.as_bytes() {
            return self.entry.path.clone();
        }
        top.append(&LayerPath::clean(self.relative()))
    }

    /// Its path below the destination.
    pub fn relative(&self) -> &[u8] {
        match &self.relative {
            Relative::From(start) => self
                .entry
                .path
                .as_bytes()
                .get(*start as usize..)
                .unwrap_or_default(),
            Relative::Path(path) => path.as_bytes(),
        }
    }
}

impl Selection {
    /// One archive, which may become `limit` bytes when it is decompressed.
    pub(super) fn of_archive(item: Item, limit: Option<u64>) -> Self {
        let matches = vec![Match {
            source: 0,
            name: Vec::new(),
            found: Found::Archive(item),
        }];
        Self {
            key: key(&matches),
            matches,
            limit,
        }
    }

    /// Names relative to their operand, types, modes, owners, xattrs, links and content digests; no times.
    pub fn key(&self) -> Key {
        self.key
    }
}

impl Found {
    pub(super) fn items(&self) -> &[Item] {
        match self {
            Self::File(item) | Self::Archive(item) => std::slice::from_ref(item),
            Self::Contents(items) | Self::Parents(items) => items,
            Self::Inline(_) => &[],
        }
    }

    fn items_mut(&mut self) -> &mut [Item] {
        match self {
            Self::File(item) | Self::Archive(item) => std::slice::from_mut(item),
            Self::Contents(items) | Self::Parents(items) => items,
            Self::Inline(_) => &mut [],
        }
    }
}

/// Finds what the operands of `op` name in `sources`, which may have no trees when all are inline. Reads what has to be
/// read for the digests of files, in parallel, and no more.
pub fn selection(op: &CopyOp, sources: Sources<'_>) -> anyhow::Result<Selection> {
    let excludes = Matcher::new(&op.excludes).context("--exclude")?;
    let excludes = (!excludes.is_empty()).then_some(excludes);
    let (mut matches, mut inline) = (Vec::new(), Vec::new());
    for operand in &op.sources {
        match operand {
            CopySource::Path(text) => {
                let finder = Finder {
                    number: 0,
                    source: sources.get(0)?,
                    excludes: excludes.as_ref(),
                    unpack: op.unpack == Unpack::Archives,
                    itself: op.itself,
                    written: text,
                };
                if op.parents {
                    matches.push(finder.with_parents()?);
                } else {
                    finder.plain(&mut matches)?;
                }
            }
            CopySource::Remote(remote) => {
                let number = remote.source + 1;
                let finder = Finder {
                    number,
                    source: sources.get(number)?,
                    excludes: excludes.as_ref(),
                    unpack: remote.unpack,
                    itself: op.itself,
                    written: &remote.path,
                };
                finder.matched(&LayerPath::clean(remote.path.as_bytes()), &mut matches)?;
            }
            CopySource::Inline(file) => {
                let name = LayerPath::clean(file.name.as_bytes());
                if name.is_root() || name.as_bytes() != file.name.as_bytes() || file.name.contains('/') {
                    bail!(
                        "invalid name {:?} of a heredoc: it is to be a file name",
                        file.name
                    );
                }
                let name = file.name.clone().into_bytes();
                inline.push(Match {
                    source: 0,
                    name,
                    found: Found::Inline(file.clone()),
                });
            }
        }
    }
    digest_all(sources, &mut matches)?;
    // Heredocs come last, wherever they were written (spec L62).
    matches.append(&mut inline);
    let key = key(&matches);
    Ok(Selection {
        matches,
        key,
        limit: None,
    })
}

fn key(matches: &[Match]) -> Key {
    let mut key = KeyBuilder::new("selection/1");
    let mut record = Vec::new();
    for matched in matches {
        let (kind, name) = match &matched.found {
            Found::File(_) => ("file", &matched.name[..]),
            Found::Archive(_) => ("archive", &[][..]),
            Found::Contents(_) => ("contents", &[][..]),
            Found::Parents(_) => ("parents", &[][..]),
            Found::Inline(_) => ("inline", &matched.name[..]),
        };
        key.field(kind, name);
        if let Found::Inline(file) = &matched.found {
            key.field("data", file.data.as_bytes());
        }
        // Which number a group of links has is chance; which files are in one is not.
        let mut groups = HashMap::new();
        for item in matched.found.items() {
            // Of a file that is named alone, the name at the destination counts.
            let alone = matches!(matched.found, Found::File(_) | Found::Archive(_));
            let path = if alone { &[][..] } else { item.relative() };
            record.clear();
            record.extend_from_slice(&(path.len() as u64).to_le_bytes());
            record.extend_from_slice(path);
            item.feed(&mut record);
            if let Some(link) = item.link {
                let next = groups.len() as u64;
                record.extend_from_slice(&groups.entry(link).or_insert(next).to_le_bytes());
            }
            key.field("item", &record);
        }
    }
    key.finish()
}

impl Item {
    /// Everything of the entry that ends up in the layer, times excepted; each part has its length before it or a
    /// fixed one.
    fn feed(&self, record: &mut Vec<u8>) {
        let frame = |record: &mut Vec<u8>, bytes: &[u8]| {
            record.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            record.extend_from_slice(bytes);
        };
        let entry = &self.entry;
        match &entry.kind {
            Kind::Directory { .. } => record.push(b'd'),
            Kind::File { size } => {
                record.push(b'f');
                record.extend_from_slice(&size.to_le_bytes());
                record.extend_from_slice(&self.digest.map_or([0; 32], |digest| digest.0));
            }
            Kind::Symlink { target } => {
                record.push(b'l');
                frame(record, target);
            }
            Kind::Hardlink { target } => {
                record.push(b'h');
                frame(record, target.as_bytes());
            }
            Kind::Fifo => record.push(b'p'),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                record.push(if matches!(entry.kind, Kind::CharDevice { .. }) {
                    b'c'
                } else {
                    b'b'
                });
                record.extend_from_slice(&major.to_le_bytes());
                record.extend_from_slice(&minor.to_le_bytes());
            }
            Kind::Whiteout => record.push(b'w'),
        }
        for number in [entry.mode, entry.uid, entry.gid] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&(entry.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &entry.xattrs {
            frame(record, name);
            frame(record, value);
        }
        record.push(u8::from(self.link.is_some()));
    }
}
