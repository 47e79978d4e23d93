//! Writing tar: ustar headers, PAX records where ustar has no room. A function of the entries alone: no
//! clock, no host names.

use std::io::{self, Read, Write};

use rbuild_cache::layer::{Entry, Kind, LayerPath, Timestamp};

const BLOCK: u64 = 512;
/// Largest number of eleven octal digits.
const OCTAL_11: u64 = 0o77_777_777_777;
/// Largest number of seven octal digits.
const OCTAL_7: u64 = 0o7_777_777;

/// Writes a tar. Without [`TarWriter::finish`] the archive has no end.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    /// A writer of one archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds a member. `data` gives the bytes of a regular file, exactly as many as the entry says.
    pub fn append(&mut self, entry: &Entry, data: Option<&mut dyn Read>) -> io::Result<()> {
        let mut name = entry.path.as_bytes().to_vec();
        let (kind, size, link, device) = match &entry.kind {
            Kind::Directory { .. } => {
                name.push(b'/');
                (b'5', 0, Vec::new(), (0, 0))
            }
            Kind::File { size } => (b'0', *size, Vec::new(), (0, 0)),
            Kind::Symlink { target } => (b'2', 0, target.clone(), (0, 0)),
            Kind::Hardlink { target } => (b'1', 0, target.as_bytes().to_vec(), (0, 0)),
            Kind::Fifo => (b'6', 0, Vec::new(), (0, 0)),
            Kind::CharDevice { major, minor } => (b'3', 0, Vec::new(), (*major, *minor)),
            Kind::BlockDevice { major, minor } => (b'4', 0, Vec::new(), (*major, *minor)),
            Kind::Whiteout => return Err(io::Error::other(format!("{}: a whiteout is no file", entry.path))),
        };
        let seconds = u64::try_from(entry.mtime.seconds).ok().filter(|s| *s <= OCTAL_11);
        let mut records = Vec::new();
        if name.len() > 100 || !name.is_ascii() {
            record(&mut records, b"path", &name);
        }
        if link.len() > 100 || !link.is_ascii() {
            record(&mut records, b"linkpath", &link);
        }
        for (key, value, limit) in [
            (&b"size"[..], size, OCTAL_11),
            (b"uid", u64::from(entry.uid), OCTAL_7),
            (b"gid", u64::from(entry.gid), OCTAL_7),
        ] {
            if value > limit {
                record(&mut records, key, value.to_string().as_bytes());
            }
        }
        if entry.mtime.nanoseconds != 0 || seconds.is_none() {
            record(&mut records, b"mtime", pax_time(entry.mtime).as_bytes());
        }
        for (key, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", key.as_slice()].concat(), value);
        }
        if !records.is_empty() {
            let header = Header {
                name: b"PaxHeaders/0",
                link: b"",
                size: records.len() as u64,
                ..Header::plain(b'x')
            };
            header.write(&mut self.out)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let header = Header {
            name: &name,
            link: &link,
            mode: entry.mode,
            uid: u64::from(entry.uid),
            gid: u64::from(entry.gid),
            size,
            mtime: seconds.unwrap_or(0),
            device,
            kind,
        };
        header.write(&mut self.out)?;
        if size > 0 {
            let mut data =
                data.ok_or_else(|| io::Error::other(format!("{}: its bytes are missing", entry.path)))?;
            let copied = io::copy(&mut (&mut data).take(size), &mut self.out)?;
            if copied != size || data.read(&mut [0])? != 0 {
                return Err(io::Error::other(format!(
                    "{}: it does not have {size} bytes",
                    entry.path
                )));
            }
            self.pad(size)?;
        }
        Ok(())
    }

    /// Adds a plain file with a name that fits every tar.
    pub fn append_file(&mut self, name: &str, time: i64, size: u64, data: &mut dyn Read) -> io::Result<()> {
        self.append(&member(name, Kind::File { size }, 0o644, time), Some(data))
    }

    /// Adds a directory.
    pub fn append_dir(&mut self, name: &str, time: i64) -> io::Result<()> {
        self.append(
            &member(name, Kind::Directory { opaque: false }, 0o755, time),
            None,
        )
    }

    /// Ends the archive and gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let missing = usize::try_from((BLOCK - written % BLOCK) % BLOCK).unwrap_or(0);
        self.out.write_all(&[0; BLOCK as usize][..missing])
    }
}

fn member(name: &str, kind: Kind, mode: u32, time: i64) -> Entry {
    Entry {
        path: LayerPath::clean(name.as_bytes()),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            seconds: time,
            nanoseconds: 0,
        },
        xattrs: Vec::new(),
    }
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    // One digit more can make one digit more.
    length = rest + length.to_string().len();
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with as many decimals as are needed; before 1970 the fraction counts away from zero.
fn pax_time(time: Timestamp) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let (whole, fraction) = (
        nanoseconds.unsigned_abs() / 1_000_000_000,
        nanoseconds.unsigned_abs() % 1_000_000_000,
    );
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

struct Header<'a> {
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
    kind: u8,
}

impl Header<'_> {
    fn plain(kind: u8) -> Self {
        Self {
            name: b"",
            link: b"",
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            kind,
        }
    }

    /// Numbers without room are written as zero: a PAX record before the header has them.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut block = [0u8; BLOCK as usize];
        let mut put = |at: usize, room: usize, bytes: &[u8]| {
            let length = bytes.len().min(room);
            block[at..at + length].copy_from_slice(&bytes[..length]);
        };
        let octal = |value: u64, digits: usize| {
            let text = format!("{value:0digits$o}");
            if text.len() > digits {
                "0".repeat(digits)
            } else {
                text
            }
        };
        put(0, 100, self.name);
        put(100, 8, octal(u64::from(self.mode), 7).as_bytes());
        put(108, 8, octal(self.uid, 7).as_bytes());
        put(116, 8, octal(self.gid, 7).as_bytes());
        put(124, 12, octal(self.size, 11).as_bytes());
        put(136, 12, octal(self.mtime, 11).as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[self.kind]);
        put(157, 100, self.link);
        put(257, 8, b"ustar\x0000");
        put(329, 8, octal(u64::from(self.device.0), 7).as_bytes());
        put(337, 8, octal(u64::from(self.device.1), 7).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.write_all(&block)
    }
}

#[cfg(test)]
mod tests {
    use rbuild_cache::layer::TarReader;

    use super::*;

    #[test]
    fn the_strict_reader_sees_what_was_written() {
        let long = "d/".repeat(60) + "é";
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        let entry = |path: &str, kind, mtime| Entry {
            path: LayerPath::clean(path.as_bytes()),
            kind,
            mode: 0o4755,
            uid: 3_000_000_000,
            gid: 7,
            mtime,
            xattrs: vec![(b"user.x".to_vec(), b"a\0\n=b".to_vec())],
        };
        let entries = [
            entry("dir", Kind::Directory { opaque: false }, time(1, 0)),
            entry(&long, Kind::File { size: 5 }, time(-2, 500_000_000)),
            entry(
                "link",
                Kind::Symlink {
                    target: b"../\xff".repeat(40),
                },
                time(1 << 40, 1),
            ),
            entry(
                "hard",
                Kind::Hardlink {
                    target: LayerPath::clean(long.as_bytes()),
                },
                time(0, 0),
            ),
            entry("null", Kind::CharDevice { major: 1, minor: 3 }, time(0, 0)),
            entry("pipe", Kind::Fifo, time(0, 0)),
        ];
        let mut writer = TarWriter::new(Vec::new());
        for entry in &entries {
            let mut data: &[u8] = b"bytes";
            writer.append(entry, Some(&mut data)).unwrap();
        }
        let tar = writer.finish().unwrap();
        let mut reader = TarReader::archive(tar.as_slice());
        for wanted in &entries {
            let got = reader.next_entry().unwrap().unwrap();
            assert_eq!(&got.entry, wanted);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_file_of_another_length_is_an_error() {
        for data in [&b"abc"[..], b"abcde"] {
            let mut writer = TarWriter::new(Vec::new());
            assert!(writer.append_file("x", 0, 4, &mut &*data).is_err());
        }
    }

    #[test]
    fn records_count_themselves() {
        for length in [1, 80, 89, 90, 91, 92, 980, 985, 986, 987, 988, 990] {
            let mut out = Vec::new();
            record(&mut out, b"path", &vec![b'x'; length]);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(
                text.split_once(' ').unwrap().0.parse::<usize>().unwrap(),
                text.len(),
                "{length}"
            );
        }
    }
}
