//! COPY and ADD of files that are there (spec 3.8, rules P1 to P32 and D1 to D3): where each
//! selected file goes, and with which metadata.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};
use rbuild_cache::tree::{self, Tree};

use super::add;
use super::chmod::Chmod;
use super::dest::{Created, Destination};
use super::owner::Owner;
use super::plan::{Data, LayerPlan, Planned};
use super::select::{Found, Item, Match};
pub use super::select::{Selection, selection};
use super::{SourceNumber, Sources};
use crate::graph::{CopyOp, InlineFile};

/// What copying `selection` does to `base`. With `--link` the base is not looked at. `sources` are the trees that were
/// selected from: archives of ADD are read here.
pub fn plan<'a>(
    op: &CopyOp,
    selection: &'a Selection,
    sources: Sources<'_>,
    base: &'a dyn Tree,
) -> anyhow::Result<LayerPlan<'a>> {
    let base = (!op.link).then_some(base);
    let chmod = op.chmod.as_deref().map(Chmod::parse).transpose()?;
    let chown = op
        .chown
        .as_deref()
        .map(|text| Owner::parse(text, base))
        .transpose()?;
    let to = Destination::new(base);
    if let Some(owner) = chown {
        to.fact(
            "owner",
            &[owner.uid.to_le_bytes(), owner.gid.to_le_bytes()].concat(),
        );
    }
    let created = Created {
        mode: if let Some(Chmod::Octal(mode)) = chmod {
            mode
        } else {
            0o755
        },
        owner: chown.unwrap_or_default(),
    };
    let (path, directory) = destination(op);
    let mut copier = Copier {
        op,
        sources,
        chmod,
        chown,
        created,
        path,
        directory,
        to,
        archives: Vec::new(),
        limit: selection.limit,
    };
    for (number, matched) in selection.matches.iter().enumerate() {
        copier.place(number, matched)?;
    }
    Ok(copier.to.finish(copier.archives))
}

/// Where the destination of `op` is, before links are followed, and whether it was written as a directory (spec P3).
fn destination(op: &CopyOp) -> (LayerPath, bool) {
    let dest = op.dest.as_str();
    let directory = matches!(dest, "" | ".") || dest.ends_with('/') || dest.ends_with("/.");
    let path = if dest.starts_with('/') {
        dest.to_owned()
    } else {
        format!("{}/{dest}", op.cwd)
    };
    (LayerPath::clean(path.as_bytes()), directory)
}

struct Copier<'a, 'p> {
    op: &'a CopyOp,
    sources: Sources<'a>,
    chmod: Option<Chmod>,
    chown: Option<Owner>,
    created: Created,
    path: LayerPath,
    directory: bool,
    to: Destination<'p>,
    archives: Vec<File>,
    limit: Option<u64>,
}

impl<'p> Copier<'_, 'p> {
    fn place(&mut self, number: usize, matched: &'p Match) -> anyhow::Result<()> {
        match &matched.found {
            Found::File(item) => {
                let path = self.file_path(&matched.name)?;
                let planned = self.planned(number, matched.source, item, path);
                self.to.put_file(planned)
            }
            Found::Inline(file) => {
                let path = self.file_path(&matched.name)?;
                let planned = self.inline(file, path);
                self.to.put_file(planned)
            }
            Found::Contents(items) => {
                let top = self.directory_path(items.is_empty(), self.created)?;
                self.contents(number, matched.source, &top, items)
            }
            Found::Parents(items) => {
                let top = self.directory_path(items.is_empty(), self.created)?;
                self.contents(number, matched.source, &top, items)
            }
            Found::Archive(item) => {
                // `--chmod` says nothing about archives, and nothing about where they go (spec D2).
                let created = Created {
                    mode: 0o755,
                    ..self.created
                };
                let top = self.directory_path(false, created)?;
                let source = self.sources.get(matched.source)?;
                let file = add::Archive {
                    item,
                    source,
                    group: number,
                    number: self.archives.len(),
                    limit: self.limit,
                    growth: self.sources.growth,
                }
                .unpack(&mut self.to, &top, self.chown)
                .with_context(|| format!("extracting {}", item.entry.path))?;
                self.archives.push(file);
                Ok(())
            }
        }
    }

    /// Where a file called `name` goes (spec P4); the directory above it is planned.
    fn file_path(&mut self, name: &[u8]) -> anyhow::Result<LayerPath> {
        let resolved = tree::resolve(&self.to, &self.path)?;
        if self.directory || resolved.entry.is_some_and(|entry| entry.is_dir()) {
            self.to.make_directories(&resolved.path, self.created)?;
            return Ok(resolved.path.join(name));
        }
        // Files of this copy would overwrite each other without a word (spec B2).
        if self.to.planned(&resolved.path).is_some() {
            bail!(
                "when using {} with more than one source file, the destination must be a directory and end with a /",
                if self.op.unpack == crate::graph::Unpack::Archives {
                    "ADD"
                } else {
                    "COPY"
                }
            );
        }
        self.to
            .make_directories(&resolved.path.parent().unwrap_or_default(), self.created)?;
        Ok(resolved.path)
    }

    /// The destination as a directory, which is planned unless it is there and nothing comes into it.
    fn directory_path(&mut self, empty: bool, created: Created) -> anyhow::Result<LayerPath> {
        let resolved = tree::resolve(&self.to, &self.path)?;
        match resolved.entry {
            Some(entry) if !entry.is_dir() => bail!("cannot copy to non-directory: {}", resolved.path),
            Some(_) if empty => {}
            _ => self.to.make_directories(&resolved.path, created)?,
        }
        Ok(resolved.path)
    }

    fn contents(
        &mut self,
        number: usize,
        source: SourceNumber,
        top: &LayerPath,
        items: &'p [Item],
    ) -> anyhow::Result<()> {
        for item in items {
            let planned = self.planned(number, source, item, item.path_in(top));
            if planned.like.is_dir() {
                self.to.put_directory(planned.entry().into_owned())?;
            } else {
                self.to.put_file(planned)?;
            }
        }
        Ok(())
    }

    /// The item at `path` with the owner and mode that it gets there (spec P12 to P15).
    fn planned(&self, number: usize, source: SourceNumber, item: &'p Item, path: LayerPath) -> Planned<'p> {
        let (mut uid, mut gid) = (item.entry.uid, item.entry.gid);
        if self.op.reset_owner || source > 0 {
            (uid, gid) = (0, 0);
        }
        let (uid, gid, mode) = self.changed(uid, gid, &item.entry);
        let mut like = Arc::clone(&item.entry);
        if (uid, gid, mode) != (like.uid, like.gid, like.mode) {
            like = Arc::new(Entry {
                path: path.clone(),
                uid,
                gid,
                mode,
                ..(*like).clone()
            });
        }
        let data = match &item.digest {
            Some(digest) => Data::Source {
                source,
                path: &item.entry.path,
                digest,
            },
            None => Data::None,
        };
        Planned {
            path,
            like,
            data,
            created: false,
            fresh: true,
            link: item.link.map(|group| (number, group)),
        }
    }

    fn inline(&self, file: &'p InlineFile, path: LayerPath) -> Planned<'p> {
        let mut entry = Entry {
            path,
            kind: Kind::File {
                size: file.data.len() as u64,
            },
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        (entry.uid, entry.gid, entry.mode) = self.changed(0, 0, &entry);
        Planned {
            created: true,
            ..Planned::new(entry, Data::Inline(&file.data))
        }
    }

    /// User, group and mode of what is like `entry`, and belongs to `uid` and `gid` unless the instruction says otherwise.
    fn changed(&self, uid: u32, gid: u32, entry: &Entry) -> (u32, u32, u32) {
        let (uid, gid) = self.chown.map_or((uid, gid), |owner| (owner.uid, owner.gid));
        let mode = match &self.chmod {
            Some(chmod) if !matches!(entry.kind, Kind::Symlink { .. }) => {
                chmod.apply(entry.mode, entry.is_dir())
            }
            _ => entry.mode,
        };
        (uid, gid, mode)
    }
}
