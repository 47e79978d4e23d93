//! Archives that ADD extracts (spec D1 to D3).
//!
//! An archive is decompressed once, into a file without a name, while the members are planned; the
//! layer is then written in the order of paths, whatever the order of the archive was. All names
//! are confined to the destination, which is the root for links in the archive.

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context as _, bail};
use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Growth, Kind, LayerPath, TarReader};
use rbuild_cache::tree::{self, Tree};

use super::dest::{Below, Created, Destination};
use super::owner::Owner;
use super::plan::{Data, Planned};
use super::select::Item;
use crate::source::compressed::decompressed;

/// Bytes of names, link targets and attributes of all members.
const MAX_METADATA: u64 = 512 << 20;

/// Whether the content is a tar archive, perhaps compressed by gzip, bzip2, xz or zstd: whether its first block is a
/// tar header. What cannot be decompressed is no archive and is copied as it is.
pub(super) fn is_archive(reader: Box<dyn Read + Send>) -> io::Result<bool> {
    let Ok(mut reader) = decompressed(reader, Growth::default()) else {
        return Ok(false);
    };
    let mut block = Vec::with_capacity(512);
    match reader.by_ref().take(512).read_to_end(&mut block) {
        Ok(512) => Ok(is_tar_header(&block)),
        _ => Ok(false),
    }
}

/// The checksum of a header is the sum of its bytes with those of the checksum itself taken as blanks. Some programs
/// have summed signed bytes.
pub(super) fn is_tar_header(block: &[u8]) -> bool {
    if block.iter().all(|byte| *byte == 0) {
        return false;
    }
    let digits: Vec<u8> = block[148..156]
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(u8::is_ascii_digit)
        .collect();
    let Some(wanted) = std::str::from_utf8(&digits)
        .ok()
        .and_then(|text| i64::from_str_radix(text, 8).ok())
    else {
        return false;
    };
    let bytes = || {
        block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte })
    };
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte.cast_signed())).sum();
    wanted == unsigned || wanted == signed
}

/// An archive to extract.
pub(super) struct Archive<'a> {
    pub item: &'a Item,
    pub source: &'a dyn Tree,
    /// Tells its hard links from those of other operands.
    pub group: usize,
    /// Its index among the unpacked files.
    pub number: usize,
    /// Bytes that a context may become.
    pub limit: Option<u64>,
    /// How large it may become for what it is.
    pub growth: Growth,
}

impl Archive<'_> {
    /// Plans all members below `top`, which is planned; gives the file with the uncompressed archive.
    pub fn unpack(
        &self,
        to: &mut Destination<'_>,
        top: &LayerPath,
        chown: Option<Owner>,
    ) -> anyhow::Result<File> {
        let reader = self.source.open(&self.item.entry.path)?;
        let mut raw = Hashing {
            reader,
            hasher: blake3::Hasher::new(),
        };
        let file = tempfile::tempfile().context("creating a temporary file")?;
        {
            let reader = decompressed(&mut raw, self.growth)?;
            let spool = Spool {
                reader,
                file: &file,
                count: 0,
                limit: self.limit.unwrap_or(u64::MAX),
            };
            let mut members = Members {
                archive: self,
                top,
                chown,
                last_parent: None,
                links: 0,
            };
            members.plan(spool, to)?;
        }
        io::copy(&mut raw, &mut io::sink())?;
        if self.item.digest != Some(ContentDigest(*raw.hasher.finalize().as_bytes())) {
            bail!("it changed while it was being read");
        }
        Ok(file)
    }
}

struct Members<'a> {
    archive: &'a Archive<'a>,
    top: &'a LayerPath,
    chown: Option<Owner>,
    /// A directory as the archive names it and where it is: archives list the files of a directory together.
    last_parent: Option<(LayerPath, LayerPath)>,
    /// Groups of hard links so far.
    links: u64,
}

impl Members<'_> {
    fn plan(&mut self, archive: impl Read, to: &mut Destination<'_>) -> anyhow::Result<()> {
        let Archive { item, growth, .. } = self.archive;
        let size = match item.entry.kind {
            Kind::File { size } => size,
            _ => 0,
        };
        let mut tar = TarReader::archive(archive).with_most_members(growth.members(size));
        let mut metadata = 0;
        while let Some(member) = tar.next_entry()? {
            metadata += weight(&member.entry);
            if metadata > MAX_METADATA {
                bail!(
                    "names, links and attributes of the archive's members have more than {MAX_METADATA} bytes: \
                     divide the archive"
                );
            }
            // The destination keeps its own metadata.
            if !member.entry.path.is_root() {
                self.member(member.entry, member.data_offset, to)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, mut entry: Entry, offset: u64, to: &mut Destination<'_>) -> anyhow::Result<()> {
        let name = entry.path.name().to_vec();
        let parent = self.directory(&entry.path.parent().unwrap_or_default(), to)?;
        entry.path = parent.join(&name);
        if let Some(owner) = self.chown {
            (entry.uid, entry.gid) = (owner.uid, owner.gid);
        }
        if matches!(entry.kind, Kind::Symlink { .. }) {
            // No file system has another, whatever the archive says.
            entry.mode = 0o777;
        }
        let (mut data, mut link) = (Data::None, None);
        match &entry.kind {
            Kind::File { .. } => {
                data = Data::Archive {
                    number: self.archive.number,
                    offset,
                }
            }
            Kind::Hardlink { target } => {
                let target = target.clone();
                let directory = self.directory(&target.parent().unwrap_or_default(), to)?;
                let target = directory.join(target.name());
                if target == entry.path {
                    return Ok(());
                }
                let next = (self.archive.group, self.links);
                let first = to
                    .planned_mut(&target)
                    .filter(|first| !first.like.is_dir() && !first.created);
                let Some(first) = first else {
                    bail!(
                        "{} is a hard link to {target}, which the archive does not have before it",
                        entry.path
                    );
                };
                if matches!(first.like.kind, Kind::File { .. }) {
                    self.links += 1;
                    link = Some(*first.link.get_or_insert(next));
                }
                data = first.data.clone();
                entry = Entry {
                    path: entry.path,
                    ..(*first.like).clone()
                };
            }
            _ => {}
        }
        if !matches!(entry.kind, Kind::File { .. }) {
            // A link or a directory may change where names lead.
            self.last_parent = None;
        }
        to.replace(Planned {
            link,
            ..Planned::new(entry, data)
        })
    }

    /// Where a directory of the archive is; made if it is missing.
    fn directory(&mut self, named: &LayerPath, to: &mut Destination<'_>) -> anyhow::Result<LayerPath> {
        if let Some((last, real)) = &self.last_parent
            && last == named
        {
            return Ok(real.clone());
        }
        let resolved = tree::resolve(&Below { to, root: self.top }, named)?;
        let real = self.top.append(&resolved.path);
        to.make_directories(
            &real,
            Created {
                mode: 0o755,
                owner: self.chown.unwrap_or_default(),
            },
        )?;
        self.last_parent = Some((named.clone(), real.clone()));
        Ok(real)
    }
}

fn weight(entry: &Entry) -> u64 {
    let kind = match &entry.kind {
        Kind::Symlink { target } => target.len(),
        Kind::Hardlink { target } => target.as_bytes().len(),
        _ => 0,
    };
    let xattrs: usize = entry
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    (entry.path.as_bytes().len() + kind + xattrs) as u64
}

/// Hashes all that is read.
struct Hashing {
    reader: Box<dyn Read + Send>,
    hasher: blake3::Hasher,
}

impl Read for Hashing {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        self.hasher.update(&out[..count]);
        Ok(count)
    }
}

/// Keeps all that is read.
struct Spool<'a> {
    reader: Box<dyn Read + 'a>,
    file: &'a File,
    count: u64,
    /// How many bytes it may become.
    limit: u64,
}

impl Read for Spool<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(out)?;
        self.count += count as u64;
        if self.count > self.limit {
            let limit = self.limit;
            let message = format!("it becomes more than the {limit} bytes that --max-context-size allows");
            return Err(io::Error::other(message));
        }
        self.file.write_all(&out[..count])?;
        Ok(count)
    }
}
