//! The bytes of a layer on their way in: one pass from the registry (or the blob) to blob, index
//! and tree, each stage on a thread of its own, with bounded memory.
//!
//! ```text
//! fetch + sha256 of the blob -> decompress -+-> sha256 of the tar (diff id)
//!                                           +-> tar reader -> index, tree
//! ```
//! Nothing of it is kept unless both digests are right.

use std::io::{self, Read, Write};
use std::sync::mpsc::SyncSender;
use std::thread::ScopedJoinHandle;

use sha2::Digest as _;

use super::assemble::IndexAssembler;
use super::compress::Decompressor;
use super::growth::Growth;
use super::index::LayerIndex;
use super::pipe::{Piece, PieceReader, Pool, pieces};
use super::tar_read::TarReader;
use super::unpack::Unpacker;
use crate::blob::BlobWriter;
use crate::digest::{ContentDigest, DiffId, Digest};

/// What a pass is to do.
pub(super) struct Pass<'a> {
    /// Where the blob comes from.
    pub source: Box<dyn Read + Send>,
    /// Length of the blob.
    pub size: u64,
    /// How large that may become.
    pub growth: Growth,
    /// Keeps the blob; `None` when it is read from the store.
    pub blob: Option<BlobWriter>,
    /// Keeps the uncompressed tar.
    pub tar: Option<BlobWriter>,
    /// Unpacks it on the way.
    pub tree: Option<Unpacker>,
    /// What the uncompressed bytes must be; with `tar`, its commit sees to it.
    pub diff_id: Option<&'a DiffId>,
}

/// What came of it. The blobs are not committed yet.
pub(super) struct Passed {
    pub index: LayerIndex,
    pub blob: Option<BlobWriter>,
    pub tar: Option<BlobWriter>,
}

/// Why a stage ended early: by itself, or because the next one did.
enum Stop {
    Error(io::Error),
    Downstream,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Error(error)
    }
}

impl Pass<'_> {
    pub fn run(self) -> io::Result<Passed> {
        let Self {
            source,
            size,
            growth,
            blob,
            tar,
            tree,
            diff_id,
        } = self;
        // The digests of files serve whoever reads them out of the tar.
        let digests = tar.is_some();
        std::thread::scope(|scope| {
            let (fetched, fetched_reader) = pieces();
            let (unpacked, unpacked_reader) = pieces();
            let (hashed, hashed_reader) = pieces();
            let spawn = |name: &str| std::thread::Builder::new().name(name.to_owned());
            let fetch = spawn("fetch").spawn_scoped(scope, move || fetch(source, size, blob, &fetched))?;
            let inflate = spawn("decompress").spawn_scoped(scope, move || {
                let fits = |bytes| growth.check_layer(bytes, size);
                decompress(fetched_reader, fits, [&unpacked, &hashed])
            })?;
            let hash = spawn("hash").spawn_scoped(scope, move || hash(hashed_reader, tar))?;
            let tar = TarReader::layer(unpacked_reader).with_most_members(growth.members(size));
            let index = index_of(tar, tree, digests);
            let (fetch, inflate, hash) = (join(fetch), join(inflate), join(hash));
            // The first stage that failed by itself knows why the others did.
            let blob = settle(fetch)?;
            settle(inflate)?;
            let hashed = settle(hash)?;
            let index = index?;
            let (Some(blob), Some((actual, tar))) = (blob, hashed) else {
                return Err(io::Error::other("a stage of unpacking ended too early"));
            };
            if let (Some(expected), Some(actual)) = (diff_id, actual)
                && expected.0 != actual
            {
                let message = format!("its uncompressed bytes are {actual}, but its diff id is {expected}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            Ok(Passed { index, blob, tar })
        })
    }
}

/// The index of a tar, which is read to its end and unpacked by `unpacker` on the way.
pub(super) fn index_of(
    mut reader: TarReader<impl Read>,
    mut unpacker: Option<Unpacker>,
    digests: bool,
) -> io::Result<LayerIndex> {
    let mut assembler = IndexAssembler::new();
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    while let Some(member) = reader.next_entry()? {
        let entry = member.entry.clone();
        let marker = member.opaque_marker;
        let number = assembler.push(member).map_err(invalid)?;
        if marker {
            continue;
        }
        if let Some(unpacker) = &mut unpacker {
            unpacker.member(&entry, &mut reader)?;
        } else if digests && let (super::Kind::File { .. }, Some(number)) = (&entry.kind, number) {
            let mut hasher = blake3::Hasher::new();
            loop {
                let piece = reader.data()?;
                if piece.is_empty() {
                    break;
                }
                hasher.update(piece);
                let length = piece.len();
                reader.consume_data(length);
            }
            assembler.set_digest(number, ContentDigest(*hasher.finalize().as_bytes()));
        }
    }
    // What lies behind the end of the archive belongs to its digest.
    io::copy(&mut reader.into_inner(), &mut io::sink())?;
    let index = assembler.finish();
    if let Some(unpacker) = unpacker {
        unpacker.finish(&index)?;
    }
    Ok(index)
}

fn fetch(
    mut source: Box<dyn Read + Send>,
    size: u64,
    mut blob: Option<BlobWriter>,
    out: &SyncSender<Piece>,
) -> Result<Option<BlobWriter>, Stop> {
    let pool = Pool::default();
    let mut received = 0u64;
    loop {
        let mut buffer = pool.take();
        let length = fill(&mut source, &mut buffer)?;
        if length == 0 {
            break;
        }
        received += length as u64;
        if received > size {
            let message = format!("the blob is longer than the {size} bytes that were announced");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message).into());
        }
        if let Some(blob) = &mut blob {
            blob.write_all(&buffer[..length])?;
        }
        out.send(pool.share(buffer, length))
            .map_err(|_| Stop::Downstream)?;
    }
    if received < size {
        let message = format!("the blob ends after {received} of {size} bytes");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message).into());
    }
    Ok(blob)
}

/// `fits` says whether so many bytes may come out.
fn decompress(
    source: PieceReader,
    fits: impl Fn(u64) -> io::Result<()>,
    out: [&SyncSender<Piece>; 2],
) -> Result<(), Stop> {
    let mut total = 0u64;
    let pool = Pool::default();
    let mut decompressor = Decompressor::new(source)?;
    loop {
        let mut buffer = pool.take();
        let length = fill(&mut decompressor, &mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        total += length as u64;
        fits(total)?;
        let piece = pool.share(buffer, length);
        for out in out {
            out.send(piece.clone()).map_err(|_| Stop::Downstream)?;
        }
    }
}

/// sha256 of everything; with `tar`, that one computes it.
fn hash(
    mut source: PieceReader,
    tar: Option<BlobWriter>,
) -> Result<(Option<Digest>, Option<BlobWriter>), Stop> {
    if let Some(mut tar) = tar {
        while let Some(piece) = source.next_piece() {
            tar.write_all(&piece)?;
        }
        return Ok((None, Some(tar)));
    }
    let mut hasher = sha2::Sha256::new();
    while let Some(piece) = source.next_piece() {
        hasher.update(&*piece);
    }
    Ok((Some(Digest::from_bytes(hasher.finalize().into())), None))
}

/// Reads until `buffer` is full or the source ends.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, Stop>>) -> Result<T, Stop> {
    thread
        .join()
        .unwrap_or_else(|_| Err(Stop::Error(io::Error::other("a stage of unpacking is gone"))))
}

/// `None` for a stage that only ended because a later one failed.
fn settle<T>(result: Result<T, Stop>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Downstream) => Ok(None),
    }
}
