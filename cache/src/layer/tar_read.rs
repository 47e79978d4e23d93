//! The one reader of tar archives: layers, archives that ADD extracts, contexts.
//!
//! It reads ustar, PAX, GNU (long names, base-256 numbers), star and V7, and sees what Go's
//! archive/tar sees or refuses: what it does not understand is an error, never skipped, because two
//! programs that see different members in one archive are how files are smuggled (RUSTSEC-2025-0110).
//! Names lie below the root, memory is bounded, and no input makes it panic.

use std::io::{self, BufRead, Read};

use super::entry::Entry;
use super::tar_header::{BLOCK, Header, flag, pax_records};
use super::tar_member::{Extended, Facts, MAX_PATH, Mode, bad_name, changes_members, unsupported};

/// Longest PAX header.
const MAX_PAX: u64 = 1 << 20;
/// Most members of one archive.
const MAX_MEMBERS: u64 = 10_000_000;
const BUFFER: usize = 256 << 10;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The source failed.
    #[error("reading the archive: {0}")]
    Io(io::Error),
    /// It ends in the middle.
    #[error("the archive is truncated")]
    Truncated,
    /// This is no tar header.
    #[error("invalid tar header: wrong checksum")]
    Checksum,
    /// A number cannot be read or is out of range.
    #[error("invalid tar header: invalid {field}")]
    Number {
        /// Which one.
        field: &'static str,
    },
    /// A PAX header is malformed.
    #[error("invalid PAX header: {0}")]
    Pax(&'static str),
    /// Something that other programs may understand.
    #[error("unsupported tar member {name:?}: {what}")]
    Unsupported {
        /// Its name.
        name: String,
        /// What is not supported.
        what: String,
    },
    /// More members than memory should be given for.
    #[error(
        "the archive has more than {0} members, too many for its size: if that is meant, --max-unpacked-size=SIZE \
         allows as many as fit into SIZE"
    )]
    Members(u64),
    /// A name that leaves the root or cannot exist.
    #[error("invalid name {name:?} in the archive: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A member of the archive. Its data, if it has any, is read from the [`TarReader`] itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// What the header says. The root (`./`) appears as a directory with the empty path.
    pub entry: Entry,
    /// Where its data begins in the uncompressed archive.
    pub data_offset: u64,
    /// Layers only: this is an opaque marker, which hides what lower layers have in the directory
    /// `entry.path`; the rest of `entry` says nothing.
    pub opaque_marker: bool,
}

/// Reads the members of an archive one after another. Between two calls of
/// [`TarReader::next_entry`] it is a reader of the data of the last member, so far as it is wanted.
#[derive(Debug)]
pub struct TarReader<R> {
    source: R,
    mode: Mode,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes of the archive consumed from the buffer.
    position: u64,
    /// Data of the current member not consumed yet, and the padding behind it.
    remaining: u64,
    padding: u64,
    members: u64,
    most_members: u64,
    finished: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads the tar of a layer: `.wh.<name>` is a whiteout of `<name>`.
    pub fn layer(source: R) -> Self {
        Self::new(source, Mode::Layer)
    }

    /// Reads an archive that was not made to be a layer; names beginning with `.wh.` are refused,
    /// because in the layer that it ends up in they would delete files.
    pub fn archive(source: R) -> Self {
        Self::new(source, Mode::Archive)
    }

    fn new(source: R, mode: Mode) -> Self {
        Self {
            source,
            mode,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            position: 0,
            remaining: 0,
            padding: 0,
            members: 0,
            most_members: MAX_MEMBERS,
            finished: false,
        }
    }

    /// Refuses an archive that has more than `most` members.
    #[must_use]
    pub fn with_most_members(self, most: u64) -> Self {
        Self {
            most_members: most.min(MAX_MEMBERS),
            ..self
        }
    }

    /// The next member; `None` at the end of the archive. Data of the last member that was not read is
    /// skipped. After an error the reader must not be used again.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        if self.finished {
            return Ok(None);
        }
        self.skip(self.remaining)?;
        self.remaining = 0;
        self.skip(self.padding)?;
        self.padding = 0;
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.header_block()? else {
                self.finished = true;
                if extended.is_empty() {
                    return Ok(None);
                }
                return Err(TarError::Truncated);
            };
            self.members += 1;
            if self.members > self.most_members {
                return Err(TarError::Members(self.most_members));
            }
            let header = Header::parse(&block)?;
            match header.typeflag() {
                flag::PAX => {
                    if extended.pax.is_some() {
                        return Err(TarError::Pax("two PAX headers for one member"));
                    }
                    extended.pax = Some(pax_records(&self.small_data(&header, MAX_PAX)?)?);
                }
                flag::PAX_GLOBAL => {
                    if !extended.is_empty() {
                        return Err(TarError::Pax(
                            "a global header between a member and its PAX header",
                        ));
                    }
                    let records = pax_records(&self.small_data(&header, MAX_PAX)?)?;
                    // git writes a comment this way. Go ignores global records, other programs apply them.
                    if records
                        .iter()
                        .any(|(key, value)| changes_members(key) && !value.is_empty())
                    {
                        return Err(TarError::Pax(
                            "a global header changes names, sizes, owners or times",
                        ));
                    }
                }
                flag::GNU_LONG_NAME => {
                    let name = self.long_text(&header)?;
                    if extended.long_name.replace(name).is_some() {
                        return Err(unsupported(&header.name(), "two long names for one member"));
                    }
                }
                flag::GNU_LONG_LINK => {
                    let name = self.long_text(&header)?;
                    if extended.long_link.replace(name).is_some() {
                        return Err(unsupported(
                            &header.name(),
                            "two long link targets for one member",
                        ));
                    }
                }
                _ => return self.member(&header, &extended).map(Some),
            }
        }
    }

    /// A piece of the data of the current member that was not consumed yet; empty at its end.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(TarError::Truncated);
        }
        let available = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(self.end - self.start);
        Ok(&self.buffer[self.start..self.start + available])
    }

    /// Marks `length` bytes of what [`TarReader::data`] gave as consumed.
    pub fn consume_data(&mut self, length: usize) {
        let length = length
            .min(self.end - self.start)
            .min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.start += length;
        self.position += length as u64;
        self.remaining -= length as u64;
    }

    /// The source, from which some bytes behind the end of the archive may have been read.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The next block that is not the end of the archive: two blocks of zeros, or the end of the source.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        if !self.block(&mut block)? {
            return Ok(None);
        }
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        if self.block(&mut block)? && block.iter().any(|b| *b != 0) {
            return Err(TarError::Checksum);
        }
        Ok(None)
    }

    fn member(&mut self, header: &Header<'_>, extended: &Extended) -> Result<TarEntry, TarError> {
        let facts = Facts::of(header, extended)?;
        let data_offset = self.position;
        let (entry, opaque_marker) = facts.entry(header, self.mode)?;
        if facts.has_data(header.typeflag()) {
            // What follows is counted by the size that won, PAX over ustar, for file and reader alike.
            self.remaining = facts.size;
            self.padding = padding(facts.size);
        }
        Ok(TarEntry {
            entry,
            data_offset,
            opaque_marker,
        })
    }

    fn long_text(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let mut text = self.small_data(header, MAX_PATH as u64 + 1)?;
        let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
        if text[end..].iter().any(|b| *b != 0) {
            return Err(bad_name(&text, "it holds a NUL"));
        }
        text.truncate(end);
        Ok(text)
    }

    /// All data of a header that extends another one.
    fn small_data(&mut self, header: &Header<'_>, limit: u64) -> Result<Vec<u8>, TarError> {
        let size = u64::try_from(header.size()?).map_err(|_| TarError::Number { field: "size" })?;
        if size > limit {
            return Err(TarError::Pax("it is too long"));
        }
        self.remaining = size;
        let mut data = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        loop {
            let piece = self.data()?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(piece);
            let length = piece.len();
            self.consume_data(length);
        }
        self.skip(padding(size))?;
        Ok(data)
    }

    /// Reads a block; false when the source ends before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            if self.start == self.end && !self.fill()? {
                return if filled == 0 {
                    Ok(false)
                } else {
                    Err(TarError::Truncated)
                };
            }
            let length = (BLOCK - filled).min(self.end - self.start);
            block[filled..filled + length].copy_from_slice(&self.buffer[self.start..self.start + length]);
            self.start += length;
            filled += length;
        }
        self.position += BLOCK as u64;
        Ok(true)
    }

    fn skip(&mut self, mut length: u64) -> Result<(), TarError> {
        while length > 0 {
            if self.start == self.end && !self.fill()? {
                return Err(TarError::Truncated);
            }
            let step = (self.end - self.start).min(usize::try_from(length).unwrap_or(usize::MAX));
            self.start += step;
            self.position += step as u64;
            length -= step as u64;
        }
        Ok(())
    }

    /// Fills the empty buffer; false at the end of the source.
    fn fill(&mut self) -> Result<bool, TarError> {
        self.start = 0;
        self.end = 0;
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => {
                    self.end = length.min(self.buffer.len());
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = self.data()?;
        let length = piece.len().min(out.len());
        out[..length].copy_from_slice(&piece[..length]);
        self.consume_data(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.data()?)
    }

    fn consume(&mut self, amount: usize) {
        self.consume_data(amount);
    }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}
