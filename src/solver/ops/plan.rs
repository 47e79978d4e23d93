//! The entries of a layer to be, before any byte of a file is read.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Entry, Kind, Layer, LayerPath, Reuse, Timestamp, Wanted};
use rbuild_cache::{ContentDigest, Key, StoreError};

use super::stream::{self, Files, SourceFile};
use super::{EntrySink, SourceNumber, Sources};

/// The entries of a layer in path order, and where the bytes of its files come from.
#[derive(Debug)]
pub struct LayerPlan<'a> {
    facts: Key,
    entries: Vec<Planned<'a>>,
    /// Uncompressed archives, in files without a name.
    archives: Vec<File>,
}

/// An entry to be written.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub path: LayerPath,
    /// What it is, except for the path: the entry of the source itself, if nothing else changes.
    pub like: Arc<Entry>,
    pub data: Data<'a>,
    /// It is made by this layer and by nobody else: its time is that of the build.
    pub created: bool,
    /// Nothing of the base can be seen below it.
    pub fresh: bool,
    /// Equal for all names of one file.
    pub link: Option<(usize, u64)>,
}

/// Where the bytes of an entry come from.
#[derive(Debug, Clone)]
pub(super) enum Data<'a> {
    None,
    /// A file of a source tree, which must still have this content.
    Source {
        source: SourceNumber,
        path: &'a LayerPath,
        digest: &'a ContentDigest,
    },
    Inline(&'a str),
    /// A member of an archive.
    Archive {
        number: usize,
        offset: u64,
    },
}

impl<'a> Planned<'a> {
    /// As `entry` says.
    pub fn new(entry: Entry, data: Data<'a>) -> Self {
        Self {
            path: entry.path.clone(),
            like: Arc::new(entry),
            data,
            created: false,
            fresh: true,
            link: None,
        }
    }

    /// The entry.
    pub fn entry(&self) -> Cow<'_, Entry> {
        if self.like.path == self.path {
            return Cow::Borrowed(&self.like);
        }
        Cow::Owned(Entry {
            path: self.path.clone(),
            ..(*self.like).clone()
        })
    }
}

impl<'a> LayerPlan<'a> {
    pub(super) fn new(facts: Key, mut entries: Vec<Planned<'a>>, archives: Vec<File>) -> Self {
        // Each path is there once. A stable sort would need memory.
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut plan = Self {
            facts,
            entries,
            archives,
        };
        plan.link();
        plan
    }

    /// All that the plan took from its base: where the destination leads, what exists there and who owns it, the ids
    /// that names stand for. Bases that agree in it give the same layer for the same selection.
    pub fn facts_key(&self) -> Key {
        self.facts
    }

    /// Whether the layer has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Streams the entries into `out`. What the layer itself makes gets the time `now`. Files that `reuse` has are read
    /// there ([`LayerPlan::reuse`]). Fails when a file of `sources` no longer has the content that its selection was
    /// keyed with.
    pub fn write(
        &self,
        sources: Sources<'_>,
        reuse: Option<&Reuse>,
        out: &mut dyn EntrySink,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let files = self
            .files()
            .enumerate()
            .map(|(number, (file, source, path))| SourceFile {
                tree: sources.get(source),
                path,
                size: file.size,
                reused: reuse.and_then(|reuse| Some((reuse, reuse.place(number)?))),
            });
        if self.files().next().is_none() {
            return self.write_all(&mut Files::none(), reuse, out, now);
        }
        stream::read_ahead(files, |ahead| self.write_all(ahead, reuse, out, now))
    }

    /// What an earlier layer has of the files of this one.
    pub fn reuse(&self, layer: &Layer) -> Result<Option<Reuse>, StoreError> {
        if self.files().next().is_none() {
            return Ok(None);
        }
        layer.reuse(self.files().map(|(file, ..)| file))
    }

    /// The files that have bytes in a source, and which.
    fn files(&self) -> impl Iterator<Item = (Wanted<'_>, SourceNumber, &LayerPath)> {
        self.entries.iter().filter_map(|planned| {
            let Data::Source { source, path, digest } = planned.data else {
                return None;
            };
            let Kind::File { size: size @ 1.. } = planned.like.kind else {
                return None;
            };
            let wanted = Wanted {
                path: &planned.path,
                size,
                digest,
            };
            Some((wanted, source, path))
        })
    }

    fn write_all(
        &self,
        ahead: &mut Files,
        reuse: Option<&Reuse>,
        out: &mut dyn EntrySink,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let mut number = 0;
        for planned in &self.entries {
            let mut entry = planned.entry();
            if planned.created {
                entry.to_mut().mtime = now;
            }
            let entry = &*entry;
            let Kind::File { size } = entry.kind else {
                out.append(entry, None)?;
                continue;
            };
            match &planned.data {
                Data::None => bail!("{} has no content", entry.path),
                Data::Source { path, digest, .. } => {
                    let mut reused = None;
                    let written = if size == 0 {
                        out.append(entry, Some(&mut io::empty()))
                    } else {
                        reused = reuse.filter(|reuse| reuse.place(number).is_some());
                        number += 1;
                        out.append(entry, Some(&mut ahead.next_file()))
                    };
                    let written = written.with_context(|| format!("copying {path}"))?;
                    if written != Some(**digest) {
                        if let Some(tar) = reused {
                            tar.spoil();
                        }
                        bail!("{path} changed while it was being copied");
                    }
                }
                Data::Inline(text) => {
                    out.append(entry, Some(&mut text.as_bytes()))?;
                }
                Data::Archive { number, offset } => {
                    let mut member = Member {
                        file: &self.archives[*number],
                        offset: *offset,
                        left: size,
                    };
                    out.append(entry, Some(&mut member))?;
                }
            }
        }
        Ok(())
    }

    /// Of the names of one file the first has the data, the others lead to it (spec 5.3).
    fn link(&mut self) {
        let mut firsts: HashMap<(usize, u64), LayerPath> = HashMap::new();
        for planned in &mut self.entries {
            let Some(link) = planned.link else { continue };
            if let Some(target) = firsts.get(&link) {
                Arc::make_mut(&mut planned.like).kind = Kind::Hardlink {
                    target: target.clone(),
                };
                planned.data = Data::None;
            } else {
                firsts.insert(link, planned.path.clone());
            }
        }
    }
}

/// The data of a member of an uncompressed archive.
struct Member<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Member<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut out[..most], self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
