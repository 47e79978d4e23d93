//! Which files the operands of a copy mean, and the key of all that would be read of them
//! (spec P8 to P10, P17, P30 to P32, 12.1).

mod digests;
mod pattern;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Entry, Kind, LayerPath};
use rbuild_cache::tree::{self, Listed, Tree};
use rbuild_cache::{ContentDigest, Key, KeyBuilder};
use rbuild_parser::glob;
use rbuild_parser::ignore::Matcher;

use super::add;
use super::{SourceNumber, Sources};
use crate::graph::{CopyOp, CopySource, InlineFile, Unpack};
use digests::digest_all;
use pattern::split_pattern;

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

/// What is known while one operand is looked up.
struct Finder<'a> {
    number: SourceNumber,
    source: &'a dyn Tree,
    excludes: Option<&'a Matcher>,
    /// Whether archives are unpacked.
    unpack: bool,
    /// Whether a directory that is named is taken itself.
    itself: bool,
    written: &'a str,
}

impl Finder<'_> {
    fn plain(&self, matches: &mut Vec<Match>) -> anyhow::Result<()> {
        let path = LayerPath::clean(self.written.as_bytes());
        let Some((literal, pattern)) = split_pattern(&path)? else {
            let path = self.unescaped(path)?;
            return self.matched(&path, matches);
        };
        let from = tree::resolve(self.source, &literal)?;
        let mut paths = Vec::new();
        if from.entry.is_some_and(|entry| entry.is_dir()) {
            let (literal, pattern) = (literal, pattern.as_slice());
            self.expand(&from.path, &literal, pattern, false, &mut |_, lexical| {
                paths.push(lexical)
            })?;
        }
        paths.iter().try_for_each(|path| self.matched(path, matches))
    }

    /// A literal path as it stands, or without its backslashes if only that exists.
    fn unescaped(&self, path: LayerPath) -> anyhow::Result<LayerPath> {
        if !path.as_bytes().contains(&b'\\') || tree::resolve(self.source, &path)?.entry.is_some() {
            return Ok(path);
        }
        let mut plain = Vec::new();
        let mut bytes = path.as_bytes().iter();
        while let Some(byte) = bytes.next() {
            plain.extend(if *byte == b'\\' { bytes.next() } else { Some(byte) });
        }
        Ok(LayerPath::clean(&plain))
    }

    /// Takes what `path` leads to; a symbolic link at its end is followed and gives its own name (spec P10).
    fn matched(&self, path: &LayerPath, matches: &mut Vec<Match>) -> anyhow::Result<()> {
        let real = tree::resolve(self.source, path)?;
        let Some(entry) = real.entry else {
            return Err(not_found(path));
        };
        let name = path.name().to_vec();
        let found = if entry.is_dir() {
            let relative = LayerPath::root();
            let mut items = Vec::new();
            if self.itself {
                items.push(Item {
                    relative: Relative::Path(relative.clone()),
                    entry: Arc::new(entry),
                    digest: None,
                    link: None,
                });
            }
            self.collect(&real.path, &relative, &mut items)?;
            Found::Contents(items)
        } else {
            let excluded = |by: &Matcher| by.excludes(&name) || by.excludes(path.as_bytes());
            if self.excludes.is_some_and(excluded) {
                return Ok(());
            }
            let relative = LayerPath::root().join(&name);
            let item = Item {
                relative: Relative::Path(relative),
                entry: Arc::new(entry),
                digest: None,
                link: None,
            };
            let unpack = self.unpack && matches!(item.entry.kind, Kind::File { .. });
            if unpack && add::is_archive(self.source.open(&real.path)?).with_context(|| path.to_string())? {
                Found::Archive(item)
            } else {
                Found::File(item)
            }
        };
        matches.push(Match {
            source: self.number,
            name,
            found,
        });
        Ok(())
    }

    /// The operand of `--parents`: a pattern below a pivot, whose matches keep their path below it (spec P30).
    fn with_parents(&self) -> anyhow::Result<Match> {
        let (pivot, rest) = self.written.split_once("/./").unwrap_or(("", self.written));
        let pivot = LayerPath::clean(pivot.as_bytes());
        let rest = LayerPath::clean(rest.as_bytes());
        let from = tree::resolve(self.source, &pivot)?;
        if !from.entry.is_some_and(|entry| entry.is_dir()) {
            return Err(not_found(&pivot));
        }
        let mut found = Vec::new();
        match split_pattern(&rest)? {
            Some((literal, pattern)) => {
                let start = tree::resolve(self.source, &from.path.append(&literal))?;
                if start.entry.is_some_and(|entry| entry.is_dir()) {
                    let take = &mut |real, lexical| found.push((real, lexical));
                    self.expand(&start.path, &literal, &pattern, true, take)?;
                }
            }
            None => {
                let real = tree::resolve_parent(self.source, &from.path.append(&rest))?;
                if real.entry.is_none() {
                    return Err(not_found(&from.path.append(&rest)));
                }
                found.push((real.path, rest));
            }
        }
        // A directory comes before what lies in it, which is then taken with it and not again.
        found.sort_by(|(_, a), (_, b)| a.cmp(b));
        let mut items: Vec<Item> = Vec::new();
        let mut seen = HashSet::new();
        for (real, lexical) in found {
            if seen.contains(&lexical) {
                continue;
            }
            let entry = self.source.lookup(&real)?.ok_or_else(|| not_found(&real))?;
            let excluded = |by: &Matcher| by.excludes(lexical.as_bytes()) || by.excludes(lexical.name());
            let excluded = self.excludes.is_some_and(excluded);
            let mut below = Vec::new();
            if entry.is_dir() {
                self.collect(&real, &lexical, &mut below)?;
            }
            if excluded && below.is_empty() {
                continue;
            }
            self.parents_of(&from.path, &lexical, &mut seen, &mut items)?;
            if !lexical.is_root() {
                below.insert(
                    0,
                    Item {
                        relative: Relative::Path(lexical),
                        entry: Arc::new(entry),
                        digest: None,
                        link: None,
                    },
                );
            }
            seen.extend(below.iter().map(|item| LayerPath::clean(item.relative())));
            items.append(&mut below);
        }
        Ok(Match {
            source: self.number,
            name: Vec::new(),
            found: Found::Parents(items),
        })
    }

    /// Adds the directories above `lexical` that are not there yet, with the metadata of the source (spec P31).
    fn parents_of(
        &self,
        pivot: &LayerPath,
        lexical: &LayerPath,
        seen: &mut HashSet<LayerPath>,
        items: &mut Vec<Item>,
    ) -> anyhow::Result<()> {
        let mut relative = LayerPath::root();
        let count = lexical.components().count();
        for component in lexical.components().take(count.saturating_sub(1)) {
            relative = relative.join(component);
            if seen.insert(relative.clone()) {
                let real = tree::resolve(self.source, &pivot.append(&relative))?;
                let entry = real.entry.ok_or_else(|| not_found(&real.path))?;
                items.push(Item {
                    relative: Relative::Path(relative.clone()),
                    entry: Arc::new(entry),
                    digest: None,
                    link: None,
                });
            }
        }
        Ok(())
    }

    /// Gives `take` what matches `pattern` below the directory `real`, in the order of a walk. `lexical` is how that
    /// directory is called for the user. Directories above the last component are real ones: links are not followed.
    fn expand(
        &self,
        real: &LayerPath,
        lexical: &LayerPath,
        pattern: &[Vec<u8>],
        double_star: bool,
        take: &mut dyn FnMut(LayerPath, LayerPath),
    ) -> anyhow::Result<()> {
        let Some((first, rest)) = pattern.split_first() else {
            take(real.clone(), lexical.clone());
            return Ok(());
        };
        let any_depth = double_star && first == b"**";
        if any_depth && rest.is_empty() {
            for entry in self.source.read_dir(real)? {
                let name = lexical.join(entry.path.name());
                take(entry.path, name);
            }
            return Ok(());
        }
        if any_depth {
            self.expand(real, lexical, rest, double_star, take)?;
        } else if !glob::is_pattern(first) {
            let path = real.join(first);
            if let Some(entry) = self.source.lookup(&path)?
                && (rest.is_empty() || entry.is_dir())
            {
                self.expand(&path, &lexical.join(first), rest, double_star, take)?;
            }
            return Ok(());
        }
        for entry in self.source.read_dir(real)? {
            if !entry.is_dir() && (any_depth || !rest.is_empty()) {
                continue;
            }
            let name = entry.path.name().to_vec();
            if any_depth {
                self.expand(&entry.path, &lexical.join(&name), pattern, double_star, take)?;
            } else if glob::matches(first, &name)? {
                self.expand(&entry.path, &lexical.join(&name), rest, double_star, take)?;
            }
        }
        Ok(())
    }

    /// Adds all that lies below the directory `real` and is not excluded. `relative` is the directory at the
    /// destination. Not recursive: the depth of a tree is its maker's choice.
    fn collect(&self, real: &LayerPath, relative: &LayerPath, items: &mut Vec<Item>) -> anyhow::Result<()> {
        let below = |path: &LayerPath| path.strip_prefix(real).map(|path| relative.append(&path));
        let enter = |path: &LayerPath| match (self.excludes, below(path)) {
            (Some(by), Some(path)) => !by.excludes(path.as_bytes()) || by.may_include_below(path.as_bytes()),
            _ => true,
        };
        let start = common_end(real, relative);
        self.source.prefetch(real, &enter)?;
        let mut open = vec![Level {
            entries: self.source.list(real)?.into_iter(),
            held: None,
        }];
        while let Some(level) = open.last_mut() {
            let Some(Listed { entry, known }) = level.entries.next() else {
                // A directory that is excluded exists to hold what is included again, or not at all.
                if level.held.is_some_and(|index| index + 1 == items.len()) {
                    items.pop();
                }
                open.pop();
                continue;
            };
            let excludes = |by: &Matcher| below(&entry.path).is_some_and(|path| by.excludes(path.as_bytes()));
            let excluded = self.excludes.is_some_and(excludes);
            let directory = entry.is_dir();
            if excluded && !(directory && enter(&entry.path)) {
                continue;
            }
            let entries = if directory {
                self.source.list(&entry.path)?
            } else {
                Vec::new()
            };
            let held = excluded.then_some(items.len());
            let relative = match start {
                Some(start) => Relative::From(start),
                None => Relative::Path(below(&entry.path).unwrap_or_default()),
            };
            items.push(Item {
                relative,
                entry,
                digest: known.map(|known| known.digest),
                link: known.and_then(|known| known.link),
            });
            if directory {
                open.push(Level {
                    entries: entries.into_iter(),
                    held,
                });
            }
        }
        Ok(())
    }
}

/// Where in the path of a file below `real` its path begins that starts with `relative`, which is where `real` goes.
fn common_end(real: &LayerPath, relative: &LayerPath) -> Option<u32> {
    let length = real.as_bytes().len();
    let start = if relative.is_root() {
        length + usize::from(!real.is_root())
    } else {
        let above = real.as_bytes().strip_suffix(relative.as_bytes())?;
        (above.is_empty() || above.ends_with(b"/")).then_some(above.len())?
    };
    u32::try_from(start).ok()
}

/// A directory on the way down.
struct Level {
    entries: std::vec::IntoIter<Listed>,
    /// Its index among the items if it is excluded.
    held: Option<usize>,
}

fn not_found(path: &LayerPath) -> anyhow::Error {
    anyhow::anyhow!("{:?}: not found", path.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_ends() {
        for (real, relative, start) in [
            ("", "", Some(0)),
            ("a/b", "", Some(4)),
            ("a/b", "b", Some(2)),
            ("a/b", "a/b", Some(0)),
            ("a/xb", "b", None),
            ("a/b", "c", None),
            ("", "c", None),
        ] {
            let path = |text: &str| LayerPath::clean(text.as_bytes());
            assert_eq!(
                common_end(&path(real), &path(relative)),
                start,
                "{real} {relative}"
            );
        }
    }
}
