//! Files that tell other programs of a build: `--iidfile`, `--metadata-file`, the lock file.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A build that fails must not leave what an older one said.
pub(super) fn remove(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Readers see the whole of it or nothing.
pub(super) fn write(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let writing = || format!("writing {}", file.display());
    let mut temporary = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(directory)
        .with_context(writing)?;
    temporary.write_all(bytes).with_context(writing)?;
    temporary
        .persist(file)
        .map_err(|error| error.error)
        .with_context(writing)?;
    Ok(())
}
