//! The digest of what is read, without reading it twice.

use std::io::{self, Read};

use rbuild_cache::Digest;
use sha2::{Digest as _, Sha256};

/// Reads another reader and hashes what comes out.
pub(super) struct HashReader<R> {
    reader: R,
    hasher: Sha256,
}

impl<R: Read> HashReader<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            hasher: Sha256::new(),
        }
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}
