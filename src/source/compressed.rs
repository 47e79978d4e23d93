//! Archives as users hand them over: plain or compressed by gzip, bzip2, xz or zstd, told apart by their first bytes.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::rc::Rc;

use rbuild_cache::layer::{Growth, explained};

/// Memory for the window of xz and zstd; xz -9 needs 64 MiB, zstd --long 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 256 << 10;

/// What `reader` gives, decompressed. Fails when it becomes larger than `growth` allows.
pub fn decompressed<'a>(mut reader: impl Read + 'a, growth: Growth) -> io::Result<Box<dyn Read + 'a>> {
    // A pipe may give its first bytes one by one.
    let mut start = Vec::with_capacity(6);
    reader.by_ref().take(6).read_to_end(&mut start)?;
    let plain = Cursor::new(start.clone()).chain(reader);
    let taken = Rc::new(Cell::new(0));
    let counted = BufReader::with_capacity(
        BUFFER,
        Counted {
            reader: plain,
            taken: taken.clone(),
        },
    );
    let decoder: Box<dyn Read + 'a> = match start.as_slice() {
        [0x1f, 0x8b, 8, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(counted)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let limit = (1 << (MAX_WINDOW_LOG - 10)) + (16 << 10);
            Box::new(lzma_rust2::XzReader::new_mem_limit(counted, true, limit))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => return Ok(Box::new(counted)),
    };
    Ok(Box::new(Bounded {
        reader: decoder,
        given: 0,
        taken,
        growth,
    }))
}

/// Counts what is read.
struct Counted<R> {
    reader: R,
    taken: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.taken.set(self.taken.get() + length as u64);
        Ok(length)
    }
}

/// Stops an archive that blows up.
struct Bounded<R> {
    reader: R,
    given: u64,
    taken: Rc<Cell<u64>>,
    growth: Growth,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer).map_err(explained)?;
        self.given += length as u64;
        self.growth.check_archive(self.given, self.taken.get())?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(bytes, Growth::default())?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"hello").unwrap();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(b"hello").unwrap();
        for bytes in [
            gzip.finish().unwrap(),
            bzip2.finish().unwrap(),
            zstd::encode_all(&b"hello"[..], 1).unwrap(),
            b"hello".to_vec(),
        ] {
            assert_eq!(read(&bytes).unwrap(), b"hello");
        }
        assert_eq!(read(b"").unwrap(), b"");
        assert!(read(&[0x1f, 0x8b, 8, 0, 0, 0]).is_err());
    }
}
