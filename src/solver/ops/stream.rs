//! Reading the files of a copy ahead of the one that writes the layer, in bounded memory.
//!
//! One thread opens and reads the files in order and fills blocks; many small files share one. The
//! consumer sees each file as a reader of its own.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};

use rbuild_cache::layer::{LayerPath, Reuse};
use rbuild_cache::tree::Tree;

/// Bytes of a block.
const BLOCK: usize = 1 << 20;
/// Files of a block: of very small ones the list of what is in it would be larger than what is in it.
const PARTS: usize = 8 << 10;
/// Blocks that wait to be consumed.
const WAITING: usize = 4;

/// Bytes of consecutive files.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

/// What a block has of one file.
struct Part {
    /// Where it ends in the block; it begins where the one before ends.
    end: usize,
    /// Whether the file ends here.
    last: bool,
    failure: Option<io::Error>,
}

/// The files in their order.
pub(super) struct Files {
    blocks: Option<Receiver<Block>>,
    used: Option<Sender<Block>>,
    block: Block,
    part: usize,
    position: usize,
}

/// One file.
pub(super) struct NextFile<'a> {
    files: &'a mut Files,
    done: bool,
}

/// A file to read; none is empty.
pub(super) struct SourceFile<'a> {
    pub tree: anyhow::Result<&'a dyn Tree>,
    pub path: &'a LayerPath,
    pub size: u64,
    /// An earlier layer that has the same bytes, and where.
    pub reused: Option<(&'a Reuse, u64)>,
}

/// The bytes of an earlier layer from some place on.
struct FromTar<'a> {
    tar: &'a Reuse,
    offset: u64,
}

impl Read for FromTar<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.tar.read_at(out, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Gives `consume` the contents of `files`, each to be read to its end. A file that has
/// become shorter is an error; what was appended to one is not read.
pub(super) fn read_ahead<'a, T>(
    files: impl Iterator<Item = SourceFile<'a>> + Send,
    consume: impl FnOnce(&mut Files) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let (send, blocks) = mpsc::sync_channel(WAITING);
        let (used, free) = mpsc::channel();
        scope.spawn(move || {
            Producer {
                send,
                free,
                block: Block::default(),
                filled: 0,
            }
            .run(files)
        });
        let mut files = Files {
            blocks: Some(blocks),
            used: Some(used),
            ..Files::none()
        };
        // When it fails, the channel closes and the producer stops.
        consume(&mut files)
    })
}

struct Producer {
    send: SyncSender<Block>,
    free: Receiver<Block>,
    block: Block,
    filled: usize,
}

/// The consumer has gone.
struct Gone;

impl Producer {
    fn run<'a>(mut self, files: impl Iterator<Item = SourceFile<'a>>) {
        for file in files {
            let reused = file.reused;
            match self.file(file) {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    if let Some((tar, _)) = reused {
                        tar.spoil();
                    }
                    self.end_part(true, Some(failure));
                    break;
                }
                Err(Gone) => return,
            }
        }
        // Nobody misses the last block if the consumer has gone.
        let _ = self.flush();
    }

    fn file(&mut self, file: SourceFile<'_>) -> Result<io::Result<()>, Gone> {
        let SourceFile { tree, path, size, .. } = file;
        let (mut of_tar, mut of_tree);
        let reader: &mut dyn Read = if let Some((tar, offset)) = file.reused {
            of_tar = FromTar { tar, offset };
            &mut of_tar
        } else {
            match tree.and_then(|tree| Ok(tree.open(path)?)) {
                Ok(reader) => of_tree = reader,
                Err(error) => return Ok(Err(io::Error::other(error))),
            }
            &mut of_tree
        };
        if self.block.parts.len() >= PARTS {
            self.flush()?;
        }
        let mut left = size;
        while left > 0 {
            if self.filled == BLOCK {
                self.end_part(false, None);
                self.flush()?;
            }
            self.block.bytes.resize(BLOCK, 0);
            let most = (BLOCK - self.filled).min(usize::try_from(left).unwrap_or(usize::MAX));
            match reader.read(&mut self.block.bytes[self.filled..self.filled + most]) {
                Ok(0) => {
                    let what = format!("{path} changed while it was being copied: it is shorter now");
                    return Ok(Err(io::Error::new(io::ErrorKind::UnexpectedEof, what)));
                }
                Ok(count) => {
                    self.filled += count;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
        self.end_part(true, None);
        Ok(Ok(()))
    }

    fn end_part(&mut self, last: bool, failure: Option<io::Error>) {
        self.block.parts.push(Part {
            end: self.filled,
            last,
            failure,
        });
    }

    fn flush(&mut self) -> Result<(), Gone> {
        let mut next = self.free.try_recv().unwrap_or_default();
        next.parts.clear();
        self.filled = 0;
        self.send
            .send(std::mem::replace(&mut self.block, next))
            .map_err(|_| Gone)
    }
}

impl Files {
    /// No files.
    pub fn none() -> Self {
        Self {
            blocks: None,
            used: None,
            block: Block::default(),
            part: 0,
            position: 0,
        }
    }

    /// The next file. It must be read until it gives nothing more.
    pub fn next_file(&mut self) -> NextFile<'_> {
        NextFile {
            files: self,
            done: false,
        }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let next = self.blocks.as_ref().and_then(|blocks| blocks.recv().ok());
        let next = next.ok_or_else(|| io::Error::other("there are no more files"))?;
        let used = std::mem::replace(&mut self.block, next);
        if let Some(channel) = &self.used {
            // The producer may have finished.
            let _ = channel.send(used);
        }
        (self.part, self.position) = (0, 0);
        Ok(())
    }
}

impl Read for NextFile<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let files = &mut *self.files;
        while !self.done && !out.is_empty() {
            let Some(part) = files.block.parts.get_mut(files.part) else {
                files.next_block()?;
                continue;
            };
            let count = (part.end - files.position).min(out.len());
            if count > 0 {
                let bytes = &files.block.bytes[files.position..files.position + count];
                out[..count].copy_from_slice(bytes);
                files.position += count;
            }
            if files.position == part.end {
                if let Some(failure) = part.failure.take() {
                    return Err(failure);
                }
                self.done = part.last;
                files.part += 1;
            }
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }
}
