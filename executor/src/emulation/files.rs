//! Calls that tell, change or give the owner of a file.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, StatxFlags, Uid};
use rustix::io::Errno;

use super::credentials::{CHOWN, Credentials, KEEP, MKNOD, SETFCAP};
use super::note::{CAPABILITY, Device, Note, RESERVED};
use super::task::{Place, Task};
use super::{Reply, Supervisor};
use crate::sys;

/// The longest list of names of attributes, and more than the longest name.
const LIST_MAX: usize = 64 << 10;
const NAME_MAX: usize = 256;

/// Where the answer to a question about a file goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Stat { to: u64 },
    Statx { to: u64, flags: u32, mask: u32 },
}

/// What is made at a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum New<'a> {
    /// Opened with these flags; the permissions it gets.
    File(OFlags, u32),
    Directory(u32),
    /// Type and permissions, device.
    Node(u32, u64),
    /// What it leads to.
    Symlink(&'a [u8]),
}

impl Supervisor {
    /// The kernel knows the answer but for files with a note.
    pub(super) fn stat(&self, task: &Task<'_>, place: Place, asked: Asked) -> Result<Reply, Errno> {
        // What is wrong with the path, the kernel says.
        let Ok(stat) = place.stat() else {
            return Ok(Reply::Continue);
        };
        match self.notes.get(&place.path, place.follow, &stat) {
            None => return Ok(Reply::Continue),
            Some(note) if note == Note::default() => return Ok(Reply::Continue),
            Some(_) => {}
        }
        let place = place.hold()?;
        let mut stat = place.stat()?;
        let note = self.notes.get(&place.path, true, &stat).unwrap_or_default();
        match asked {
            Asked::Stat { to } => {
                note.show(&mut stat);
                task.write(to, &sys::bytes_of(&stat))?;
            }
            Asked::Statx { to, flags, mask } => {
                let sync = AtFlags::from_bits_retain(flags) & AtFlags::from_bits_retain(0x6000);
                let mask = StatxFlags::from_bits_retain(mask);
                let mut told = rustix::fs::statx(place.fd(), "", sync | AtFlags::EMPTY_PATH, mask)?;
                note.show(&mut stat);
                told.stx_uid = note.uid;
                told.stx_gid = note.gid;
                told.stx_mode = stat.st_mode as u16;
                if let Some(device) = note.device {
                    told.stx_rdev_major = device.major;
                    told.stx_rdev_minor = device.minor;
                }
                task.write(to, &sys::bytes_of(&told))?;
            }
        }
        Ok(Reply::Value(0))
    }

    pub(super) fn chown(
        &mut self,
        task: &Task<'_>,
        place: Place,
        uid: u32,
        gid: u32,
    ) -> Result<Reply, Errno> {
        let place = place.hold()?;
        let stat = place.stat()?;
        let old = self.notes.get(&place.path, true, &stat).unwrap_or_default();
        let caller = self.known.of(task)?;
        if !may_chown(caller, old, uid, gid) {
            return Err(Errno::PERM);
        }
        task.check()?;
        // The kernel does all that belongs to it: it copies the file up, takes set-id bits and capabilities away, refuses
        // where nothing can be changed.
        let own = |id: u32| (id != KEEP).then_some(0);
        rustix::fs::chownat(
            place.fd(),
            "",
            own(uid).map(Uid::from_raw),
            own(gid).map(Gid::from_raw),
            AtFlags::EMPTY_PATH,
        )?;
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        let note = Note {
            uid: or(uid, old.uid),
            gid: or(gid, old.gid),
            ..old
        };
        // What was copied up is another inode.
        let stat = place.stat()?;
        if note != Note::default() || self.notes.get(&place.path, true, &stat).is_some() {
            self.notes.set(&place.path, &stat, note)?;
        }
        Ok(Reply::Value(0))
    }

    /// Whoever creates a file owns it, and a setgid directory gives it its group. For root elsewhere, that is what the kernel
    /// does.
    pub(super) fn create(
        &mut self,
        task: &Task<'_>,
        directory: i32,
        path: &[u8],
        new: New<'_>,
    ) -> Result<Reply, Errno> {
        if let New::File(flags, _) = new
            && flags.contains(OFlags::TMPFILE)
        {
            return self.create_nameless(task, directory, path, new);
        }
        let Some((above, name)) = split(path) else {
            return Ok(Reply::Continue);
        };
        let Ok(above) = task
            .place(&self.known, directory, above, true)
            .and_then(Place::hold)
        else {
            return Ok(Reply::Continue);
        };
        let stat = above.stat()?;
        let caller = self.known.of(task)?;
        let owner = self.owner_of_new(caller, &above, &stat);
        let device = match new {
            New::Node(kind, device) => device_of(kind, device),
            _ => None,
        };
        if device.is_some() && !caller.can(MKNOD) {
            return Err(Errno::PERM);
        }
        let note = Note { device, ..owner };
        let exists = || rustix::fs::statat(above.fd(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        // Who exists, is not created; a dangling link is followed by the kernel.
        if note == Note::default() || exists() {
            return Ok(Reply::Continue);
        }
        task.check()?;
        let made = with_umask(task, || make(&above, name, new, device));
        let made = match (made, new) {
            // Somebody was faster.
            (Err(Errno::EXIST), New::File(..)) => return Ok(Reply::Continue),
            (made, _) => made?,
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = match &made {
            Some(file) => file.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?,
            None => rustix::fs::openat(above.fd(), name, flags, Mode::empty())?,
        };
        self.note_on(&held, note)?;
        Ok(match (made, new) {
            (Some(file), New::File(flags, _)) => Reply::File(file, flags.contains(OFlags::CLOEXEC)),
            _ => Reply::Value(0),
        })
    }

    /// `O_TMPFILE`: `path` is the directory.
    fn create_nameless(
        &mut self,
        task: &Task<'_>,
        directory: i32,
        path: &[u8],
        new: New<'_>,
    ) -> Result<Reply, Errno> {
        let New::File(flags, mode) = new else {
            return Ok(Reply::Continue);
        };
        let Ok(place) = task
            .place(&self.known, directory, path, true)
            .and_then(Place::hold)
        else {
            return Ok(Reply::Continue);
        };
        let note = self.owner_of_new(self.known.of(task)?, &place, &place.stat()?);
        if note == Note::default() {
            return Ok(Reply::Continue);
        }
        task.check()?;
        let open = || {
            let flags = flags | OFlags::CLOEXEC;
            rustix::fs::open(place.path.as_slice(), flags, Mode::from_raw_mode(mode & 0o7777))
        };
        let file = with_umask(task, open)?;
        self.note_on(&file, note)?;
        Ok(Reply::File(file, flags.contains(OFlags::CLOEXEC)))
    }

    fn owner_of_new(&self, caller: &Credentials, above: &Place, stat: &Stat) -> Note {
        let gid = if stat.st_mode & 0o2000 != 0 {
            self.notes.get(&above.path, true, stat).unwrap_or_default().gid
        } else {
            caller.gid.file_system
        };
        Note {
            uid: caller.uid.file_system,
            gid,
            device: None,
        }
    }

    fn note_on(&mut self, file: &OwnedFd, note: Note) -> Result<(), Errno> {
        let path = format!("self/fd/{}", file.as_raw_fd());
        self.notes.set(path.as_bytes(), &rustix::fs::fstat(file)?, note)
    }

    /// Setting or removing an attribute: what notes are made of is not for a step.
    pub(super) fn change_attribute(&self, task: &Task<'_>, name: u64, set: bool) -> Result<Reply, Errno> {
        let Ok(name) = attribute_name(task, name) else {
            return Ok(Reply::Continue);
        };
        if name.starts_with(RESERVED) {
            return Err(if set { Errno::OPNOTSUPP } else { Errno::NODATA });
        }
        if name == CAPABILITY.as_bytes() && !self.known.of(task)?.can(SETFCAP) {
            return Err(Errno::PERM);
        }
        Ok(Reply::Continue)
    }

    /// The names of the attributes without those of notes.
    pub(super) fn list_attributes(
        &self,
        task: &Task<'_>,
        place: Place,
        to: u64,
        size: u64,
    ) -> Result<Reply, Errno> {
        let Ok(place) = place.hold() else {
            return Ok(Reply::Continue);
        };
        let mut names = vec![0u8; LIST_MAX];
        let Ok(length) = rustix::fs::listxattr(place.path.as_slice(), names.as_mut_slice()) else {
            return Ok(Reply::Continue);
        };
        let stat = place.stat()?;
        let noted = self.notes.get(&place.path, true, &stat).is_some();
        let plain = matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Directory
        );
        let hidden = |name: &[u8]| {
            name.starts_with(RESERVED)
                || noted && !plain && name.strip_suffix(b"\0") == Some(CAPABILITY.as_bytes())
        };
        let shown: Vec<u8> = names[..length]
            .split_inclusive(|b| *b == 0)
            .filter(|name| !hidden(name))
            .flatten()
            .copied()
            .collect();
        if shown.len() == length {
            return Ok(Reply::Continue);
        }
        if size > 0 {
            if (size as usize) < shown.len() {
                return Err(Errno::RANGE);
            }
            if !shown.is_empty() {
                task.write(to, &shown)?;
            }
        }
        Ok(Reply::Value(shown.len() as i64))
    }
}

/// The rules of chown(2).
fn may_chown(caller: &Credentials, old: Note, uid: u32, gid: u32) -> bool {
    if caller.can(CHOWN) {
        return true;
    }
    let owner = caller.uid.file_system == old.uid;
    let uid_stays = uid == KEEP || owner && uid == old.uid;
    let gid_allowed = gid == KEEP || owner && (gid == old.gid || caller.is_in_group(gid));
    uid_stays && gid_allowed
}

/// The device that a node stands for, if the kernel would not make it: all but whiteouts, which it judges.
fn device_of(kind: u32, device: u64) -> Option<Device> {
    let block = match FileType::from_raw_mode(kind) {
        FileType::CharacterDevice => false,
        FileType::BlockDevice => true,
        _ => return None,
    };
    // As mknod(2) takes it: 32 bits, the old layout with room for more.
    let device = device as u32;
    let (major, minor) = ((device >> 8) & 0xfff, device & 0xff | (device >> 12) & 0xf_ff00);
    (block || (major, minor) != (0, 0)).then_some(Device { block, major, minor })
}

fn make(above: &Place, name: &[u8], new: New<'_>, device: Option<Device>) -> Result<Option<OwnedFd>, Errno> {
    let mode = |mode: u32| Mode::from_raw_mode(mode & 0o7777);
    match new {
        New::File(flags, permissions) => {
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(above.fd(), name, flags, mode(permissions)).map(Some)
        }
        New::Directory(permissions) => {
            rustix::fs::mkdirat(above.fd(), name, mode(permissions)).map(|()| None)
        }
        New::Symlink(target) => rustix::fs::symlinkat(target, above.fd(), name).map(|()| None),
        New::Node(kind, number) => {
            let file_type = match (device, FileType::from_raw_mode(kind)) {
                (Some(_), _) | (None, FileType::Unknown) => FileType::RegularFile,
                (None, file_type) => file_type,
            };
            let number = if device.is_some() { 0 } else { number };
            rustix::fs::mknodat(above.fd(), name, file_type, mode(kind), number).map(|()| None)
        }
    }
}

/// Makes something with the umask of the task.
fn with_umask<T>(task: &Task<'_>, make: impl FnOnce() -> T) -> T {
    let own = rustix::process::umask(task.umask());
    let made = make();
    rustix::process::umask(own);
    made
}

/// The directory and the name in it; `None` when the name is none that can be created.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|b| *b != b'/')? + 1;
    let path = &path[..end];
    let (above, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(0) => (b"/".as_slice(), &path[1..]),
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b".".as_slice(), path),
    };
    (!matches!(name, b"." | b"..")).then_some((above, name))
}

fn attribute_name(task: &Task<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    let name = task.text(address)?;
    if name.len() < NAME_MAX {
        Ok(name)
    } else {
        Err(Errno::RANGE)
    }
}

/// The directory descriptor that means the working directory.
pub(super) fn current() -> i32 {
    CWD.as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_split_at_the_last_name() {
        let split = |path: &'static str| {
            split(path.as_bytes()).map(|(above, name)| {
                (
                    String::from_utf8_lossy(above).into_owned(),
                    String::from_utf8_lossy(name).into_owned(),
                )
            })
        };
        let some = |above: &str, name: &str| Some((above.to_owned(), name.to_owned()));
        assert_eq!(split("a"), some(".", "a"));
        assert_eq!(split("/a"), some("/", "a"));
        assert_eq!(split("/a/b/c//"), some("/a/b", "c"));
        assert_eq!(split("a//b"), some("a/", "b"));
        for bad in ["", "/", "//", ".", "..", "a/..", "/."] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_root_and_owners_change_owners() {
        let root = Credentials::first(0, 0, vec![0], CHOWN);
        let user = Credentials::first(5, 6, vec![6, 7], CHOWN);
        let own = Note {
            uid: 5,
            gid: 6,
            device: None,
        };
        assert!(may_chown(&root, own, 9, 9));
        for (uid, gid, allowed) in [
            (KEEP, KEEP, true),
            (5, 7, true),
            (KEEP, 6, true),
            (9, KEEP, false),
            (KEEP, 9, false),
        ] {
            assert_eq!(may_chown(&user, own, uid, gid), allowed, "{uid}:{gid}");
        }
        assert!(!may_chown(&user, Note::default(), KEEP, 6));
    }

    #[test]
    fn devices_are_numbered_as_mknod_does() {
        let device = |kind, number| device_of(kind, number).map(|d| (d.block, d.major, d.minor));
        assert_eq!(device(libc::S_IFCHR | 0o644, 0x103), Some((false, 1, 3)));
        assert_eq!(device(libc::S_IFBLK, 0x0010_072c), Some((true, 7, 300)));
        assert_eq!(device(libc::S_IFCHR, 0), None);
        assert_eq!(device(libc::S_IFREG, 0x103), None);
        assert_eq!(device(libc::S_IFIFO, 0x103), None);
    }
}
