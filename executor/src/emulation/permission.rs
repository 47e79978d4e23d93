//! Whether a process that believes not to be root may do what it asks for.
//!
//! To the kernel every process of the step is root and owns all files. What it would say to another user is found out
//! here, before it is asked: permissions for owner, group and others by the noted owner, search permission of the
//! directories on the way, the sticky bit. Access control lists are not looked at.

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::credentials::{Credentials, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KEEP};
use super::files::split;
use super::note::Note;
use super::task::{Place, Task, is_own};
use super::{Reply, Supervisor};

// What is wanted of a file, as in its mode.
pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const EXECUTE: u32 = 1;

/// File systems on which the kernel's owners are all that there is.
const LEFT_TO_THE_KERNEL: [&[u8]; 3] = [b"/proc/", b"/sys/", b"/dev/"];

/// What happens to a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameChange {
    /// It must not exist.
    Make,
    /// It must exist.
    Remove,
    /// It may.
    Replace,
}

/// A path as a call names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) directory: i32,
    pub(super) path: &'a [u8],
    /// Is a link at its end followed?
    pub(super) follow: bool,
}

impl Supervisor {
    /// The credentials of the task if there is anything that root may and it may not.
    pub(super) fn confined(&self, task: &Task<'_>) -> Result<Option<Credentials>, Errno> {
        if self.known.all_root() {
            return Ok(None);
        }
        let caller = self.known.of(task)?;
        Ok((!caller.can(DAC_OVERRIDE | FOWNER)).then(|| caller.clone()))
    }

    /// May it reach the file and have `wanted` of it? A path that leads nowhere is for the kernel to judge.
    pub(super) fn check_access(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
        wanted: u32,
    ) -> Result<(), Errno> {
        match self.reach(task, caller, named)? {
            Some((place, stat)) if wanted != 0 => self.check_mode(caller, &place, &stat, wanted),
            _ => Ok(()),
        }
    }

    /// May it make or remove the name at the path?
    pub(super) fn check_change_of_name(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
        change: NameChange,
    ) -> Result<(), Errno> {
        let Some((above, name)) = split(named.path) else {
            return Ok(());
        };
        let above = Named {
            path: above,
            follow: true,
            ..named
        };
        let Some((place, stat)) = self.reach(task, caller, above)? else {
            return Ok(());
        };
        self.check_mode(caller, &place, &stat, EXECUTE)?;
        let path = [place.path.as_slice(), b"/", name].concat();
        let found = rustix::fs::lstat(path.as_slice()).ok();
        match (change, found.is_some()) {
            // That it exists or does not is what the kernel finds first.
            (NameChange::Make, true) | (NameChange::Remove, false) => return Ok(()),
            _ => self.check_mode(caller, &place, &stat, WRITE)?,
        }
        if let Some(found) = found
            && stat.st_mode & 0o1000 != 0
            && !caller.can(FOWNER)
        {
            let owners = [
                self.owner(&path, false, &found).uid,
                self.owner(&place.path, true, &stat).uid,
            ];
            if !owners.contains(&caller.uid.file_system) {
                return Err(Errno::PERM);
            }
        }
        Ok(())
    }

    /// May it change what only the owner changes?
    pub(super) fn check_owner(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
    ) -> Result<(), Errno> {
        match self.reach(task, caller, named)? {
            Some((place, stat)) if !caller.can(FOWNER) => {
                if self.owner(&place.path, true, &stat).uid == caller.uid.file_system {
                    Ok(())
                } else {
                    Err(Errno::PERM)
                }
            }
            _ => Ok(()),
        }
    }

    /// May it set the times of the file, to now or to others?
    pub(super) fn check_times(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
        now: bool,
    ) -> Result<(), Errno> {
        let owner = self.check_owner(task, caller, named);
        match owner {
            Err(Errno::PERM) if now => self.check_access(task, caller, named, WRITE),
            result => result,
        }
    }

    pub(super) fn check_open(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
        flags: OFlags,
    ) -> Result<(), Errno> {
        let named = Named {
            follow: !flags.contains(OFlags::NOFOLLOW),
            ..named
        };
        if flags.contains(OFlags::PATH) {
            return self.check_access(task, caller, named, 0);
        }
        let mut wanted = match flags & OFlags::RWMODE {
            OFlags::WRONLY => WRITE,
            OFlags::RDWR => READ | WRITE,
            _ => READ,
        };
        if flags.contains(OFlags::TRUNC) {
            wanted |= WRITE;
        }
        if flags.contains(OFlags::TMPFILE) {
            return self.check_access(task, caller, named, WRITE | EXECUTE);
        }
        match self.reach(task, caller, named)? {
            Some((place, stat)) => self.check_mode(caller, &place, &stat, wanted),
            None if flags.contains(OFlags::CREATE) => {
                self.check_change_of_name(task, caller, named, NameChange::Make)
            }
            None => Ok(()),
        }
    }

    /// The file, if there is one and every directory on the way may be searched.
    fn reach(
        &self,
        task: &Task<'_>,
        caller: &Credentials,
        named: Named<'_>,
    ) -> Result<Option<(Place, Stat)>, Errno> {
        let Named {
            directory,
            path,
            follow,
        } = named;
        let found = task
            .place(&self.known, directory, path, follow)
            .and_then(Place::hold);
        let Ok(place) = found else { return Ok(None) };
        let stat = place.stat()?;
        if path.is_empty() || is_own(path) {
            return Ok(Some((place, stat)));
        }
        let real = rustix::fs::readlink(place.path.as_slice(), Vec::new())?.into_bytes();
        if real.first() != Some(&b'/') {
            return Ok(Some((place, stat)));
        }
        // Where a relative path begins, the process is already.
        let begin = match path.first() {
            Some(b'/') => 0,
            _ => {
                let base = task.place(&self.known, directory, b"", true)?;
                let base = rustix::fs::readlink(base.path.as_slice(), Vec::new())?.into_bytes();
                if real.starts_with(&base) {
                    base.len().max(1)
                } else {
                    0
                }
            }
        };
        let ends = real.iter().enumerate().filter(|(_, b)| **b == b'/');
        for (end, _) in ends.filter(|(end, _)| *end + 1 >= begin) {
            let above = if end == 0 { b"/" } else { &real[..end] };
            let stat = rustix::fs::lstat(above)?;
            self.check_mode_at(caller, above, &stat, EXECUTE)?;
        }
        Ok(Some((place, stat)))
    }

    fn check_mode(&self, caller: &Credentials, place: &Place, stat: &Stat, wanted: u32) -> Result<(), Errno> {
        if stat.st_dev == self.processes {
            return Ok(());
        }
        if let Ok(real) = rustix::fs::readlink(place.path.as_slice(), Vec::new()) {
            let real = real.as_bytes();
            let left = LEFT_TO_THE_KERNEL.iter().any(|prefix| real.starts_with(prefix));
            if left || real.first() != Some(&b'/') {
                return Ok(());
            }
        }
        self.check_mode_at(caller, &place.path, stat, wanted)
    }

    fn check_mode_at(
        &self,
        caller: &Credentials,
        path: &[u8],
        stat: &Stat,
        wanted: u32,
    ) -> Result<(), Errno> {
        if grants(caller, self.owner(path, true, stat), stat.st_mode, wanted) {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }

    fn owner(&self, path: &[u8], follow: bool, stat: &Stat) -> Note {
        let unnoted = Note {
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: None,
        };
        self.notes.get(path, follow, stat).unwrap_or(unnoted)
    }

    /// `access` asks for the real ids, and says what would be.
    pub(super) fn reply_to_access(
        &self,
        task: &Task<'_>,
        named: Named<'_>,
        wanted: u32,
        effective: bool,
    ) -> Result<Reply, Errno> {
        let mut caller = if self.known.all_root() {
            return Ok(Reply::Continue);
        } else {
            self.known.of(task)?.clone()
        };
        if !effective {
            caller.uid.file_system = caller.uid.real;
            caller.gid.file_system = caller.gid.real;
            caller.capabilities.effective = match caller.uid.real {
                0 => caller.capabilities.permitted,
                _ => 0,
            };
        }
        if !caller.can(DAC_OVERRIDE) {
            self.check_access(task, &caller, named, wanted & 7)?;
        }
        Ok(Reply::Continue)
    }
}

/// What generic_permission() of the kernel says.
fn grants(caller: &Credentials, owner: Note, mode: u32, wanted: u32) -> bool {
    let directory = FileType::from_raw_mode(mode) == FileType::Directory;
    if caller.can(DAC_OVERRIDE) && (directory || wanted & EXECUTE == 0 || mode & 0o111 != 0) {
        return true;
    }
    let searches = directory && wanted & WRITE == 0 || wanted == READ;
    if caller.can(DAC_READ_SEARCH) && searches {
        return true;
    }
    debug_assert_ne!(caller.uid.file_system, KEEP);
    let granted = if caller.uid.file_system == owner.uid {
        mode >> 6
    } else if caller.is_in_group(owner.gid) {
        mode >> 3
    } else {
        mode
    };
    wanted & !granted & 7 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_fits_decides() {
        let user = Credentials::first(5, 6, vec![6, 7], u64::MAX);
        let owned = |uid, gid| Note {
            uid,
            gid,
            device: None,
        };
        let file = libc::S_IFREG;
        for (owner, mode, wanted, granted) in [
            (owned(5, 6), 0o400, READ, true),
            (owned(5, 6), 0o077, READ, false),
            (owned(0, 7), 0o060, READ | WRITE, true),
            (owned(0, 7), 0o604, READ, false),
            (owned(0, 0), 0o644, READ, true),
            (owned(0, 0), 0o644, WRITE, false),
            (owned(0, 0), 0o755, EXECUTE, true),
            (owned(0, 0), 0o750, 0, true),
        ] {
            assert_eq!(
                grants(&user, owner, file | mode, wanted),
                granted,
                "{owner:?} {mode:o} {wanted}"
            );
        }
        let root = Credentials::first(0, 0, vec![0], u64::MAX);
        assert!(grants(&root, owned(5, 5), file, READ | WRITE));
        assert!(!grants(&root, owned(5, 5), file | 0o600, EXECUTE));
        assert!(grants(&root, owned(5, 5), libc::S_IFDIR, EXECUTE));
    }
}
