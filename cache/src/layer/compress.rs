//! Compression of layer tars. The bytes that come out depend on the bytes that go in and on the
//! setting, on nothing else: not on how the input was cut into writes, not on the number of threads.
//!
//! So gzip goes by blocks of a fixed size, each compressed in one call on a fresh compressor and a gzip member of its own. A
//! gzip file may have many members (RFC 1952), and layers of many members are what eStargz has made of images for years.
//! Members share no window, which costs less than half a percent; libdeflate, which compresses whole buffers only, gives
//! back more than that, in a third of zlib's time. The workers of libzstd cut by size as well.

mod gzip;

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::pace::{self, Pace};
use gzip::GzipBlocks;

/// Media type of an uncompressed layer.
pub const MEDIA_TYPE_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a gzip layer.
pub const MEDIA_TYPE_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Media type of a zstd layer.
pub const MEDIA_TYPE_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Input of one worker of zstd at a time. Part of the format: another size gives other bytes.
const ZSTD_JOB: u32 = 4 << 20;
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
            Self::Gzip(level) => format!("gzip/{level}/2"),
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
pub struct Compressor<W: Write> {
    encoder: Encoder<W>,
    pace: Option<Arc<Pace>>,
}

enum Encoder<W: Write> {
    Plain(W),
    Gzip(GzipBlocks<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> std::fmt::Debug for Compressor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor")
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Compressor<W> {
    /// Compresses into `out` with as many threads as make sense here.
    pub fn new(out: W, compression: Compression) -> io::Result<Self> {
        Self::with_threads(out, compression, default_threads())
    }

    /// As [`Compressor::new`] with a given number of threads, which changes no byte.
    pub fn with_threads(out: W, compression: Compression, threads: usize) -> io::Result<Self> {
        Self::with_pace(out, compression, threads, None)
    }

    /// Compresses beside other work, the same bytes. gzip goes on at full speed when that work ends; zstd, whose
    /// threads are its own, is given up then.
    pub(super) fn beside(out: W, compression: Compression, pace: &Arc<Pace>) -> io::Result<Self> {
        Self::with_pace(out, compression, default_threads(), Some(Arc::clone(pace)))
    }

    fn with_pace(
        out: W,
        compression: Compression,
        threads: usize,
        pace: Option<Arc<Pace>>,
    ) -> io::Result<Self> {
        let threads = threads.max(1);
        let encoder = match compression {
            Compression::Uncompressed => Encoder::Plain(out),
            Compression::Gzip(level) => {
                let pace = pace.clone();
                Encoder::Gzip(GzipBlocks::new(out, level.min(9), threads, pace)?)
            }
            Compression::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                // One worker is not the same as none: without workers the bytes are others.
                encoder.multithread(u32::try_from(threads).unwrap_or(1))?;
                encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB))?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(Box::new(encoder))
            }
        };
        Ok(Self { encoder, pace })
    }

    /// Writes what is left and the trailer.
    pub fn finish(self) -> io::Result<W> {
        match self.encoder {
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
        match &mut self.encoder {
            Encoder::Plain(out) => out.write(bytes),
            Encoder::Gzip(blocks) => blocks.write(bytes),
            Encoder::Zstd(_) if self.pace.as_ref().is_some_and(|pace| !pace.is_beside()) => {
                Err(pace::given_up())
            }
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Nothing: a flush would leave a mark in the output.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
    use super::gzip::GZIP_BLOCK;
    use super::*;
    use crate::digest::Digest;
    use crate::layer::pipe::HashWriter;

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

    /// The highest levels of zstd take seconds each: all of them with RBUILD_ALL_LEVELS=1.
    #[test]
    fn levels_are_the_same_for_any_threads() {
        let input = sample(ZSTD_JOB as usize + 77);
        let all = std::env::var_os("RBUILD_ALL_LEVELS").is_some();
        let zstd = (1..=22).filter(|level| all || [1, 5, 9].contains(level));
        for compression in (0..=9).map(Compression::Gzip).chain(zstd.map(Compression::Zstd)) {
            let [one, two, many] =
                [1, 2, 16].map(|threads| Digest::of(&compressed(&input, compression, threads, 70_001)));
            assert!(one == two && two == many, "{compression:?}");
        }
    }

    /// 16 GB for the figures with RBUILD_STREAM_MB=16000.
    #[test]
    fn a_long_stream_is_the_same_for_any_threads() {
        const PIECE: usize = 1_000_000;
        let pieces = std::env::var("RBUILD_STREAM_MB").map_or(24, |text| text.parse().unwrap());
        for compression in [Compression::GZIP, Compression::ZSTD] {
            let [one, two, many] = [1, 2, 16].map(|threads| {
                let out = HashWriter::new(std::io::sink());
                let mut compressor = Compressor::with_threads(out, compression, threads).unwrap();
                let mut piece = sample(PIECE);
                for number in 0..pieces {
                    piece.rotate_left(1 + number % 97);
                    compressor.write_all(&piece).unwrap();
                }
                let (_, digest, size) = compressor.finish().unwrap().finish();
                (digest, size)
            });
            println!("{compression:?}: {pieces} MB, {} bytes, {}", one.1, one.0);
            assert!(one == two && two == many, "{compression:?}");
        }
    }

    #[test]
    fn others_read_gzip() {
        for (length, members) in [(0, 1), (77, 1), (GZIP_BLOCK, 1), (3 * GZIP_BLOCK + 77, 4)] {
            let input = sample(length);
            let bytes = compressed(&input, Compression::GZIP, 2, 9999);
            let mut rest = bytes.as_slice();
            let mut output = Vec::new();
            for _ in 0..members {
                // No name, no time.
                assert_eq!(rest[..9], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0]);
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                decoder.read_to_end(&mut output).unwrap();
                rest = decoder.into_inner();
            }
            assert!(output == input && rest.is_empty(), "{length}");
        }
    }

    #[test]
    fn other_versions_of_an_encoder_are_not_taken_for_this_one() {
        for compression in [Compression::Gzip(4), Compression::Zstd(19)] {
            let encoder = compression.encoder();
            assert_eq!(Compression::of_encoder(&encoder), Some(compression));
            let (setting, version) = encoder.rsplit_once('/').unwrap();
            let version: u32 = version.parse().unwrap();
            for other in [version - 1, version + 1] {
                assert_eq!(Compression::of_encoder(&format!("{setting}/{other}")), None);
            }
        }
        assert_eq!(Compression::of_encoder("gzip/4"), None);
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
