//! The flattened root file system of an image: as a tar, or as files of the invoking user.
//!
//! Files are written by descriptor, a component at a time and never through a symbolic link: neither the image nor what
//! lies at the destination can lead a write out of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, bail};
use rbuild_cache::layer::{Entry, Kind, LayerPath, TarWriter, Timestamp};
use rbuild_cache::tree::Tree;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::archive::to_destination;
use super::full_disk::explained;
use super::{Destination, unfinished};

/// Writes `tree` as a tar to `dest`: owners, modes, links and xattrs as they are in the image.
pub fn write_tar(tree: &dyn Tree, dest: &Destination, epoch: Option<i64>) -> anyhow::Result<()> {
    to_destination(dest, |out| {
        let mut tar = TarWriter::new(out);
        walk(tree, epoch, &mut |entry| {
            let doing = || format!("writing {} of the root file system", entry.path);
            match &entry.kind {
                Kind::File { .. } => {
                    let mut data = tree.open(&entry.path).with_context(doing)?;
                    tar.append(&entry, Some(&mut data)).with_context(doing)?;
                }
                _ => {
                    tar.append(&entry, None).with_context(doing)?;
                }
            }
            Ok(())
        })?;
        tar.finish()?;
        Ok(())
    })
}

/// Writes `tree` into the directory `dest`, which is made if it is missing. Files that are there are overwritten, others stay. All
/// belong to the invoking user; modes, times and `user.` xattrs are those of the image. Returns how many devices were
/// left out, which only root could make.
pub fn write_directory(tree: &dyn Tree, dest: &Path, epoch: Option<i64>) -> anyhow::Result<u64> {
    explained(write_files(tree, dest, epoch), dest)
}

fn write_files(tree: &dyn Tree, dest: &Path, epoch: Option<i64>) -> anyhow::Result<u64> {
    let doing = || format!("writing the root file system to {}", dest.display());
    let unfinished = unfinished::begin(dest).with_context(doing)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(dest, flags, Mode::empty()).with_context(doing)?;
    let mut writer = DirectoryWriter {
        tree,
        root,
        directories: Vec::new(),
        parent: None,
        devices: 0,
    };
    walk(tree, epoch, &mut |entry| {
        let at = || format!("writing {} to {}", entry.path, dest.display());
        writer.write(&entry).with_context(at)
    })?;
    writer.finish().with_context(doing)?;
    unfinished.finish();
    Ok(writer.devices)
}

/// Gives every entry but the root, directories before what lies in them. The second and later names of a file are hard
/// links to the first.
fn walk(
    tree: &dyn Tree,
    epoch: Option<i64>,
    visit: &mut dyn FnMut(Entry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut first_names: HashMap<u64, LayerPath> = HashMap::new();
    let mut pending = vec![tree.read_dir(&LayerPath::root())?.into_iter()];
    while let Some(directory) = pending.last_mut() {
        let Some(mut entry) = directory.next() else {
            pending.pop();
            continue;
        };
        // Times after SOURCE_DATE_EPOCH are those of this build.
        if let Some(epoch) = epoch
            && entry.mtime.seconds >= epoch
        {
            entry.mtime = Timestamp {
                seconds: epoch,
                nanoseconds: 0,
            };
        }
        if matches!(entry.kind, Kind::File { .. })
            && let Some(group) = tree.link_group(&entry)?
        {
            match first_names.get(&group) {
                Some(first) => {
                    entry.kind = Kind::Hardlink {
                        target: first.clone(),
                    }
                }
                None => drop(first_names.insert(group, entry.path.clone())),
            }
        }
        let below = if entry.is_dir() {
            Some(tree.read_dir(&entry.path)?.into_iter())
        } else {
            None
        };
        visit(entry)?;
        pending.extend(below);
    }
    Ok(())
}

struct DirectoryWriter<'a> {
    tree: &'a dyn Tree,
    root: OwnedFd,
    /// Directories, whose modes and times are set at the end: a read-only one could not be filled.
    directories: Vec<Entry>,
    /// The directory that was written to last.
    parent: Option<(LayerPath, OwnedFd)>,
    devices: u64,
}

impl DirectoryWriter<'_> {
    fn write(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let Some(parent) = entry.path.parent() else {
            return Ok(());
        };
        if self.parent.as_ref().is_none_or(|(path, _)| *path != parent) {
            self.parent = Some((parent.clone(), open_directory(self.root.as_fd(), &parent)?));
        }
        let Some((_, directory)) = &self.parent else {
            return Ok(());
        };
        let directory = directory.as_fd();
        let name = entry.path.name();
        if entry.is_dir() {
            match kind_at(directory, name)? {
                Some(FileType::Directory) => {}
                found => {
                    if found.is_some() {
                        rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                    }
                    rustix::fs::mkdirat(directory, name, Mode::RWXU)?;
                }
            }
            // Whatever its mode was: it is to be filled now.
            rustix::fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
            self.directories.push(entry.clone());
            return Ok(());
        }
        match kind_at(directory, name)? {
            Some(FileType::Directory) => bail!("a directory is in its place"),
            Some(_) => rustix::fs::unlinkat(directory, name, AtFlags::empty())?,
            None => {}
        }
        match &entry.kind {
            Kind::File { size } => return self.write_file(directory, entry, *size),
            Kind::Symlink { target } => rustix::fs::symlinkat(target.as_slice(), directory, name)?,
            Kind::Hardlink { target } => {
                let Some(parent) = target.parent() else {
                    bail!("a hard link to the root")
                };
                let parent = open_directory(self.root.as_fd(), &parent)?;
                rustix::fs::linkat(&parent, target.name(), directory, name, AtFlags::empty())?;
                return Ok(());
            }
            Kind::Fifo => {
                rustix::fs::mknodat(directory, name, FileType::Fifo, mode(entry), 0)?;
                rustix::fs::chmodat(directory, name, mode(entry), AtFlags::empty())?;
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.devices += 1;
                return Ok(());
            }
            Kind::Directory { .. } | Kind::Whiteout => return Ok(()),
        }
        rustix::fs::utimensat(directory, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn write_file(&self, directory: BorrowedFd<'_>, entry: &Entry, size: u64) -> anyhow::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, entry.path.name(), flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        let copied = io::copy(&mut self.tree.open(&entry.path)?.take(size), &mut file)?;
        if copied != size {
            bail!("it has {copied} bytes instead of {size}");
        }
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| name.starts_with(b"user.")) {
            match rustix::fs::fsetxattr(&file, name.as_slice(), value, rustix::fs::XattrFlags::empty()) {
                // The file system has none: the file is worth having without.
                Err(Errno::OPNOTSUPP) => {}
                set => set?,
            }
        }
        // After the bytes: writing takes setuid away.
        rustix::fs::fchmod(&file, mode(entry))?;
        rustix::fs::futimens(&file, &times(entry))?;
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.parent = None;
        // Innermost first: a parent may become unsearchable.
        while let Some(entry) = self.directories.pop() {
            let directory = open_directory(self.root.as_fd(), &entry.path)?;
            rustix::fs::futimens(&directory, &times(&entry))?;
            rustix::fs::fchmod(&directory, mode(&entry))?;
        }
        Ok(())
    }
}

/// The directory at `path` below `root`, through directories only.
fn open_directory(root: BorrowedFd<'_>, path: &LayerPath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(root, ".", flags, Mode::empty())?;
    for component in path.components() {
        directory = rustix::fs::openat(&directory, component, flags, Mode::empty())?;
    }
    Ok(directory)
}

fn kind_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec {
        tv_sec: entry.mtime.seconds,
        tv_nsec: i64::from(entry.mtime.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rbuild_cache::ContentDigest;
    use rbuild_cache::tree::TreeError;

    use super::*;

    /// A tree in memory.
    struct Fixture(BTreeMap<LayerPath, (Entry, &'static [u8])>);

    impl Fixture {
        fn new(entries: &[(&str, Kind, u32, &'static [u8])]) -> Self {
            let entry = |(path, kind, mode, data): &(&str, Kind, u32, &'static [u8])| {
                let path = LayerPath::clean(path.as_bytes());
                let mtime = Timestamp {
                    seconds: 1_000_000,
                    nanoseconds: 5,
                };
                let entry = Entry {
                    path: path.clone(),
                    kind: kind.clone(),
                    mode: *mode,
                    uid: 12,
                    gid: 34,
                    mtime,
                    xattrs: Vec::new(),
                };
                (path, (entry, *data))
            };
            Self(entries.iter().map(entry).collect())
        }
    }

    impl Tree for Fixture {
        fn lookup(&self, path: &LayerPath) -> Result<Option<Entry>, TreeError> {
            Ok(self.0.get(path).map(|(entry, _)| entry.clone()))
        }
        fn read_dir(&self, path: &LayerPath) -> Result<Vec<Entry>, TreeError> {
            let inside = |entry: &&Entry| entry.path.parent().as_ref() == Some(path);
            Ok(self
                .0
                .values()
                .map(|(entry, _)| entry)
                .filter(inside)
                .cloned()
                .collect())
        }
        fn open(&self, path: &LayerPath) -> Result<Box<dyn Read + Send>, TreeError> {
            Ok(Box::new(self.0[path].1))
        }
        fn content_digest(&self, entry: &Entry) -> Result<ContentDigest, TreeError> {
            Ok(ContentDigest::of(self.0[&entry.path].1))
        }
        fn link_group(&self, entry: &Entry) -> Result<Option<u64>, TreeError> {
            Ok((self.0[&entry.path].1 == b"shared").then_some(1))
        }
    }

    fn directory() -> Kind {
        Kind::Directory { opaque: false }
    }

    fn file(size: u64) -> Kind {
        Kind::File { size }
    }

    #[test]
    fn files_are_written_as_they_are() {
        let tree = Fixture::new(&[
            ("ro", directory(), 0o555, b""),
            ("ro/f", file(5), 0o4755, b"hello"),
            ("ro/g", file(6), 0o600, b"shared"),
            ("x", file(6), 0o600, b"shared"),
            (
                "l",
                Kind::Symlink {
                    target: b"/nowhere".to_vec(),
                },
                0o777,
                b"",
            ),
            ("null", Kind::CharDevice { major: 1, minor: 3 }, 0o666, b""),
        ]);
        let here = tempfile::tempdir().unwrap();
        let dest = here.path().join("new/out");
        for _ in 0..2 {
            // The second time everything is in the way already.
            assert_eq!(write_directory(&tree, &dest, None).unwrap(), 1);
        }
        let meta = std::fs::metadata(dest.join("ro/f")).unwrap();
        assert_eq!(
            (
                meta.permissions().mode() & 0o7777,
                meta.mtime(),
                meta.mtime_nsec()
            ),
            (0o4755, 1_000_000, 5)
        );
        let read_only = std::fs::metadata(dest.join("ro")).unwrap();
        assert_eq!(
            (read_only.permissions().mode() & 0o7777, read_only.mtime()),
            (0o555, 1_000_000)
        );
        let inode = |name: &str| std::fs::metadata(dest.join(name)).unwrap().ino();
        assert_eq!(inode("x"), inode("ro/g"));
        assert_eq!(std::fs::read_link(dest.join("l")).unwrap(), Path::new("/nowhere"));
        std::fs::set_permissions(dest.join("ro"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn links_at_the_destination_lead_nowhere() {
        let tree = Fixture::new(&[
            ("d", directory(), 0o755, b""),
            ("d/f", file(5), 0o644, b"hello"),
            ("g", file(5), 0o644, b"hello"),
        ]);
        let here = tempfile::tempdir().unwrap();
        let (dest, outside) = (here.path().join("dest"), here.path().join("outside"));
        std::fs::create_dir_all(&dest).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("g"), "mine").unwrap();
        std::os::unix::fs::symlink(&outside, dest.join("d")).unwrap();
        std::os::unix::fs::symlink(outside.join("g"), dest.join("g")).unwrap();
        write_directory(&tree, &dest, Some(0)).unwrap();
        assert!(!outside.join("f").exists());
        assert_eq!(std::fs::read(outside.join("g")).unwrap(), b"mine");
        assert_eq!(std::fs::read(dest.join("d/f")).unwrap(), b"hello");
        assert_eq!(std::fs::metadata(dest.join("d/f")).unwrap().mtime(), 0);
    }

    #[test]
    fn a_directory_is_not_overwritten_by_a_file() {
        let here = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(here.path().join("f/kept")).unwrap();
        let tree = Fixture::new(&[("f", file(1), 0o644, b"x")]);
        assert!(write_directory(&tree, here.path(), None).is_err());
        assert!(here.path().join("f/kept").exists());
    }

    #[test]
    fn the_tar_has_hard_links() {
        let tree = Fixture::new(&[("a", file(6), 0o600, b"shared"), ("b", file(6), 0o600, b"shared")]);
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("out.tar");
        write_tar(&tree, &Destination::Path(path.clone()), Some(7)).unwrap();
        let mut reader = rbuild_cache::layer::TarReader::archive(File::open(path).unwrap());
        let first = reader.next_entry().unwrap().unwrap().entry;
        assert_eq!((first.uid, first.mtime.seconds), (12, 7));
        let second = reader.next_entry().unwrap().unwrap().entry;
        assert_eq!(
            second.kind,
            Kind::Hardlink {
                target: LayerPath::clean(b"a")
            }
        );
    }
}
