//! Parts of files, for those who look for something that lies anywhere in a large file: reading all of it to compare its
//! digest would cost more than what they look for is worth.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::View;
use crate::layer::{LayerPath, open_file};
use crate::tree::TreeError;

/// The bytes of a regular file at any place. They are compared with no digest.
#[derive(Debug)]
pub struct FileParts {
    bytes: File,
    offset: u64,
    size: u64,
}

impl FileParts {
    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads at `offset` until `buffer` is full or the file ends; how many bytes that were.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let mut done = 0;
        while done < wanted {
            match self
                .bytes
                .read_at(&mut buffer[done..wanted], self.offset + offset + done as u64)?
            {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }
}

impl View {
    /// The regular file at `path`, to read parts of it.
    pub fn parts(&self, path: &LayerPath) -> Result<FileParts, TreeError> {
        let mut found = self.find_file(path)?;
        let io_error = |cause| TreeError::Io {
            path: path.clone(),
            cause,
        };
        if let Some((tree, _)) = self.layers[found.layer].readable_tree() {
            match File::open(&tree).and_then(|root| open_file(&root, &found.path)) {
                Ok(bytes) => {
                    let size = bytes.metadata().map_err(io_error)?.len();
                    return Ok(FileParts {
                        bytes,
                        offset: 0,
                        size,
                    });
                }
                // As when it is read as a whole: the tar has it too.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(io_error(error)),
            }
        }
        let (tar, offset, size, _) = self.in_tar(&mut found, path)?;
        Ok(FileParts {
            bytes: File::open(tar).map_err(io_error)?,
            offset,
            size,
        })
    }

    /// The number of the layer, from 0 for the lowest, that has what is shown at `path`.
    pub fn layer_of(&self, path: &LayerPath) -> Result<Option<usize>, TreeError> {
        Ok(self.find(path)?.map(|(layer, _)| layer))
    }
}
