//! What is installed in a root file system? Its layers' indexes say which files there are; only databases of package
//! managers and a few parts of programs are read. What a higher layer removed is not there.
//!
//! Invariant: everything that is read comes from strangers. Sizes are bounded, nothing panics, and what cannot be
//! understood is a note in the result, never left out in silence.

mod alpine;
mod debian;
mod elf;
mod languages;
pub mod package_url;
mod programs;
mod rpm;
mod sqlite;

use std::collections::BTreeSet;
use std::io::Read;

use anyhow::Context as _;
use rbuild_cache::View;
use rbuild_cache::layer::{Entry, Kind, LayerPath};
use rbuild_cache::tree::{Tree, resolve};

/// More than any database of installed packages.
const DATABASE_LIMIT: u64 = 256 << 20;
/// More than what a package of a language says of itself; its head is what counts.
const METADATA_LIMIT: u64 = 4 << 20;
/// More notes than anybody reads.
const MOST_NOTES: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The packages, sorted, each once.
    pub packages: Vec<Package>,
    /// What could not be read, in the order in which it was found.
    pub notes: Vec<String>,
    /// The distribution.
    pub system: Option<System>,
}

/// What `os-release` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// `ID`, for example `debian`.
    pub id: String,
    /// `VERSION_ID`, for example `12`; empty where there is none.
    pub version: String,
    /// What people call it.
    pub name: String,
}

/// An installed package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its type in package URLs: `deb`, `npm`.
    pub kind: &'static str,
    /// What stands before its name: a distribution, a scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version; may be empty.
    pub version: String,
    /// Further parts of its package URL.
    pub qualifiers: Vec<(&'static str, String)>,
    /// The licence that it declares.
    pub licence: Option<String>,
    /// The file that tells of it.
    pub source: String,
    /// The layer that has it, from 0 for the lowest.
    pub layer: Option<usize>,
}

impl Package {
    fn new(kind: &'static str, name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: String::new(),
            name: name.into(),
            version: version.into(),
            qualifiers: Vec::new(),
            licence: None,
            source: String::new(),
            layer: None,
        }
    }

    /// Its package URL.
    pub fn url(&self) -> String {
        package_url::of(self)
    }
}

/// Looks through the file system that `view` shows.
pub fn scan(view: &View) -> anyhow::Result<Inventory> {
    let mut scan = Scan {
        view,
        system: system(view)?,
        packages: BTreeSet::new(),
        notes: Vec::new(),
    };
    scan.walk()?;
    Ok(Inventory {
        packages: scan.packages.into_iter().collect(),
        notes: scan.notes,
        system: scan.system,
    })
}

struct Scan<'a> {
    view: &'a View,
    system: Option<System>,
    packages: BTreeSet<Package>,
    notes: Vec<String>,
}

impl Scan<'_> {
    fn walk(&mut self) -> anyhow::Result<()> {
        let mut pending = vec![LayerPath::root()];
        while let Some(directory) = pending.pop() {
            let entries = self.view.read_dir(&directory);
            for entry in entries.with_context(|| format!("looking for packages in {directory}"))? {
                if entry.is_dir() {
                    pending.push(entry.path);
                } else if matches!(entry.kind, Kind::File { .. }) {
                    self.file(&entry)
                        .with_context(|| format!("looking for packages in {}", entry.path))?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let path = entry.path.to_string();
        let path = path.trim_start_matches('/');
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        match (directory, name) {
            ("var/lib/dpkg", "status") => self.debian(entry, false),
            ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => self.debian(entry, true),
            ("lib/apk/db" | "usr/lib/apk/db", "installed") => {
                let Some(text) = self.read(entry, DATABASE_LIMIT)? else {
                    return Ok(());
                };
                let namespace = self.distribution("alpine");
                self.add(entry, alpine::packages(&text, &namespace, self.system.as_ref()));
                Ok(())
            }
            ("var/lib/rpm" | "usr/lib/sysimage/rpm" | "usr/share/rpm", "rpmdb.sqlite") => self.rpm(entry),
            ("var/lib/rpm" | "usr/lib/sysimage/rpm" | "usr/share/rpm", "Packages" | "Packages.db") => {
                self.note(format!(
                    "/{path}: this form of the rpm database is not read, its packages are missing here"
                ));
                Ok(())
            }
            (directory, "package.json") if languages::is_installed_module(directory) => {
                let Some(text) = self.read(entry, METADATA_LIMIT)? else {
                    return Ok(());
                };
                match languages::npm(&text) {
                    Ok(found) => self.add(entry, found),
                    Err(reason) => self.note(format!("/{path}: {reason}")),
                }
                Ok(())
            }
            (directory, name) if languages::is_python(directory, name) => {
                let Some(text) = self.read(entry, METADATA_LIMIT)? else {
                    return Ok(());
                };
                self.add(entry, languages::python(&text));
                Ok(())
            }
            _ if entry.mode & 0o111 != 0 || name.contains(".so") => self.program(entry),
            _ => Ok(()),
        }
    }

    fn debian(&mut self, entry: &Entry, alone: bool) -> anyhow::Result<()> {
        let Some(text) = self.read(entry, DATABASE_LIMIT)? else {
            return Ok(());
        };
        let namespace = self.distribution("debian");
        let found = debian::packages(&text, &namespace, self.system.as_ref());
        let own = self.view.layer_of(&entry.path)?;
        for mut package in found {
            package.source = entry.path.to_string();
            package.layer = own;
            // The list of its files is written when it is installed, the status whenever anything is.
            for list in debian::lists(&package).into_iter().filter(|_| !alone) {
                if let Some(layer) = self.view.layer_of(&LayerPath::clean(list.as_bytes()))? {
                    package.layer = Some(layer);
                    break;
                }
            }
            self.packages.insert(package);
        }
        Ok(())
    }

    fn rpm(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let file = self.view.parts(&entry.path)?;
        let namespace = self.distribution("redhat");
        match rpm::packages(&file, &namespace, self.system.as_ref()) {
            Ok((found, skipped)) => {
                self.add(entry, found);
                if skipped > 0 {
                    self.note(format!("{}: {skipped} packages could not be read", entry.path));
                }
            }
            Err(reason) => self.note(format!("{}: {reason}", entry.path)),
        }
        Ok(())
    }

    fn program(&mut self, entry: &Entry) -> anyhow::Result<()> {
        let Kind::File { size } = entry.kind else {
            return Ok(());
        };
        if size < elf::LEAST {
            return Ok(());
        }
        let file = self.view.parts(&entry.path)?;
        match programs::packages(&file) {
            Ok(found) => self.add(entry, found),
            Err(reason) => self.note(format!("{}: {reason}", entry.path)),
        }
        Ok(())
    }

    /// The bytes of a file, if there are not too many.
    fn read(&mut self, entry: &Entry, limit: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        let file = self.view.open(&entry.path)?;
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            self.note(format!(
                "{}: it has more than {limit} bytes and was not read",
                entry.path
            ));
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    fn add(&mut self, entry: &Entry, found: Vec<Package>) {
        if found.is_empty() {
            return;
        }
        let layer = self.view.layer_of(&entry.path).ok().flatten();
        for mut package in found {
            package.source = entry.path.to_string();
            package.layer = layer;
            self.packages.insert(package);
        }
    }

    fn note(&mut self, text: String) {
        match self.notes.len() {
            count if count < MOST_NOTES => self.notes.push(text),
            MOST_NOTES => self.notes.push("more could not be read".to_owned()),
            _ => {}
        }
    }

    /// What stands before the names of the distribution's packages.
    fn distribution(&self, usual: &str) -> String {
        let system = self.system.as_ref();
        system.map_or_else(|| usual.to_owned(), |system| system.id.clone())
    }
}

/// What the tree says of its distribution.
fn system(view: &View) -> anyhow::Result<Option<System>> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        let found = resolve(view, &LayerPath::clean(path.as_bytes()))?;
        let is_file = |entry: &Entry| matches!(entry.kind, Kind::File { .. });
        if !found.entry.as_ref().is_some_and(is_file) {
            continue;
        }
        let mut bytes = Vec::new();
        view.open(&found.path)?.take(64 << 10).read_to_end(&mut bytes)?;
        return Ok(os_release(&String::from_utf8_lossy(&bytes)));
    }
    Ok(None)
}

fn os_release(text: &str) -> Option<System> {
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    };
    let id = field("ID").filter(|id| !id.is_empty())?;
    let version = field("VERSION_ID").unwrap_or_default();
    let name = field("PRETTY_NAME").unwrap_or_else(|| format!("{id} {version}"));
    Some(System { id, version, name })
}

#[cfg(test)]
mod tests;
