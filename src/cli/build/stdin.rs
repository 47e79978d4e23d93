//! `rbuild -`: standard input is the context, an archive, or it is the Dockerfile (spec 7.1).
//!
//! The archive is read by the one strict reader, as a layer of the store, and its files become a temporary directory: what
//! the builder reads is a context like any other.

use std::fmt;
use std::io::{Cursor, Read, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use rbuild_cache::layer::{LayerBlob, MEDIA_TYPE_TAR};
use rbuild_cache::{DiffId, Store, TempDir, View};

use super::dockerfile::DockerfileSource;
use crate::exporter::rootfs::write_directory;
use crate::source::compressed::decompressed;

const BLOCK: usize = 512;
/// No Dockerfile is that large.
const DOCKERFILE_LIMIT: u64 = 16 << 20;

/// A context from standard input. Its files go with it.
pub struct StdinContext {
    /// The directory.
    pub path: PathBuf,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    _scratch: TempDir,
}

impl StdinContext {
    /// Reads `input` to its end. `file` is `--file`, a path in the archive.
    pub fn receive(store: &Store, input: impl Read, file: Option<&str>) -> anyhow::Result<Self> {
        let scratch = store.temp_dir()?;
        let path = scratch.path().join("context");
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        let mut input = decompressed(input).context("reading the context from standard input")?;
        let mut start = Vec::with_capacity(BLOCK);
        let block = BLOCK as u64;
        input
            .by_ref()
            .take(block)
            .read_to_end(&mut start)
            .context("reading the context from standard input")?;
        let dockerfile = if is_tar(&start) {
            let archive = Cursor::new(start).chain(input);
            unpack(store, archive, &path).context("reading the context from standard input")?;
            let name = file.unwrap_or("Dockerfile");
            ensure!(
                !name.starts_with('/') && !name.split('/').any(|part| part == ".."),
                "the Dockerfile {name:?} is not in the context from standard input"
            );
            let inside = path.join(name);
            // A link may lead to another file of the context, not out of it.
            if let (Ok(root), Ok(real)) = (path.canonicalize(), inside.canonicalize()) {
                ensure!(
                    real.starts_with(root),
                    "the Dockerfile {name:?} leads out of the context from standard input"
                );
            }
            DockerfileSource::File {
                path: inside,
                shown: Arc::from(name.rsplit('/').next().unwrap_or(name)),
            }
        } else {
            if file.is_some() {
                bail!("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles");
            }
            input
                .take(DOCKERFILE_LIMIT + 1)
                .read_to_end(&mut start)
                .context("reading the Dockerfile from standard input")?;
            ensure!(
                start.len() as u64 <= DOCKERFILE_LIMIT,
                "the Dockerfile from standard input has more than {DOCKERFILE_LIMIT} bytes"
            );
            DockerfileSource::Text(start.into())
        };
        Ok(Self {
            path,
            dockerfile,
            _scratch: scratch,
        })
    }
}

impl fmt::Debug for StdinContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinContext")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Whether a file begins as an archive does: with a header whose checksum is right, or with its end.
fn is_tar(block: &[u8]) -> bool {
    if block.len() < BLOCK {
        return false;
    }
    let blank = 148..156;
    let sum: u32 = block[..BLOCK]
        .iter()
        .enumerate()
        .map(|(place, byte)| {
            if blank.contains(&place) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    let digits: String = block[blank]
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|c| c.is_digit(8))
        .collect();
    block.iter().all(|byte| *byte == 0) || u32::from_str_radix(&digits, 8) == Ok(sum)
}

fn unpack(store: &Store, mut archive: impl Read, path: &std::path::Path) -> anyhow::Result<()> {
    let mut blob = store.blob_writer()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match archive.read(&mut buffer)? {
            0 => break,
            length => blob.write_all(&buffer[..length])?,
        }
    }
    let (digest, size) = blob.commit(None)?;
    let blob = LayerBlob {
        media_type: MEDIA_TYPE_TAR.to_owned(),
        digest,
        size,
    };
    let id = store.register_layer(&blob, &DiffId(digest), &[])?;
    write_directory(&View::new(vec![store.layer(&id)?]), path, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_is_no_archive() {
        let mut long = b"FROM scratch\n".to_vec();
        long.resize(2000, b'#');
        assert!(!is_tar(&long));
        assert!(!is_tar(b"FROM scratch"));
        assert!(is_tar(&[0; BLOCK]));
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let received = StdinContext::receive(&store, long.as_slice(), None).unwrap();
        assert_eq!(received.dockerfile.read().unwrap(), long);
        assert_eq!(std::fs::read_dir(&received.path).unwrap().count(), 0);
        let path = received.path.clone();
        drop(received);
        assert!(!path.exists());
        let refused = StdinContext::receive(&store, long.as_slice(), Some("Dockerfile"));
        assert!(refused.unwrap_err().to_string().contains("ambiguous"));
    }
}
