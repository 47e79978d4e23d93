//! A file that is there only when it is complete.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Of every new file; the umask takes its part.
const MODE: u32 = 0o666;

/// A file that is complete and has not its name yet. Dropped, it is gone.
pub struct Replacement {
    file: Bytes,
    path: PathBuf,
}

enum Bytes {
    /// Nothing of it is left when the process is killed.
    Nameless(File),
    /// For file systems that know no nameless files.
    Named(tempfile::NamedTempFile),
}

impl Replacement {
    /// Writes what will be the file `path`; a symbolic link there is followed.
    pub fn write(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Self> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut out = BufWriter::with_capacity(1 << 17, Bytes::new(directory_of(&path))?);
        write(&mut out)?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Self { file, path })
    }

    /// What will be the file `path`, with the bytes of `source`, which the two share; `None` where that cannot be.
    pub fn clone_of(path: &Path, source: &File) -> io::Result<Option<Self>> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let file = Bytes::new(directory_of(&path))?;
        let cloned = rustix::fs::ioctl_ficlone(file.as_file(), source).is_ok();
        Ok(cloned.then_some(Self { file, path }))
    }

    /// Gives the file its name, in one step.
    pub fn commit(self) -> io::Result<()> {
        match self.file {
            Bytes::Named(file) => file.persist(&self.path).map(drop).map_err(|error| error.error),
            Bytes::Nameless(file) => {
                let source = format!("/proc/self/fd/{}", file.as_raw_fd());
                let link = |target: &Path| {
                    rustix::fs::linkat(CWD, source.as_str(), CWD, target, AtFlags::SYMLINK_FOLLOW)
                        .map_err(io::Error::from)
                };
                match link(&self.path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => return linked,
                }
                // A link replaces nothing: it takes another name first, for the blink of an eye.
                let linked = tempfile::Builder::new()
                    .prefix(".rbuild-")
                    .make_in(directory_of(&self.path), link)?;
                linked.persist(&self.path).map_err(|error| error.error)
            }
        }
    }
}

impl Bytes {
    fn new(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(MODE)) {
            Ok(file) => Ok(Self::Nameless(file.into())),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => tempfile::Builder::new()
                .prefix(".rbuild-")
                .permissions(std::fs::Permissions::from_mode(MODE))
                .tempfile_in(directory)
                .map(Self::Named),
            Err(errno) => Err(errno.into()),
        }
    }

    fn as_file(&self) -> &File {
        match self {
            Self::Nameless(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nameless(file) => file.write(bytes),
            Self::Named(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nameless(file) => file.flush(),
            Self::Named(file) => file.flush(),
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few file systems can share bytes; where they cannot, nothing is left of the attempt.
    #[test]
    fn a_clone_has_all_bytes_or_does_not_exist() {
        let here = tempfile::tempdir().unwrap();
        let (source, path) = (here.path().join("source"), here.path().join("clone"));
        std::fs::write(&source, "bytes").unwrap();
        match Replacement::clone_of(&path, &File::open(&source).unwrap()).unwrap() {
            Some(file) => {
                file.commit().unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
            }
            None => assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1),
        }
    }

    #[test]
    fn a_file_appears_whole_and_replaces_what_was_there() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("file");
        for text in ["first", "second"] {
            let file = Replacement::write(&path, |out| out.write_all(text.as_bytes())).unwrap();
            assert_ne!(std::fs::read_to_string(&path).unwrap_or_default(), text);
            file.commit().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        drop(Replacement::write(&path, |out| out.write_all(b"third")).unwrap());
        assert!(Replacement::write(&path, |_| Err(io::ErrorKind::Other.into())).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1);
    }
}
