//! Keeps declared secrets out of new layers: what a step has written is looked through before it becomes one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rbuild_cache::ContentDigest;
use rbuild_cache::layer::{Entry, Kind};
use rustix::fs::{Mode, OFlags};

use super::Inputs;
use super::ops::EntrySink;
use crate::error::BuildError;
use crate::graph::Location;
use crate::progress::Event;
use crate::source::leak::{Leak, Leaks, SecretScan, Watch};

/// Fails, or warns, as the build was told.
pub(super) fn report(
    inputs: &Inputs<'_>,
    leak: &Leak,
    place: &str,
    location: Option<&Location>,
) -> Result<(), BuildError> {
    let message = format!("{leak} is in {place}");
    match inputs.leaks.scan {
        SecretScan::Off => Ok(()),
        SecretScan::Warn => {
            inputs.sink.emit(Event::Warning {
                message,
                location: location.cloned(),
            });
            Ok(())
        }
        SecretScan::Error => Err(BuildError::message(message).hint(Some(
            "keep it out of what the step writes and prints, or give --secret-scan=warn if it is meant to be there"
                .to_owned(),
        ))),
    }
}

/// Looks through all files below `root`, which nobody changes any more: names, contents, targets of links, attributes.
/// The path from the root, and what is there.
pub(super) fn in_tree<'a>(leaks: &'a Leaks, root: &Path) -> io::Result<Option<(PathBuf, &'a Leak)>> {
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for child in fs::read_dir(&directory)? {
            let child = child?;
            let path = child.path();
            let found = match look_at(leaks, child.file_name().as_os_str(), &path)? {
                None if child.file_type()?.is_dir() => {
                    open.push(path);
                    continue;
                }
                found => found,
            };
            if let Some(leak) = found {
                let inside = path.strip_prefix(root).unwrap_or(&path);
                return Ok(Some((Path::new("/").join(inside), leak)));
            }
        }
    }
    Ok(None)
}

fn look_at<'a>(leaks: &'a Leaks, name: &OsStr, path: &Path) -> io::Result<Option<&'a Leak>> {
    if let Some(leak) = leaks.find(name.as_bytes()) {
        return Ok(Some(leak));
    }
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        return Ok(leaks.find(fs::read_link(path)?.as_os_str().as_bytes()));
    }
    if metadata.is_file() && metadata.len() > 0 {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        if let Some(leak) = leaks.find_in(file)? {
            return Ok(Some(leak));
        }
    }
    let mut names = vec![0; 64 * 1024];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut value = vec![0; 64 * 1024];
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap_or(0);
        if let Some(leak) = leaks.find(&value[..length]) {
            return Ok(Some(leak));
        }
    }
    Ok(None)
}

/// Looks through the entries of a layer on their way into it.
pub(super) struct Guarded<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) leaks: &'a Leaks,
    /// The first that was found, and where.
    pub(super) found: Option<(String, &'a Leak)>,
}

impl<S: EntrySink> EntrySink for Guarded<'_, S> {
    fn append(
        &mut self,
        entry: &Entry,
        data: Option<&mut dyn Read>,
    ) -> anyhow::Result<Option<ContentDigest>> {
        let mut leak = self.leaks.find(entry.path.as_bytes());
        if let Kind::Symlink { target } = &entry.kind {
            leak = leak.or_else(|| self.leaks.find(target));
        }
        for (_, value) in &entry.xattrs {
            leak = leak.or_else(|| self.leaks.find(value));
        }
        let digest = match data {
            None => self.sink.append(entry, None)?,
            Some(data) => {
                let mut watched = Watched {
                    data,
                    watch: self.leaks.watch(),
                };
                let digest = self.sink.append(entry, Some(&mut watched))?;
                leak = leak.or(watched.watch.found());
                digest
            }
        };
        if let (None, Some(leak)) = (&self.found, leak) {
            self.found = Some((entry.path.to_string(), leak));
        }
        Ok(digest)
    }
}

struct Watched<'d, 'a> {
    data: &'d mut dyn Read,
    watch: Watch<'a>,
}

impl Read for Watched<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.data.read(out)?;
        self.watch.see(&out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_looked_through() {
        let leaks = Leaks::new(SecretScan::Error, [("tok", &b"open sesame!"[..])].into_iter());
        let found = |make: &dyn Fn(&Path)| {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("a/b")).unwrap();
            fs::write(root.path().join("a/harmless"), b"open").unwrap();
            make(root.path());
            let found = in_tree(&leaks, root.path()).unwrap();
            found.map(|(path, leak)| (path.display().to_string(), leak.id.clone()))
        };
        let at = |path: &str| Some((path.to_owned(), "tok".to_owned()));
        assert_eq!(found(&|_| {}), None);
        let in_file = |root: &Path| fs::write(root.join("a/b/f"), b"..open sesame!..").unwrap();
        assert_eq!(found(&in_file), at("/a/b/f"));
        let in_name = |root: &Path| fs::create_dir(root.join("a/open sesame!")).unwrap();
        assert_eq!(found(&in_name), at("/a/open sesame!"));
        let in_link = |root: &Path| std::os::unix::fs::symlink("open sesame!", root.join("l")).unwrap();
        assert_eq!(found(&in_link), at("/l"));
    }
}
