//! Records of builds: what each step of a build was given, for the question why the next one does a step again.
//!
//! `builds/v1/<lineage>.<variant>.<result>`: builds of one *lineage* (a context and a Dockerfile) follow each other; a
//! *variant* is what is asked of it (target, platforms); the *result* is what all keys of the build come to. The
//! modification time says when a build last came to this result. What is in a record is the caller's.

use std::collections::HashSet;
use std::io::Read;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Timespec, Timestamps};
use serde::{Deserialize, Serialize};

use crate::digest::Key;
use crate::directory::{Directory, disk_bytes};
use crate::error::StoreError;
use crate::store::Store;

const MAGIC: &[u8] = b"rbuild-build 1\n";
/// Digits of each part of a name.
const DIGITS: usize = 16;
/// Records of one lineage and variant.
const KEPT_OF_VARIANT: usize = 8;
/// A larger record is not kept.
const LARGEST: usize = 16 << 20;
/// Records of all, with their lists of files: what a prune leaves, and what one of everything does.
const KEPT_BYTES: u64 = 64 << 20;
const KEPT_BYTES_AFTER_ALL: u64 = 256 << 10;

/// What a build is a repetition of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildName {
    /// Context and Dockerfile.
    pub lineage: Key,
    /// Target and platforms.
    pub variant: Key,
    /// All keys.
    pub result: Key,
}

impl BuildName {
    fn prefix(key: &Key) -> String {
        key.hex()[..DIGITS].to_owned()
    }

    fn of_variant(&self) -> String {
        let (lineage, variant) = (Self::prefix(&self.lineage), Self::prefix(&self.variant));
        format!("{lineage}.{variant}.")
    }

    fn file(&self) -> String {
        self.of_variant() + &Self::prefix(&self.result)
    }
}

/// A record of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBuild {
    /// The lists of files that `document` names ([`Store::put_list`]).
    pub lists: Vec<Key>,
    /// Whatever the caller keeps.
    pub document: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    at: (u64, u32),
    lists: Vec<Key>,
    document: String,
}

/// A record of a build that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundBuild {
    /// The record.
    pub build: KeptBuild,
    /// When a build last came to this result.
    pub used: SystemTime,
    /// Whether that was a later build than the one that wrote the record: all of it was cached.
    pub repeated: bool,
}

impl Store {
    /// Keeps the record of a build, replacing one with the same result. Older ones of its kind go.
    pub fn put_build(&self, name: &BuildName, build: &KeptBuild) -> Result<(), StoreError> {
        let builds = self.0.root.ensure_child("builds")?.ensure_child("v1")?;
        let file = name.file();
        let now = now();
        let stored = Stored {
            at: (now.as_secs(), now.subsec_nanos()),
            lists: build.lists.clone(),
            document: build.document.clone(),
        };
        let fail = |error| StoreError::io("encoding", builds.path_of(&file), error);
        let text = serde_json::to_vec(&stored).map_err(|error| fail(error.into()))?;
        let packed = zstd::bulk::compress(&text, 1).map_err(fail)?;
        if packed.len() > LARGEST {
            return Ok(());
        }
        let bytes = [MAGIC, blake3::hash(&packed).as_bytes(), &packed].concat();
        self.replace_file(&builds, &file, &bytes, false)?;
        // A prune that did not see the record may have removed what it names.
        if !self.has_whole_lists(&build.lists)? {
            return builds.unlink(&file);
        }
        set_time(&builds, &file, now)?;
        let kin = name.of_variant();
        let mut others = all_builds(&builds)?;
        others.retain(|other| other.name.starts_with(&kin));
        let excess = others.len().saturating_sub(KEPT_OF_VARIANT);
        others
            .iter()
            .take(excess)
            .try_for_each(|other| builds.unlink(&other.name))
    }

    /// Notes that a build came to a result that has a record; `false` when there is none.
    pub fn touch_build(&self, name: &BuildName) -> Result<bool, StoreError> {
        let Some(builds) = self.builds()? else {
            return Ok(false);
        };
        set_time(&builds, &name.file(), now())
    }

    /// The last build of the lineage, by preference of the same variant.
    pub fn last_build(&self, lineage: &Key, variant: &Key) -> Result<Option<FoundBuild>, StoreError> {
        let name = BuildName {
            lineage: *lineage,
            variant: *variant,
            result: Key([0; 32]),
        };
        let same = name.of_variant();
        let kin = format!("{}.", BuildName::prefix(lineage));
        let found = self.newest_build(|name| name.starts_with(&same))?;
        match found {
            Some(found) => Ok(Some(found)),
            None => self.newest_build(|name| name.starts_with(&kin)),
        }
    }

    /// The last build of all.
    pub fn latest_build(&self) -> Result<Option<FoundBuild>, StoreError> {
        self.newest_build(|_| true)
    }

    /// Removes the oldest records until they and their lists are small enough, and lists that no record names.
    pub(crate) fn trim_builds(&self, all: bool) -> Result<(), StoreError> {
        let limit = if all { KEPT_BYTES_AFTER_ALL } else { KEPT_BYTES };
        let Some(builds) = self.builds()? else {
            self.retain_lists(&HashSet::new())?;
            return Ok(());
        };
        let mut kept = Vec::new();
        for build in all_builds(&builds)? {
            match read(&builds, &build.name)? {
                Some(stored) => kept.push((build, stored.lists)),
                None => builds.unlink(&build.name)?,
            }
        }
        loop {
            let lists: HashSet<Key> = kept.iter().flat_map(|(_, lists)| lists).copied().collect();
            let bytes = kept.iter().map(|(build, _)| build.bytes).sum::<u64>() + self.retain_lists(&lists)?;
            if bytes <= limit || kept.is_empty() {
                // Of builds that ended meanwhile: each looks for its lists once its record is there.
                for build in all_builds(&builds)? {
                    if let Some(stored) = read(&builds, &build.name)?
                        && !self.has_whole_lists(&stored.lists)?
                    {
                        builds.unlink(&build.name)?;
                    }
                }
                return Ok(());
            }
            // Half at once: each round looks at all lists.
            for (build, _) in kept.drain(..kept.len().div_ceil(2)) {
                builds.unlink(&build.name)?;
            }
        }
    }

    fn has_whole_lists(&self, lists: &[Key]) -> Result<bool, StoreError> {
        for list in lists {
            if !self.has_whole_list(list)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn builds(&self) -> Result<Option<Directory>, StoreError> {
        match self.0.root.child("builds").and_then(|builds| builds.child("v1")) {
            Ok(builds) => Ok(Some(builds)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("opening", self.0.root.path_of("builds"), error)),
        }
    }

    /// The newest record whose name is `wanted`; those that cannot be read are passed over.
    fn newest_build(&self, wanted: impl Fn(&str) -> bool) -> Result<Option<FoundBuild>, StoreError> {
        let Some(builds) = self.builds()? else {
            return Ok(None);
        };
        for build in all_builds(&builds)?.into_iter().rev() {
            if wanted(&build.name)
                && let Some(stored) = read(&builds, &build.name)?
            {
                let written = SystemTime::UNIX_EPOCH + Duration::new(stored.at.0, stored.at.1);
                return Ok(Some(FoundBuild {
                    build: KeptBuild {
                        lists: stored.lists,
                        document: stored.document,
                    },
                    used: build.used,
                    repeated: build.used > written,
                }));
            }
        }
        Ok(None)
    }
}

impl Store {
    /// Records of builds and lists that are not sound, by their directory, and why.
    pub(crate) fn damaged_history(&self) -> Result<Vec<(Directory, String, &'static str)>, StoreError> {
        let mut damaged = Vec::new();
        if let Some(builds) = self.builds()? {
            for name in builds.text_names()? {
                match read(&builds, &name) {
                    Ok(Some(stored)) => {
                        for list in stored.lists {
                            if !self.has_whole_list(&list)? {
                                let again = self.builds()?;
                                let lost = "names a list of files that is lost";
                                damaged.extend(again.map(|builds| (builds, name.clone(), lost)));
                            }
                        }
                    }
                    Ok(None) | Err(_) if builds.stat(&name)?.is_some() => {
                        let again = self.builds()?;
                        damaged.extend(again.map(|builds| (builds, name.clone(), "its checksum is wrong")));
                    }
                    Ok(None) | Err(_) => {}
                }
            }
        }
        damaged.extend(self.damaged_lists()?);
        Ok(damaged)
    }
}

struct Known {
    name: String,
    used: SystemTime,
    bytes: u64,
}

/// All records, the oldest first.
fn all_builds(builds: &Directory) -> Result<Vec<Known>, StoreError> {
    let mut known = Vec::new();
    for name in builds.text_names()? {
        let Some(stat) = builds.stat(&name)? else { continue };
        let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        known.push(Known {
            name,
            used: SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(stat.st_mtime_nsec),
            bytes: disk_bytes(stat.st_blocks),
        });
    }
    known.sort_by(|a, b| (a.used, &a.name).cmp(&(b.used, &b.name)));
    Ok(known)
}

fn read(builds: &Directory, name: &str) -> Result<Option<Stored>, StoreError> {
    let Some(mut file) = builds.open_file(name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| StoreError::io("reading", builds.path_of(name), error))?;
    let packed = bytes
        .strip_prefix(MAGIC)
        .and_then(|rest| rest.split_at_checked(32))
        .filter(|(found, packed)| found == blake3::hash(packed).as_bytes());
    let Some((_, packed)) = packed else {
        return Ok(None);
    };
    let text = zstd::stream::decode_all(packed)
        .map_err(|error| StoreError::io("decompressing", builds.path_of(name), error))?;
    Ok(serde_json::from_slice(&text).ok())
}

/// Since 1970. The clock that files get their times from (`UTIME_NOW`) is a coarser one and comes behind.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// `false` when there is no such file.
fn set_time(builds: &Directory, name: &str, time: Duration) -> Result<bool, StoreError> {
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    match rustix::fs::utimensat(builds, name, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(errno) => Err(StoreError::io("setting the time of", builds.path_of(name), errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(lineage: u8, variant: u8, result: u8) -> BuildName {
        BuildName {
            lineage: Key([lineage; 32]),
            variant: Key([variant; 32]),
            result: Key([result; 32]),
        }
    }

    fn build(text: &str) -> KeptBuild {
        KeptBuild {
            lists: Vec::new(),
            document: text.to_owned(),
        }
    }

    fn last(store: &Store, lineage: u8, variant: u8) -> Option<(String, bool)> {
        let found = store
            .last_build(&Key([lineage; 32]), &Key([variant; 32]))
            .unwrap();
        found.map(|found| (found.build.document, found.repeated))
    }

    #[test]
    fn builds_follow_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        assert_eq!(last(&store, 1, 1), None);
        assert!(!store.touch_build(&name(1, 1, 1)).unwrap());
        for n in 1..=12 {
            store
                .put_build(&name(1, 1, n), &build(&format!("build {n}")))
                .unwrap();
        }
        assert_eq!(last(&store, 1, 1), Some(("build 12".to_owned(), false)));
        assert_eq!(
            std::fs::read_dir(store.root().join("builds/v1")).unwrap().count(),
            8
        );
        assert!(store.touch_build(&name(1, 1, 6)).unwrap());
        assert_eq!(last(&store, 1, 1), Some(("build 6".to_owned(), true)));
        store.put_build(&name(1, 1, 6), &build("again")).unwrap();
        assert_eq!(last(&store, 1, 1), Some(("again".to_owned(), false)));

        // Another variant only while there is none of the same.
        assert_eq!(last(&store, 1, 2).unwrap().0, "again");
        store.put_build(&name(1, 2, 1), &build("other")).unwrap();
        assert_eq!(last(&store, 1, 2).unwrap().0, "other");
        assert_eq!(last(&store, 1, 1).unwrap().0, "again");
        assert_eq!(last(&store, 2, 1), None);
        assert_eq!(store.latest_build().unwrap().unwrap().build.document, "other");

        // A damaged one is passed over.
        let path = store.root().join("builds/v1").join(name(1, 2, 1).file());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(last(&store, 1, 2).unwrap().0, "again", "{at}");
        }
    }

    /// A build writes its lists, then the record that names them. A prune in between sees lists that nobody names.
    #[test]
    fn a_record_never_names_lists_that_a_prune_took() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let list = Key([1; 32]);
        let put_list = || store.put_list(&list, || [("x", "y")]).unwrap();
        let mut build = build("build");
        build.lists.push(list);
        put_list();
        store.trim_builds(false).unwrap();
        store.put_build(&name(1, 1, 1), &build).unwrap();
        assert_eq!(last(&store, 1, 1), None);
        // Of a record that is there, they stay.
        put_list();
        store.put_build(&name(1, 1, 1), &build).unwrap();
        store.trim_builds(false).unwrap();
        assert_eq!(last(&store, 1, 1).unwrap().0, "build");
        assert!(store.damaged_history().unwrap().is_empty());

        // However the two meet.
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    store.trim_builds(false).unwrap();
                }
            });
            for n in 0..200 {
                let list = Key([n; 32]);
                store.put_list(&list, || [(n.to_string(), "y")]).unwrap();
                build.lists = vec![list];
                store.put_build(&name(2, n % 5, n), &build).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(store.damaged_history().unwrap().is_empty());
    }

    #[test]
    fn a_prune_leaves_the_newest() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let random = |n: u8| (0..20_000).map(move |i: u32| blake3::hash(&[n, i as u8, (i >> 8) as u8]));
        for n in 1..=4 {
            let list = Key([n; 32]);
            store
                .put_list(&list, || random(n).map(|hash| (hash.to_string(), [0])))
                .unwrap();
            let mut build = build(&format!("build {n}"));
            build.lists.push(list);
            store.put_build(&name(n, 1, 1), &build).unwrap();
        }
        store.put_list(&Key([9; 32]), || [("x", "y")]).unwrap();
        let files = |part: &str| std::fs::read_dir(store.root().join(part)).unwrap().count();
        let before = files("lists/v1");
        store.trim_builds(false).unwrap();
        assert_eq!((files("builds/v1"), files("lists/v1")), (4, before - 2));
        store.trim_builds(true).unwrap();
        assert!(files("builds/v1") < 4);
        let disk: u64 = ["builds/v1", "lists/v1"]
            .iter()
            .flat_map(|part| std::fs::read_dir(store.root().join(part)).unwrap())
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(disk <= KEPT_BYTES_AFTER_ALL, "{disk}");
    }
}
