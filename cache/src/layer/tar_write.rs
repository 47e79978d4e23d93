//! The tar of a layer as a pure function of its entries (design D3): the same entries give the
//! same bytes on every host, at any time, from any of the forms of the layer.
//!
//! ustar headers with numeric owners and nothing else that the writer could choose; a PAX header
//! goes before a member only for what ustar has no room for, its records sorted by key.

use std::io::{self, Read, Write};

use super::entry::{Entry, Kind, Timestamp};
use super::tar_header::{BLOCK, flag};
use super::tar_member::{OPAQUE_MARKER, WHITEOUT_PREFIX};
use crate::digest::ContentDigest;

/// What goes to the sink at once.
const BUFFER: usize = 256 << 10;
/// Size of the first buffer.
const SMALL_BUFFER: usize = 8 << 10;
/// Largest number in an 8-byte field of octal digits.
const MAX_OCTAL_7: u64 = 0o777_7777;
/// Largest number in a 12-byte field of octal digits.
const MAX_OCTAL_11: u64 = 0o777_7777_7777;

/// Writes entries, in the order in which they come; sorting them is the caller's part.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    /// Grows up to [`BUFFER`]: most layers of a RUN are far smaller, and fresh pages cost more than what is written to them.
    buffer: Vec<u8>,
    filled: usize,
    position: u64,
}

/// What became of the bytes of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where they begin in the archive.
    pub data_offset: u64,
    /// blake3 of them.
    pub digest: ContentDigest,
}

impl<W: Write> TarWriter<W> {
    /// A writer into `out`, which gets few large pieces.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            filled: 0,
            position: 0,
        }
    }

    /// Writes one entry. `data` gives the bytes of a regular file, exactly as many as `entry` says. The root has
    /// no member.
    pub fn append(&mut self, entry: &Entry, data: Option<&mut dyn Read>) -> io::Result<Option<Written>> {
        if entry.path.is_root() {
            return Ok(None);
        }
        self.begin(entry)?;
        let Kind::File { size } = entry.kind else {
            return Ok(None);
        };
        let data_offset = self.position;
        let mut hasher = blake3::Hasher::new();
        self.data(entry, size, data, |bytes| {
            hasher.update(bytes);
        })?;
        Ok(Some(Written {
            data_offset,
            digest: ContentDigest(*hasher.finalize().as_bytes()),
        }))
    }

    /// Writes a regular file of `size` bytes of which nobody asks for the digest.
    pub fn append_unhashed(&mut self, entry: &Entry, size: u64, data: &mut dyn Read) -> io::Result<()> {
        self.begin(entry)?;
        self.data(entry, size, Some(data), |_| {})
    }

    /// What comes before the bytes of an entry.
    fn begin(&mut self, entry: &Entry) -> io::Result<()> {
        let link: &[u8] = match &entry.kind {
            Kind::Symlink { target } => target,
            Kind::Hardlink { target } => target.as_bytes(),
            _ => b"-",
        };
        if entry.path.as_bytes().contains(&0) || link.contains(&0) || link.is_empty() {
            return Err(refused(entry, "its name or link target holds a NUL or nothing"));
        }
        if entry
            .path
            .components()
            .any(|name| name.starts_with(WHITEOUT_PREFIX))
        {
            return Err(refused(
                entry,
                "names beginning with .wh. mean deletions in a layer, so no layer can hold it",
            ));
        }
        if matches!(entry.kind, Kind::CharDevice { major: 0, minor: 0 }) {
            return Err(refused(
                entry,
                "a character device 0:0 means a deletion in a layer, so no layer can hold it",
            ));
        }
        self.headers(entry)?;
        match entry.kind {
            Kind::Directory { opaque: true } => {
                self.headers(&marker(entry, OPAQUE_MARKER, Kind::File { size: 0 }))
            }
            _ => Ok(()),
        }
    }

    /// Ends the archive; gives the sink and the length of all.
    pub fn finish(mut self) -> io::Result<(W, u64)> {
        self.put(&[0; 2 * BLOCK])?;
        self.write_out()?;
        self.out.flush()?;
        Ok((self.out, self.position))
    }

    fn headers(&mut self, entry: &Entry) -> io::Result<()> {
        let header = MemberHeader::of(entry)?;
        if !header.pax.is_empty() {
            let records = header.pax_bytes();
            let mut block = header_block(b"PaxHeaders.0", flag::PAX);
            octal(&mut block[124..136], records.len() as u64);
            finish_header(&mut block);
            self.put(&block)?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.put(&header.block)
    }

    /// The bytes of a file; `see` sees them pass.
    fn data(
        &mut self,
        entry: &Entry,
        size: u64,
        data: Option<&mut dyn Read>,
        mut see: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut remaining = size;
        let mut source = data;
        while remaining > 0 {
            if self.filled == BUFFER {
                self.write_out()?;
            }
            let space = self.room_for(usize::try_from(remaining).unwrap_or(BUFFER));
            let target = &mut self.buffer[self.filled..self.filled + space];
            let length = match source.as_mut().map_or(Ok(0), |source| source.read(target)) {
                Ok(length) => length.min(space),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if length == 0 {
                return Err(changed(entry, "shorter"));
            }
            see(&target[..length]);
            self.filled += length;
            self.position += length as u64;
            remaining -= length as u64;
        }
        // Reading to the end tells a file that grew, and lets a verifying reader verify.
        if let Some(source) = source
            && read_one(source)?
        {
            return Err(changed(entry, "longer"));
        }
        self.pad(size)
    }

    fn pad(&mut self, length: u64) -> io::Result<()> {
        let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
        if over == 0 {
            Ok(())
        } else {
            self.put(&[0; BLOCK][over..])
        }
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.filled == BUFFER {
                self.write_out()?;
            }
            let length = self.room_for(bytes.len());
            self.buffer[self.filled..self.filled + length].copy_from_slice(&bytes[..length]);
            self.filled += length;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// How many of `wanted` bytes fit behind those that are there.
    fn room_for(&mut self, wanted: usize) -> usize {
        let end = self.filled.saturating_add(wanted).min(BUFFER);
        if end > self.buffer.len() {
            let doubled = (2 * self.buffer.len()).clamp(SMALL_BUFFER, BUFFER);
            self.buffer.resize(end.max(doubled), 0);
        }
        end - self.filled
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer[..self.filled])?;
        self.filled = 0;
        Ok(())
    }
}

/// The ustar header of a member and the PAX records that it needs before it.
struct MemberHeader {
    block: [u8; BLOCK],
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl MemberHeader {
    fn of(entry: &Entry) -> io::Result<Self> {
        let (typeflag, size) = match &entry.kind {
            Kind::Whiteout => {
                let name = [WHITEOUT_PREFIX, entry.path.name()].concat();
                let parent = Entry {
                    path: entry.path.parent().unwrap_or_default(),
                    ..entry.clone()
                };
                return Self::of(&marker(&parent, &name, Kind::File { size: 0 }));
            }
            Kind::File { size } => (flag::FILE, *size),
            Kind::Hardlink { .. } => (flag::HARDLINK, 0),
            Kind::Symlink { .. } => (flag::SYMLINK, 0),
            Kind::CharDevice { .. } => (flag::CHAR, 0),
            Kind::BlockDevice { .. } => (flag::BLOCK, 0),
            Kind::Directory { .. } => (flag::DIRECTORY, 0),
            Kind::Fifo => (flag::FIFO, 0),
        };
        let mut name = entry.path.as_bytes().to_vec();
        if entry.is_dir() {
            name.push(b'/');
        }
        let mut header = Self {
            block: header_block(b"", typeflag),
            pax: Vec::new(),
        };
        header.set_name(&name);
        match &entry.kind {
            Kind::Symlink { target } => header.set_link(target),
            Kind::Hardlink { target } => header.set_link(target.as_bytes()),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                if u64::from(*major.max(minor)) > MAX_OCTAL_7 {
                    return Err(refused(entry, "its device number is too large"));
                }
                octal(&mut header.block[329..337], u64::from(*major));
                octal(&mut header.block[337..345], u64::from(*minor));
            }
            _ => {}
        }
        octal(&mut header.block[100..108], u64::from(entry.mode & 0o7777));
        header.set_number(108..116, "uid", u64::from(entry.uid), MAX_OCTAL_7);
        header.set_number(116..124, "gid", u64::from(entry.gid), MAX_OCTAL_7);
        header.set_number(124..136, "size", size, MAX_OCTAL_11);
        header.set_mtime(entry.mtime);
        // The attributes of a hard link are those of the file it names.
        if !matches!(entry.kind, Kind::Hardlink { .. }) {
            for (key, value) in &entry.xattrs {
                if key.is_empty() || key.contains(&b'=') || key.contains(&0) {
                    return Err(refused(
                        entry,
                        "the name of an extended attribute cannot be written",
                    ));
                }
                header
                    .pax
                    .push(([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone()));
            }
        }
        header.pax.sort();
        finish_header(&mut header.block);
        Ok(header)
    }

    fn set_name(&mut self, name: &[u8]) {
        if name.is_ascii() && name.len() <= 100 {
            self.block[..name.len()].copy_from_slice(name);
        } else if let Some((prefix, rest)) = split_name(name) {
            self.block[345..345 + prefix.len()].copy_from_slice(prefix);
            self.block[..rest.len()].copy_from_slice(rest);
        } else {
            put_ascii(&mut self.block[..100], name);
            self.pax.push((b"path".to_vec(), name.to_vec()));
        }
    }

    fn set_link(&mut self, target: &[u8]) {
        put_ascii(&mut self.block[157..257], target);
        if !target.is_ascii() || target.len() > 100 {
            self.pax.push((b"linkpath".to_vec(), target.to_vec()));
        }
    }

    fn set_number(&mut self, field: std::ops::Range<usize>, key: &str, value: u64, max: u64) {
        if value <= max {
            octal(&mut self.block[field], value);
        } else {
            octal(&mut self.block[field], 0);
            self.pax
                .push((key.as_bytes().to_vec(), value.to_string().into_bytes()));
        }
    }

    fn set_mtime(&mut self, mtime: Timestamp) {
        let plain = u64::try_from(mtime.seconds)
            .ok()
            .filter(|seconds| *seconds <= MAX_OCTAL_11);
        octal(&mut self.block[136..148], plain.unwrap_or(0));
        if plain.is_none() || mtime.nanoseconds != 0 {
            self.pax.push((b"mtime".to_vec(), pax_time(mtime).into_bytes()));
        }
    }

    fn pax_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in &self.pax {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            bytes.extend_from_slice(length.to_string().as_bytes());
            bytes.push(b' ');
            bytes.extend_from_slice(key);
            bytes.push(b'=');
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        bytes
    }
}

/// An entry called `name` in the directory `parent`, with nothing but a name.
fn marker(parent: &Entry, name: &[u8], kind: Kind) -> Entry {
    Entry {
        path: parent.path.join(name),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    }
}

fn header_block(name: &[u8], typeflag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    for field in [
        100..108,
        108..116,
        116..124,
        124..136,
        136..148,
        329..337,
        337..345,
    ] {
        octal(&mut block[field], 0);
    }
    block[156] = typeflag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block
}

fn finish_header(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    // Six digits, NUL, space: the form that every program writes.
    octal(&mut block[148..155], sum);
}

/// `value` as octal digits that fill `field`, ended by a NUL.
fn octal(field: &mut [u8], mut value: u64) {
    let Some((end, digits)) = field.split_last_mut() else {
        return;
    };
    *end = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// `name` cut at a slash so that both parts have room in a ustar header.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() || name.len() > 256 {
        return None;
    }
    // The last slash that leaves a non-empty rest and a prefix of at most 155 bytes.
    let last = name.len().checked_sub(1)?.min(156);
    let slash = name[..last]
        .iter()
        .rposition(|b| *b == b'/')
        .filter(|slash| *slash > 0)?;
    let rest = &name[slash + 1..];
    (rest.len() <= 100).then_some((&name[..slash], rest))
}

/// What a program that knows no PAX shows.
fn put_ascii(field: &mut [u8], text: &[u8]) {
    for (byte, from) in field.iter_mut().zip(text) {
        *byte = if from.is_ascii() { *from } else { b'_' };
    }
}

fn pax_time(time: Timestamp) -> String {
    let Timestamp { seconds, nanoseconds } = time;
    let (sign, whole, fraction) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

fn read_one(source: &mut dyn Read) -> io::Result<bool> {
    loop {
        match source.read(&mut [0]) {
            Ok(length) => return Ok(length > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn changed(entry: &Entry, how: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!(
            "{} is {how} than it was: it changed while it was read",
            entry.path
        ),
    )
}

fn refused(entry: &Entry, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", entry.path))
}
