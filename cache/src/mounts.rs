//! Directories that outlive builds (`RUN --mount=type=cache`).
//!
//! ```text
//! mounts/v1/<key>[-noted][.<n>]/data   what a step sees; <n> counts the copies of a private cache
//!                       lock     shared by those who use it together, exclusive for who uses it alone
//!                       users/   one file per step that uses it, locked as long as that step's builder lives
//!                       id       what the Dockerfile calls it
//! ```
//!
//! A cache appears by one rename. Names are digests: nothing that a Dockerfile says becomes a path. A step that ends,
//! well or not, removes its file in `users/`; one that is killed with or by its builder leaves it, without a lock: so the
//! next user learns that files may be half-written. They are kept all the same, because tools guard their caches
//! against that, and a cache that is lost costs more than one that is checked.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, Gid, OFlags, Uid};

use crate::digest::Key;
use crate::directory::{Directory, c_name, disk_usage};
use crate::error::StoreError;
use crate::layer::{Entry, Kind, LayerPath, Ownership, Timestamp, note_owner};
use crate::lock::lock;
use crate::store::Store;

/// Copies of a private cache that are used at the same time, at most.
const MOST_COPIES: u32 = 1000;
/// Bytes that are read of a file that names a user.
const NAME_LIMIT: u64 = 4096;

const DATA: &str = "data";
const LOCK: &str = "lock";
const USERS: &str = "users";
const ID: &str = "id";

/// Who may use a cache beside the one who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Others who share it.
    Shared,
    /// Nobody: others wait, or it waits for them.
    Locked,
    /// Nobody: another copy is taken when somebody uses it.
    Private,
}

/// Which cache, and how it begins.
#[derive(Debug)]
pub struct CacheMountRequest<'a> {
    /// Digest of all that makes it another cache.
    pub key: Key,
    /// What the Dockerfile calls it, for people.
    pub id: &'a str,
    /// Who may use it at the same time.
    pub sharing: CacheUse,
    /// Permission bits of a new one.
    pub mode: u32,
    /// Owner and group of a new one.
    pub owner: (u32, u32),
    /// Who asks, for those who wait.
    pub user: &'a str,
}

/// A cache in use. Dropped without [`CacheMount::finish`] it counts as left by a killed step.
#[derive(Debug)]
pub struct CacheMount {
    data: PathBuf,
    users: Directory,
    mark: String,
    left: Vec<(String, String)>,
    _lock: File,
    _mark: File,
}

/// What came of asking for a cache.
#[derive(Debug)]
pub enum CacheMountFound {
    /// It is there.
    Ready(CacheMount),
    /// Others use it; who, as far as they said.
    Busy(Vec<String>),
}

impl CacheMount {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.data
    }

    /// Steps that were killed while they used it, and none of which a later step ended well.
    pub fn left_by(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(|(_, user)| user.as_str())
    }

    /// The step has ended by itself.
    pub fn finish(self) -> Result<(), StoreError> {
        for name in self.left.iter().map(|(name, _)| name).chain([&self.mark]) {
            self.users.unlink(name)?;
        }
        Ok(())
    }
}

impl Store {
    /// Takes a cache, which is made when there is none: `seed` fills the new, empty directory. Does not wait for other users.
    pub fn cache_mount(
        &self,
        request: &CacheMountRequest<'_>,
        seed: &mut dyn FnMut(&Path) -> Result<(), StoreError>,
    ) -> Result<CacheMountFound, StoreError> {
        let copies = if request.sharing == CacheUse::Private {
            MOST_COPIES
        } else {
            1
        };
        // The owners of one are nobody's for those who keep owners otherwise.
        let kept = match self.ownership() {
            Ownership::Real => "",
            Ownership::Emulated => "-noted",
        };
        let mut busy = Vec::new();
        for copy in 0..copies {
            let name = match copy {
                0 => format!("{}{kept}", request.key.hex()),
                copy => format!("{}{kept}.{copy}", request.key.hex()),
            };
            let directory = match self.0.mounts.child(&name) {
                Ok(directory) => directory,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_cache_mount(&name, request, seed)?;
                    let place = self.0.mounts.path_of(&name);
                    let made = self.0.mounts.child(&name);
                    made.map_err(|error| StoreError::io("opening", place, error))?
                }
                Err(error) => return Err(StoreError::io("opening", self.0.mounts.path_of(&name), error)),
            };
            let taken = {
                let _inside = self.0.gate.enter()?;
                if self.0.mounts.stat(&name)?.is_none() {
                    // A prune was faster: once more, with a new one.
                    return self.cache_mount(request, seed);
                }
                take(directory, request)?
            };
            match taken {
                CacheMountFound::Busy(users) => busy = users,
                ready => return Ok(ready),
            }
        }
        Ok(CacheMountFound::Busy(busy))
    }

    fn make_cache_mount(
        &self,
        name: &str,
        request: &CacheMountRequest<'_>,
        seed: &mut dyn FnMut(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let _lock = self.lock_key(&request.key)?;
        if self.0.mounts.stat(name)?.is_some() {
            return Ok(());
        }
        let staged = self.temp_dir()?;
        let data = staged.path().join(DATA);
        let fail = |error: io::Error| StoreError::io("making a cache in", staged.path(), error);
        fs::create_dir(&data).map_err(fail)?;
        seed(&data)?;
        let (uid, gid) = request.owner;
        if self.ownership() == Ownership::Emulated {
            let entry = Entry {
                path: LayerPath::root(),
                kind: Kind::Directory { opaque: false },
                mode: request.mode,
                uid,
                gid,
                mtime: Timestamp::default(),
                xattrs: Vec::new(),
            };
            note_owner(&data, &entry).map_err(fail)?;
        } else {
            rustix::fs::chown(&data, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|errno| match errno {
                    rustix::io::Errno::INVAL => io::Error::other(format!(
                        "its owner {uid}:{gid} is outside the ids that the builder has"
                    )),
                    errno => errno.into(),
                })
                .map_err(fail)?;
        }
        fs::set_permissions(&data, fs::Permissions::from_mode(request.mode & 0o7777)).map_err(fail)?;
        fs::create_dir(staged.path().join(USERS)).map_err(fail)?;
        fs::write(staged.path().join(LOCK), b"").map_err(fail)?;
        fs::write(staged.path().join(ID), request.id).map_err(fail)?;
        staged.persist(&self.0.mounts.path_of(name))
    }
}

/// A cache as a prune sees it.
#[derive(Debug)]
pub(crate) struct FoundCacheMount {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) used: SystemTime,
    pub(crate) bytes: u64,
}

impl Store {
    /// All caches. A file with several names counts once.
    pub(crate) fn all_cache_mounts(
        &self,
        seen: &mut HashSet<(u64, u64)>,
    ) -> Result<Vec<FoundCacheMount>, StoreError> {
        let mounts = &self.0.mounts;
        let mut all = Vec::new();
        for name in mounts.text_names()? {
            let fail = |error: io::Error| StoreError::io("measuring", mounts.path_of(&name), error);
            let directory = mounts.child(&name).map_err(fail)?;
            let mut id = String::new();
            if let Some(file) = directory.open_file(ID)? {
                // One that cannot be read is as good as none: it is only shown.
                let _ = file.take(NAME_LIMIT).read_to_string(&mut id);
            }
            // Whoever takes a cache makes a file there.
            let used = directory.stat(USERS)?.map(|stat| modified(&stat));
            let bytes = c_name(directory.path())
                .and_then(|name| disk_usage(mounts.as_fd(), &name, seen))
                .map_err(fail)?;
            all.push(FoundCacheMount {
                name,
                id,
                used: used.unwrap_or(SystemTime::UNIX_EPOCH),
                bytes,
            });
        }
        Ok(all)
    }

    /// Whether a step uses the cache `name`. Call it with the gate closed, so that none begins to.
    pub(crate) fn is_cache_mount_used(&self, name: &str) -> Result<bool, StoreError> {
        let mounts = &self.0.mounts;
        let directory = match mounts.child(name) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("opening", mounts.path_of(name), error)),
        };
        let Some(file) = directory.open_file(LOCK)? else {
            return Ok(false);
        };
        Ok(lock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
    }
}

fn modified(stat: &rustix::fs::Stat) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0))
}

fn take(directory: Directory, request: &CacheMountRequest<'_>) -> Result<CacheMountFound, StoreError> {
    let users = directory.ensure_child(USERS)?;
    let fail = |error| StoreError::io("locking", directory.path_of(LOCK), error);
    let file = directory
        .file(LOCK, OFlags::RDWR | OFlags::CREATE)
        .map_err(fail)?;
    let operation = match request.sharing {
        CacheUse::Shared => FlockOperation::NonBlockingLockShared,
        CacheUse::Locked | CacheUse::Private => FlockOperation::NonBlockingLockExclusive,
    };
    match lock(&file, operation) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok(CacheMountFound::Busy(look_at(&users)?.living));
        }
        Err(error) => return Err(fail(error)),
    }
    let left = look_at(&users)?.left;
    let (mark, held) = mark(&users, request.user)?;
    Ok(CacheMountFound::Ready(CacheMount {
        data: directory.path_of(DATA),
        users,
        mark,
        left,
        _lock: file,
        _mark: held,
    }))
}

/// Who has a file there.
#[derive(Default)]
struct Users {
    living: Vec<String>,
    /// Those who were killed, with the names of their files.
    left: Vec<(String, String)>,
}

fn look_at(users: &Directory) -> Result<Users, StoreError> {
    let Users { mut living, mut left } = Users::default();
    for name in users.text_names()? {
        // One that is gone has just ended.
        let Some(file) = users.open_file(&name)? else {
            continue;
        };
        let mut text = String::new();
        if (&file).take(NAME_LIMIT).read_to_string(&mut text).is_err() {
            "somebody".clone_into(&mut text);
        }
        if text.is_empty() {
            // Made this moment: it will lock it, and then write.
            continue;
        }
        match lock(&file, FlockOperation::NonBlockingLockShared) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => living.push(text),
            _ => left.push((name, text)),
        }
    }
    living.sort();
    left.sort();
    Ok(Users { living, left })
}

/// Makes and locks a file that names the user.
fn mark(users: &Directory, user: &str) -> Result<(String, File), StoreError> {
    let user = format!("{user} (pid {})", std::process::id());
    loop {
        let name = format!("{:016x}", u64::from_le_bytes(crate::temporary::random(users)?));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fail = |error| StoreError::io("writing", users.path_of(&name), error);
        let mut file = match users.file(&name, flags) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(fail)?,
        };
        lock(&file, FlockOperation::LockExclusive).map_err(fail)?;
        file.write_all(user.as_bytes()).map_err(fail)?;
        return Ok((name, file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gc::{PruneKind, PruneOptions, PruneReport};

    fn request(sharing: CacheUse) -> CacheMountRequest<'static> {
        CacheMountRequest {
            key: Key([3; 32]),
            id: "../../x",
            sharing,
            mode: 0o750,
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            user: "RUN make",
        }
    }

    fn ready(store: &Store, sharing: CacheUse) -> CacheMount {
        match store.cache_mount(&request(sharing), &mut |_| Ok(())).unwrap() {
            CacheMountFound::Ready(mount) => mount,
            CacheMountFound::Busy(users) => panic!("used by {users:?}"),
        }
    }

    fn busy(store: &Store, sharing: CacheUse) -> Vec<String> {
        match store.cache_mount(&request(sharing), &mut |_| Ok(())).unwrap() {
            CacheMountFound::Ready(_) => panic!("nobody uses it"),
            CacheMountFound::Busy(users) => users,
        }
    }

    #[test]
    fn caches_are_shared_locked_or_copied() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let one = ready(&store, CacheUse::Shared);
        fs::write(one.path().join("file"), b"x").unwrap();
        let two = ready(&store, CacheUse::Shared);
        assert_eq!(one.path(), two.path());
        let mode = fs::metadata(one.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        let user = format!("RUN make (pid {})", std::process::id());
        assert_eq!(busy(&store, CacheUse::Locked), [user.clone(), user.clone()]);
        let own = ready(&store, CacheUse::Private);
        assert_ne!(own.path(), one.path());
        assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
        for mount in [one, two, own] {
            mount.finish().unwrap();
        }
        let again = ready(&store, CacheUse::Private);
        assert!(again.path().join("file").exists());
        assert_eq!(busy(&store, CacheUse::Shared), [user]);
        assert_eq!(store.0.mounts.names().unwrap().len(), 2);
    }

    #[test]
    fn only_a_prune_that_means_them_removes_them() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let mount = ready(&store, CacheUse::Shared);
        fs::write(mount.path().join("file"), [7; 20_000]).unwrap();
        mount.finish().unwrap();
        let prune = |all: bool, kind| {
            let options = PruneOptions {
                all,
                kind,
                ..PruneOptions::default()
            };
            store.prune(&options).unwrap()
        };
        assert_eq!(prune(false, None), PruneReport::default());
        assert!(prune(true, Some(PruneKind::Regular)).mounts.is_empty());
        let report = prune(false, Some(PruneKind::CacheMounts));
        assert_eq!(report.mounts, ["../../x"]);
        assert!(report.freed >= 20_000, "{report:?}");
        assert_eq!(store.0.mounts.names().unwrap().len(), 0);
        ready(&store, CacheUse::Shared).finish().unwrap();
        assert_eq!(prune(true, None).mounts, ["../../x"]);
    }

    #[test]
    fn a_killed_step_is_remembered_until_one_ends() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        drop(ready(&store, CacheUse::Locked));
        let second = ready(&store, CacheUse::Locked);
        assert_eq!(second.left_by().count(), 1);
        drop(second);
        let third = ready(&store, CacheUse::Shared);
        assert_eq!(third.left_by().count(), 2);
        third.finish().unwrap();
        assert_eq!(ready(&store, CacheUse::Shared).left_by().count(), 0);
    }

    #[test]
    fn a_new_one_is_filled_once_or_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let failed = store.cache_mount(&request(CacheUse::Shared), &mut |_| {
            Err(StoreError::io("seeding", "x", io::ErrorKind::Other))
        });
        assert!(failed.is_err());
        let mut seeded = 0;
        for _ in 0..2 {
            let mut seed = |data: &Path| {
                seeded += 1;
                fs::write(data.join("seed"), b"x").map_err(|error| StoreError::io("seeding", data, error))
            };
            let mount = store.cache_mount(&request(CacheUse::Shared), &mut seed).unwrap();
            assert!(matches!(mount, CacheMountFound::Ready(mount) if mount.path().join("seed").exists()));
        }
        assert_eq!(seeded, 1);
    }
}
