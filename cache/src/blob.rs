//! Blobs: bytes named by their sha256, in an OCI image layout. Nothing that is read here is
//! believed before its digest was checked; what is wrong is removed, so that the next look is a miss.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::file_memory::FileStat;
use crate::store::Store;
use crate::temporary::TempDir;

/// Gives blobs that the store has not got but knows to exist elsewhere.
pub trait BlobProvider: Send + Sync {
    /// Streams the blob `digest` of `size` bytes from one of `origins` (`"registry.example/repository"`). The
    /// caller checks digest and size.
    fn fetch(&self, digest: &Digest, size: u64, origins: &[String]) -> io::Result<Box<dyn Read + Send>>;
}

impl Store {
    /// Whether the store holds the blob; its bytes are not looked at.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_size(digest).is_some()
    }

    /// The size of the blob, if the store holds it.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        let stat = self.pin(&self.0.blobs, &digest.hex()).ok()??;
        u64::try_from(stat.st_size).ok()
    }

    /// Where the blob lies, or would lie.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.blobs.path_of(&digest.hex())
    }

    /// A small blob as a whole, verified.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let mut file = self.blob_file(digest)?;
        let fail = |error| StoreError::io("reading", self.blob_path(digest), error);
        let size = file.metadata().map_err(fail)?.len();
        if size > limit {
            return Err(StoreError::TooLarge {
                digest: *digest,
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        (&mut file).take(limit).read_to_end(&mut bytes).map_err(fail)?;
        if Digest::of(&bytes) != *digest {
            self.discard_blob(digest)?;
            return Err(StoreError::Damaged {
                what: format!("blob {digest}"),
                reason: format!("its {} bytes have another digest", bytes.len()),
            });
        }
        Ok(bytes)
    }

    /// A blob as a stream, verified at its end. One that this process has written is not hashed again, as long as nobody
    /// has changed it.
    pub fn open_blob(&self, digest: &Digest) -> Result<VerifiedReader, StoreError> {
        let file = self.blob_file(digest)?;
        let state = match self.0.written.version(digest) {
            Some(written) if FileStat::of(&file).is_ok_and(|now| now == written) => State::Written(written),
            _ => State::Reading(Sha256::new()),
        };
        Ok(VerifiedReader {
            file,
            state,
            digest: *digest,
            store: self.clone(),
        })
    }

    /// Stores `bytes`.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        // The bytes of a blob that is there are compared: having them is the cheapest moment to heal it.
        let same = |mut file: File| -> io::Result<bool> {
            if file.metadata()?.len() != bytes.len() as u64 {
                return Ok(false);
            }
            let mut held = Vec::with_capacity(bytes.len());
            file.read_to_end(&mut held)?;
            Ok(held == bytes)
        };
        if self.has_blob(&digest)
            && let Ok(file) = self.blob_file(&digest)
            && same(file).unwrap_or(false)
        {
            return Ok(digest);
        }
        self.replace_file(&self.0.blobs, &digest.hex(), bytes, false)?;
        Ok(digest)
    }

    /// Begins a blob of unknown digest and size.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        let (scratch, name) = self.scratch_name()?;
        let file = scratch
            .directory()
            .file(&name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| StoreError::io("creating", scratch.directory().path_of(&name), error))?;
        let hashing = Hashing {
            file,
            hasher: Sha256::new(),
            written: 0,
        };
        Ok(BlobWriter {
            out: BufWriter::with_capacity(128 << 10, hashing),
            buffered: 0,
            temporary: Temporary {
                scratch,
                name,
                renamed: false,
            },
            store: self.clone(),
        })
    }

    /// Removes a blob that was found damaged: the next look for it is a miss.
    pub fn discard_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.0.blobs.unlink(&digest.hex())
    }

    fn blob_file(&self, digest: &Digest) -> Result<File, StoreError> {
        self.0
            .blobs
            .open_file(&digest.hex())?
            .ok_or(StoreError::MissingBlob { digest: *digest })
    }
}

/// Reads a blob. When the end is reached and the digest is wrong, the blob is removed and the
/// last read fails with [`io::ErrorKind::InvalidData`]. Bytes read before are not verified yet: whoever
/// acts on them must be able to take that back.
#[derive(Debug)]
pub struct VerifiedReader {
    file: File,
    state: State,
    digest: Digest,
    store: Store,
}

/// Which files of blobs this process has written, and so hashed, itself.
#[derive(Debug, Default)]
pub(crate) struct WrittenBlobs(Mutex<HashMap<Digest, FileStat>>);

impl WrittenBlobs {
    /// The file of the blob as it was when it was written.
    fn version(&self, digest: &Digest) -> Option<FileStat> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)
            .copied()
    }

    fn add(&self, digest: Digest, version: FileStat) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(digest, version);
    }
}

/// The digest of what `file` holds.
pub(crate) fn digest_of(mut file: &File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_bytes(hasher.finalize().into())),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[derive(Debug)]
enum State {
    Reading(Sha256),
    /// This process has hashed its bytes when it wrote them.
    Written(FileStat),
    Verified,
    Damaged,
}

impl VerifiedReader {
    /// The file of the blob, for whoever shares its bytes; they are verified when [`VerifiedReader::finish`] says so.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// At the end of the file: whether the bytes were those of the digest.
    fn is_whole(&mut self) -> io::Result<bool> {
        let found = match &mut self.state {
            State::Reading(hasher) => Digest::from_bytes(hasher.finalize_reset().into()),
            // A use of it by somebody else moves its times as well: what it holds decides.
            State::Written(written) if FileStat::of(&self.file)? != *written => {
                self.file.rewind()?;
                digest_of(&self.file)?
            }
            State::Written(_) | State::Verified => return Ok(true),
            State::Damaged => return Ok(false),
        };
        Ok(found == self.digest)
    }

    /// Reads what is left, to verify the whole blob.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl Read for VerifiedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if matches!(self.state, State::Reading(_) | State::Written(_)) {
            let count = self.file.read(buffer)?;
            if let State::Reading(hasher) = &mut self.state {
                hasher.update(&buffer[..count]);
            }
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if self.is_whole()? {
                self.state = State::Verified;
            } else {
                self.state = State::Damaged;
                let _ = self.store.discard_blob(&self.digest);
            }
        }
        match self.state {
            State::Damaged => {
                let message = format!("blob {} was damaged and has been removed", self.digest);
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
            _ => Ok(0),
        }
    }
}

/// Writes a blob of which nothing is known yet. Dropped without commit, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    out: BufWriter<Hashing>,
    buffered: u64,
    temporary: Temporary,
    store: Store,
}

#[derive(Debug)]
struct Hashing {
    file: File,
    hasher: Sha256,
    written: u64,
}

/// A file that vanishes unless it was renamed.
#[derive(Debug)]
struct Temporary {
    scratch: Arc<TempDir>,
    name: String,
    renamed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = self.scratch.directory().unlink(&self.name);
        }
    }
}

impl BlobWriter {
    fn failed(&self, error: io::Error) -> io::Error {
        let Temporary { scratch, name, .. } = &self.temporary;
        StoreError::io("writing", scratch.directory().path_of(name), error).into()
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.buffered
    }

    /// Gives the blob its name. When `expected` is not the digest of the bytes, nothing is kept.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64), StoreError> {
        let Self {
            out,
            mut temporary,
            store,
            ..
        } = self;
        let directory = temporary.scratch.directory();
        let Hashing {
            file,
            hasher,
            written,
        } = out.into_inner().map_err(|error| {
            StoreError::io("writing", directory.path_of(&temporary.name), error.into_error())
        })?;
        let actual = Digest::from_bytes(hasher.finalize().into());
        if let Some(expected) = expected
            && *expected != actual
        {
            return Err(StoreError::DigestMismatch {
                expected: *expected,
                actual,
            });
        }
        // Over an older file too: these bytes were just hashed, those may have rotted.
        directory.rename(&temporary.name, &store.0.blobs, &actual.hex())?;
        temporary.renamed = true;
        // After the rename, which is a change too. What cannot be looked at is hashed when it is read.
        if let Ok(version) = FileStat::of(&file) {
            store.0.written.add(actual, version);
        }
        Ok((actual, written))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.out.write(buffer).map_err(|error| self.failed(error))?;
        self.buffered += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush().map_err(|error| self.failed(error))
    }
}

impl Write for Hashing {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        (directory, store)
    }

    #[test]
    fn what_is_put_is_read() {
        let (_directory, store) = store();
        for bytes in [&b""[..], b"x", &vec![7; 300_000]] {
            let digest = store.put_blob(bytes).unwrap();
            assert_eq!(store.put_blob(bytes).unwrap(), digest);
            assert_eq!(store.read_blob(&digest, bytes.len() as u64).unwrap(), bytes);
            assert_eq!(store.blob_size(&digest), Some(bytes.len() as u64));
            let mut read = Vec::new();
            store.open_blob(&digest).unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, bytes);
            let mut writer = store.blob_writer().unwrap();
            for piece in bytes.chunks(1000) {
                writer.write_all(piece).unwrap();
            }
            assert_eq!(writer.written(), bytes.len() as u64);
            assert_eq!(
                writer.commit(Some(&digest)).unwrap(),
                (digest, bytes.len() as u64)
            );
        }
        let big = store.put_blob(b"big").unwrap();
        assert!(matches!(
            store.read_blob(&big, 2),
            Err(StoreError::TooLarge { size: 3, .. })
        ));
        let missing = Digest::of(b"missing");
        assert!(matches!(
            store.read_blob(&missing, 2),
            Err(StoreError::MissingBlob { .. })
        ));
    }

    #[test]
    fn damage_is_a_miss_that_heals() {
        let (_directory, store) = store();
        let digest = store.put_blob(b"some bytes").unwrap();
        for bad in [
            &b""[..],
            b"some byte",
            b"some bytez",
            b"some bytes!",
            &b"\0".repeat(10),
        ] {
            std::fs::write(store.blob_path(&digest), bad).unwrap();
            assert!(store.read_blob(&digest, 100).is_err());
            assert!(!store.has_blob(&digest));
            store.put_blob(b"some bytes").unwrap();

            std::fs::write(store.blob_path(&digest), bad).unwrap();
            let mut reader = store.open_blob(&digest).unwrap();
            let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(reader.read(&mut [0; 8]).is_err());
            assert!(!store.has_blob(&digest));
            store.put_blob(b"some bytes").unwrap();

            std::fs::write(store.blob_path(&digest), bad).unwrap();
            store.put_blob(b"some bytes").unwrap();
            assert_eq!(store.read_blob(&digest, 100).unwrap(), b"some bytes");
        }
    }

    #[test]
    fn a_blob_that_was_just_written_is_believed_until_it_changes() {
        let (_directory, store) = store();
        let bytes = vec![7; 300_000];
        let written = || {
            let mut writer = store.blob_writer().unwrap();
            writer.write_all(&bytes).unwrap();
            writer.commit(None).unwrap().0
        };
        let mut read = Vec::new();
        let digest = written();
        let mut reader = store.open_blob(&digest).unwrap();
        assert!(matches!(reader.state, State::Written(_)));
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, bytes);
        // Before it is opened, and while it is read.
        let mut bad = bytes.clone();
        bad[100_000] ^= 1;
        std::fs::write(store.blob_path(&digest), &bad).unwrap();
        let mut reader = store.open_blob(&digest).unwrap();
        assert!(matches!(reader.state, State::Reading(_)));
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
        assert!(!store.has_blob(&digest));
        for (now, whole) in [(&bad, false), (&bytes, true)] {
            assert_eq!(written(), digest);
            let mut reader = store.open_blob(&digest).unwrap();
            reader.read_exact(&mut [0; 10]).unwrap();
            std::fs::write(store.blob_path(&digest), now).unwrap();
            assert_eq!(io::copy(&mut reader, &mut io::sink()).is_ok(), whole);
            assert_eq!(store.has_blob(&digest), whole);
        }
    }

    #[test]
    fn unfinished_and_wrong_blobs_leave_nothing() {
        let (_directory, store) = store();
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"abc").unwrap();
        drop(writer);
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(b"abc").unwrap();
        let error = writer.commit(Some(&Digest::of(b"abd"))).unwrap_err();
        assert!(matches!(error, StoreError::DigestMismatch { .. }), "{error}");
        assert!(store.0.blobs.names().unwrap().is_empty());
        let (scratch, _) = store.scratch_name().unwrap();
        assert!(scratch.directory().names().unwrap().is_empty());
    }

    #[test]
    fn planted_links_are_not_followed() {
        let (directory, store) = store();
        let digest = Digest::of(b"outside");
        let outside = directory.path().join("outside");
        std::fs::write(&outside, b"outside").unwrap();
        std::os::unix::fs::symlink(&outside, store.blob_path(&digest)).unwrap();
        assert!(store.read_blob(&digest, 100).is_err());
        store.put_blob(b"outside").unwrap();
        assert!(store.blob_path(&digest).symlink_metadata().unwrap().is_file());
        assert_eq!(std::fs::read(&outside).unwrap(), b"outside");
    }
}
