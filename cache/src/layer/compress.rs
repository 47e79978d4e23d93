//! Compression of layer tars. The bytes that come out depend on the bytes that go in and on the
//! setting, on nothing else: not on how the input was cut into writes, not on the number of threads.
//!
//! zlib-rs gives other bytes for other sizes of writes, and a compressor that was reset gives other
//! bytes than a fresh one. So gzip goes by blocks of a fixed size: each has a fresh compressor, is
//! given to it in one call, and begins with the 32 KiB before it as its dictionary. The blocks are
//! one deflate stream in one gzip member. The workers of libzstd cut by size as well.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, Crc, FlushCompress, Status};

/// Media type of an uncompressed layer.
pub const MEDIA_TYPE_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a gzip layer.
pub const MEDIA_TYPE_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a zstd layer.
pub const MEDIA_TYPE_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

const GZIP_BLOCK: usize = 1 << 20;
const DICTIONARY: usize = 32 << 10;
/// Input of one worker of zstd at a time. Part of the format: another size gives other bytes.
const ZSTD_JOB: u32 = 4 << 20;
/// A fixed gzip header: deflate, no flags, no time, no level, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// Largest zstd window that is accepted, 128 MiB: as much memory as a stream can ask for.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a layer is to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// gzip, level 0 to 9; docker's default is 6.
    Gzip(u32),
    /// zstd, level 1 to 22; its default is 3.
    Zstd(i32),
}

impl Compression {
    /// gzip at its usual level.
    pub const GZIP: Self = Self::Gzip(6);
    /// zstd at its usual level.
    pub const ZSTD: Self = Self::Zstd(3);

    /// Media type of what comes out.
    pub fn media_type(&self) -> &'static str {
        match self {
            Self::Uncompressed => MEDIA_TYPE_TAR,
            Self::Gzip(_) => MEDIA_TYPE_GZIP,
            Self::Zstd(_) => MEDIA_TYPE_ZSTD,
        }
    }

    /// Everything that the bytes depend on beside the input. The last number is counted up when a new version of a
    /// compressor gives other bytes.
    pub fn encoder(&self) -> String {
        match self {
            Self::Uncompressed => "none".to_owned(),
            Self::Gzip(level) => format!("gzip/{level}/1"),
            Self::Zstd(level) => format!("zstd/{level}/1"),
        }
    }
}

impl Compression {
    /// The setting that [`Compression::encoder`] names, unless that was another version's.
    pub(super) fn of_encoder(encoder: &str) -> Option<Self> {
        let mut parts = encoder.split('/');
        let compression = match (parts.next()?, parts.next()?) {
            ("gzip", level) => Self::Gzip(level.parse().ok()?),
            ("zstd", level) => Self::Zstd(level.parse().ok()?),
            _ => return None,
        };
        (compression.encoder() == encoder).then_some(compression)
    }
}

/// As many threads as the process may use, within reason.
pub(super) fn default_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(32)
}

/// A writer that compresses into another one. It must be finished: what was only dropped is cut off.
pub struct Compressor<W: Write>(Encoder<W>);

enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzipBlocks<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl<W: Write> Compressor<W> {
    /// Compresses into `out` with as many threads as make sense here.
    pub fn new(out: W, compression: Compression) -> io::Result<Self> {
        Self::with_threads(out, compression, default_threads())
    }

    /// As [`Compressor::new`] with a given number of threads, which changes no byte.
    pub fn with_threads(out: W, compression: Compression, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        Ok(Self(match compression {
            Compression::Uncompressed => Encoder::Plain(out),
            Compression::Gzip(level) => Encoder::Gzip(GzipBlocks::new(out, level.min(9), threads)?),
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                // One worker is not the same as none: without workers the bytes are others.
                encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
                encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        }))
    }

    /// Writes what is left and the trailer.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Encoder::Plain(mut out) => {
                out.flush()?;
                Ok(out)
            }
            Encoder::Gzip(blocks) => blocks.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Encoder::Plain(out) => out.write(bytes),
            Encoder::Gzip(blocks) => blocks.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a flush would leave a mark in the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One block on its way: input with the dictionary before it, then output.
struct Job {
    /// Dictionary, then the block.
    input: Vec<u8>,
    dictionary: usize,
    last: bool,
    output: Vec<u8>,
    crc: Crc,
    result: SyncSender<io::Result<Job>>,
}

struct GzipBlocks<W> {
    out: W,
    /// Dictionary, then what was written since the last full block.
    input: Vec<u8>,
    dictionary: usize,
    crc: Crc,
    workers: Workers,
    /// Results in the order of the blocks.
    pending: VecDeque<Receiver<io::Result<Job>>>,
    /// Jobs that may be on their way at once: what bounds the memory.
    depth: usize,
    spare: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The compressing threads, which end with their owner: the process may be about to enter a namespace.
struct Workers {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Its results were collected or are not wanted any more.
            let _ = thread.join();
        }
    }
}

impl<W: Write> GzipBlocks<W> {
    fn new(mut out: W, level: u32, threads: usize) -> io::Result<Self> {
        out.write_all(&GZIP_HEADER)?;
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads)
            .map(|_| {
                let queue = queue.clone();
                std::thread::Builder::new()
                    .name("gzip".to_owned())
                    .spawn(move || {
                        loop {
                            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                            let Ok(job) = job else { return };
                            let result = job.result.clone();
                            // Nobody waits for it any more when the writer was dropped.
                            let _ = result.send(job.run(level));
                        }
                    })
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            out,
            input: Vec::new(),
            dictionary: 0,
            crc: Crc::new(),
            depth: threads.len() + 2,
            workers: Workers {
                jobs: Some(jobs),
                threads,
            },
            pending: VecDeque::new(),
            spare: Vec::new(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full block waits for the next byte: only then it is certain not to be the last.
        if self.input.len() == self.dictionary + GZIP_BLOCK {
            self.submit(false)?;
        }
        let length = bytes.len().min(self.dictionary + GZIP_BLOCK - self.input.len());
        self.input.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        if self.pending.len() == self.depth {
            self.collect()?;
        }
        let (mut next, output) = self.spare.pop().unwrap_or_default();
        next.clear();
        next.extend_from_slice(&self.input[self.input.len().saturating_sub(DICTIONARY)..]);
        let dictionary = next.len();
        let input = std::mem::replace(&mut self.input, next);
        let (result, receiver) = sync_channel(1);
        let job = Job {
            input,
            dictionary: self.dictionary,
            last,
            output,
            crc: Crc::new(),
            result,
        };
        self.dictionary = dictionary;
        self.pending.push_back(receiver);
        self.workers
            .jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .ok_or_else(gone)
    }

    /// Writes the oldest block.
    fn collect(&mut self) -> io::Result<()> {
        if let Some(receiver) = self.pending.pop_front() {
            let job = receiver.recv().map_err(|_| gone())??;
            self.out.write_all(&job.output)?;
            self.crc.combine(&job.crc);
            self.spare.push((job.input, job.output));
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<W> {
        self.submit(true)?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        // The length modulo 2^32, as gzip defines it; `amount` counts so.
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl Job {
    fn run(mut self, level: u32) -> io::Result<Self> {
        let (dictionary, block) = self.input.split_at(self.dictionary);
        self.crc.update(block);
        let mut compress = Compress::new(flate2::Compression::new(level), false);
        if !dictionary.is_empty() {
            compress.set_dictionary(dictionary).map_err(io::Error::other)?;
        }
        let flush = if self.last {
            FlushCompress::Finish
        } else {
            FlushCompress::Sync
        };
        self.output.clear();
        // More room than any block can need, so that one call does it all.
        self.output.reserve(block.len() + block.len() / 8 + (64 << 10));
        let status = compress
            .compress_vec(block, &mut self.output, flush)
            .map_err(io::Error::other)?;
        let done = if self.last {
            status == Status::StreamEnd
        } else {
            status == Status::Ok
        };
        if !done || compress.total_in() != block.len() as u64 || self.output.len() == self.output.capacity() {
            return Err(io::Error::other("a block was not compressed in one call"));
        }
        Ok(self)
    }
}

fn gone() -> io::Error {
    io::Error::other("a compressing thread is gone")
}

/// Reads a layer blob uncompressed, whichever of gzip, zstd or nothing it is compressed by: its first bytes say it.
/// Several gzip members or zstd frames are one stream.
pub struct Decompressor<R: Read>(Decoder<R>);

type Peeked<R> = io::BufReader<io::Chain<io::Cursor<Vec<u8>>, R>>;

enum Decoder<R: Read> {
    Plain(Peeked<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Peeked<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Peeked<R>>>),
}

impl<R: Read> std::fmt::Debug for Decompressor<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

impl<R: Read> Decompressor<R> {
    /// Looks at the first bytes of `source`.
    pub fn new(mut source: R) -> io::Result<Self> {
        let mut magic = Vec::new();
        source.by_ref().take(4).read_to_end(&mut magic)?;
        let zstd = matches!(
            magic[..],
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18]
        );
        let gzip = magic.starts_with(&[0x1f, 0x8b]);
        let source = io::BufReader::with_capacity(super::pipe::PIECE, io::Cursor::new(magic).chain(source));
        Ok(Self(if gzip {
            Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
        } else if zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Decoder::Zstd(Box::new(decoder))
        } else {
            Decoder::Plain(source)
        }))
    }
}

/// A failure to decompress, in words that say what to do about it where the library's do not.
pub fn explained(error: io::Error) -> io::Error {
    let text = error.to_string();
    let wants_memory =
        text.contains("too much memory") || text.contains("emory limit") || text.contains("emory usage");
    if !wants_memory {
        return error;
    }
    let message = "it needs more than 128 MiB of memory to be decompressed: compress it with zstd --long=27 or xz -9 at most";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Decoder::Plain(source) => source.read(out),
            Decoder::Gzip(decoder) => decoder.read(out),
            Decoder::Zstd(decoder) => decoder.read(out).map_err(explained),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that compress, but not to nothing.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        (0..length)
            .map(|position| {
                state = state
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                if position % 7 < 4 {
                    b"abcdefgh"[(state >> 60) as usize & 7]
                } else {
                    (position / 1000) as u8
                }
            })
            .collect()
    }

    fn compressed(input: &[u8], compression: Compression, threads: usize, step: usize) -> Vec<u8> {
        let mut compressor = Compressor::with_threads(Vec::new(), compression, threads).unwrap();
        for piece in input.chunks(step) {
            compressor.write_all(piece).unwrap();
        }
        compressor.finish().unwrap()
    }

    #[test]
    fn same_bytes_for_any_threads_and_writes() {
        for length in [0, 1, GZIP_BLOCK, GZIP_BLOCK + 1, 5 * GZIP_BLOCK + 12345, 10 << 20] {
            let input = sample(length);
            for compression in [
                Compression::Gzip(6),
                Compression::Gzip(1),
                Compression::Gzip(0),
                Compression::Zstd(3),
            ] {
                let expected = compressed(&input, compression, 1, usize::MAX);
                for (threads, step) in [(2, 4096), (64, 1_000_003), (3, 512)] {
                    assert!(
                        compressed(&input, compression, threads, step) == expected,
                        "{compression:?} {length} {threads}"
                    );
                }
                let mut output = Vec::new();
                Decompressor::new(expected.as_slice())
                    .unwrap()
                    .read_to_end(&mut output)
                    .unwrap();
                assert!(output == input, "{compression:?} {length}");
            }
        }
    }

    #[test]
    fn gzip_is_one_member_that_others_read() {
        let input = sample(3 * GZIP_BLOCK + 77);
        let bytes = compressed(&input, Compression::GZIP, 2, 9999);
        assert_eq!(bytes[..10], GZIP_HEADER);
        let mut output = Vec::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut output)
            .unwrap();
        assert!(output == input);
    }

    #[test]
    fn members_and_frames_are_one_stream_and_damage_shows() {
        for compression in [Compression::GZIP, Compression::ZSTD] {
            let both = [
                compressed(b"one ", compression, 1, 99),
                compressed(b"two", compression, 1, 99),
            ]
            .concat();
            let mut output = Vec::new();
            Decompressor::new(both.as_slice())
                .unwrap()
                .read_to_end(&mut output)
                .unwrap();
            assert_eq!(output, b"one two");
            let cut = &both[..both.len() - 3];
            assert!(
                Decompressor::new(cut)
                    .unwrap()
                    .read_to_end(&mut Vec::new())
                    .is_err()
            );
        }
    }

    #[test]
    fn a_huge_window_is_refused() {
        // A frame header that asks for a window of 2 GiB.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0];
        assert!(
            Decompressor::new(frame.as_slice())
                .unwrap()
                .read_to_end(&mut Vec::new())
                .is_err()
        );
    }
}
