//! Which ignore file holds for a context, and what it says (spec 6.1).
//!
//! `--ignorefile`, else `<dockerfile>.dockerignore` beside the Dockerfile, even an empty one, else `.dockerignore`, else
//! `.containerignore`, both at the root of the context. One file holds; others that are there are told of.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rbuild_parser::ignore::{IgnoreLine, Matcher, parse_ignore_file};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Bytes of an ignore file that are read at most.
const LIMIT: u64 = 16 << 20;

/// At the root of a context, the first one that exists.
const NAMES: [&str; 2] = [".dockerignore", ".containerignore"];

/// An ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its patterns.
    pub lines: Vec<IgnoreLine>,
    /// Ignore files that exist and do not hold, because this one does.
    pub unused: Vec<PathBuf>,
}

impl IgnoreFile {
    /// The file that holds for the context at `context`, if it is a directory; `dockerfile` is the one that is built, `chosen` what the user
    /// named instead of all others. A file that cannot be read, or has a malformed line, is an error.
    pub fn find(
        context: Option<&Path>,
        dockerfile: Option<&Path>,
        chosen: Option<&Path>,
    ) -> anyhow::Result<Option<Self>> {
        let mut found: Option<Self> = None;
        let mut consider = |path: PathBuf, file: rustix::io::Result<OwnedFd>| -> anyhow::Result<()> {
            let file = match file {
                Ok(file) => File::from(file),
                Err(rustix::io::Errno::NOENT) => return Ok(()),
                Err(error) if found.is_none() => {
                    return Err(error).with_context(|| format!("opening {}", path.display()));
                }
                Err(_) => return Ok(()),
            };
            match &mut found {
                Some(found) => found.unused.push(path),
                None => {
                    let lines = read(&file).with_context(|| format!("reading {}", path.display()))?;
                    let unused = Vec::new();
                    found = Some(Self { path, lines, unused });
                }
            }
            Ok(())
        };
        // What the user named, himself or by naming the Dockerfile, may be a link to anywhere.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
        if let Some(path) = chosen {
            let file = open(path).with_context(|| format!("opening {}", path.display()))?;
            consider(path.to_owned(), Ok(file))?;
        }
        if let Some(dockerfile) = dockerfile {
            let mut path = dockerfile.as_os_str().to_owned();
            path.push(".dockerignore");
            let path = PathBuf::from(path);
            let file = open(&path);
            consider(path, file)?;
        }
        for (context, name) in NAMES.iter().filter_map(|name| Some((context?, name))) {
            consider(context.join(name), beneath(context, name))?;
        }
        Ok(found)
    }

    /// The patterns alone.
    pub fn patterns(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.pattern.clone()).collect()
    }

    /// The patterns, ready to be asked.
    pub fn matcher(&self) -> anyhow::Result<Matcher> {
        Matcher::new(&self.patterns()).with_context(|| format!("reading {}", self.path.display()))
    }
}

/// Opens a file of the context. A link may lead to another file of the context, not out of it.
pub fn beneath(context: &Path, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let root = rustix::fs::open(context, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, name, flags | OFlags::NONBLOCK, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let flags = flags | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            rustix::fs::openat(&root, name, flags, Mode::empty())
        }
        result => result,
    }
}

fn read(file: &File) -> anyhow::Result<Vec<IgnoreLine>> {
    anyhow::ensure!(file.metadata()?.is_file(), "it is no regular file");
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    anyhow::ensure!(bytes.len() as u64 <= LIMIT, "it is larger than {LIMIT} bytes");
    let text = String::from_utf8(bytes).context("it is not UTF-8")?;
    Ok(parse_ignore_file(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)], chosen: Option<&str>) -> anyhow::Result<Option<(String, usize, usize)>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let chosen = chosen.map(|name| folder.path().join(name));
        let dockerfile = folder.path().join("D");
        let found = IgnoreFile::find(Some(folder.path()), Some(&dockerfile), chosen.as_deref())?;
        Ok(found.map(|file| {
            let name = file.path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, file.lines.len(), file.unused.len())
        }))
    }

    #[test]
    fn one_file_holds() {
        let all = [
            ("D.dockerignore", ""),
            (".dockerignore", "a\nb"),
            (".containerignore", "c"),
            ("other", "d"),
        ];
        let found = |files, chosen| found(files, chosen).unwrap();
        assert_eq!(found(&[], None), None);
        assert_eq!(found(&all, Some("other")), Some(("other".into(), 1, 3)));
        assert_eq!(found(&all, None), Some(("D.dockerignore".into(), 0, 2)));
        assert_eq!(found(&all[1..], None), Some((".dockerignore".into(), 2, 1)));
        assert_eq!(found(&all[2..], None), Some((".containerignore".into(), 1, 0)));
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let told = |files, chosen| format!("{:#}", found(files, chosen).unwrap_err());
        assert!(told(&[], Some("absent")).contains("absent: No such file"));
        let wrong = [(".dockerignore", "a\n[")];
        assert!(told(&wrong, None).ends_with("/.dockerignore: line 2: syntax error in pattern: \"[\""));
    }
}
