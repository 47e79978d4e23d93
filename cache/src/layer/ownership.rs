//! Owners of files where the disk knows only one.
//!
//! Inside a user namespace with a single id every file belongs to that id, the root of the namespace. In a
//! tree made there ([`Ownership::Emulated`], kept as `fs.single` beside the `fs` of other namespaces), a file of another
//! owner carries a note with it, an extended attribute, which overlayfs copies up and renames and links take along:
//!
//! - files and directories: `user.rbuild.owner`, the text `UID:GID`;
//! - devices, which cannot be made there: an empty file with `UID:GID:c:MAJOR:MINOR` or `UID:GID:b:MAJOR:MINOR`;
//! - symbolic links, pipes and sockets, which can have no `user.` attribute: `security.capability`, which the root of a
//!   namespace may set on anything and which has no meaning on them. Its 128 bits of capabilities are the uid, the gid and a
//!   mark.
//!
//! A file without a note belongs to 0:0. Modes, times, real file capabilities and whiteouts are those of the disk.
//! The executor writes the same notes while a step runs (`executor/src/emulation/note.rs`).
//! No layer contains a note, and one that an image brings is not believed: whoever reads tars or trees drops the names
//! that begin with `user.rbuild.`.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;

use super::beneath::proc_path;
use super::entry::{Entry, Kind};

/// How the owners of a tree lie on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// As owners.
    Real,
    /// As notes: the disk has one owner.
    Emulated,
}

/// Names that only trees use.
pub(super) const RESERVED: &[u8] = b"user.rbuild.";

pub(super) const OWNER: &str = "user.rbuild.owner";
const CAPABILITY: &str = "security.capability";

/// `VFS_CAP_REVISION_2`, as it lies in the attribute.
const REVISION_2: u32 = 0x0200_0000;
/// What tells the note from capabilities: bits that no kernel has a capability for.
const MARK: [u32; 2] = [0x6c69_7562, 0x6f77_6e72];

/// What a note says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub uid: u32,
    pub gid: u32,
    /// The device that an empty file stands for.
    pub device: Option<Device>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub block: bool,
    pub major: u32,
    pub minor: u32,
}

impl Device {
    pub(super) fn kind(self) -> Kind {
        let Self { block, major, minor } = self;
        if block {
            Kind::BlockDevice { major, minor }
        } else {
            Kind::CharDevice { major, minor }
        }
    }
}

impl Ownership {
    /// The name of such a tree in the directory of its layer.
    pub(crate) fn tree_name(self) -> &'static str {
        match self {
            Self::Real => "fs",
            Self::Emulated => "fs.single",
        }
    }

    /// The name of the file that says in which boot the tree was made.
    pub(crate) fn mark_name(self) -> &'static str {
        match self {
            Self::Real => "boot",
            Self::Emulated => "boot.single",
        }
    }
}

impl Note {
    pub(super) fn of(entry: &Entry) -> Self {
        let device = |block, major, minor| Some(Device { block, major, minor });
        Self {
            uid: entry.uid,
            gid: entry.gid,
            device: match entry.kind {
                Kind::CharDevice { major, minor } => device(false, major, minor),
                Kind::BlockDevice { major, minor } => device(true, major, minor),
                _ => None,
            },
        }
    }

    fn to_text(self) -> String {
        let Self { uid, gid, device } = self;
        match device {
            None => format!("{uid}:{gid}"),
            Some(Device { block, major, minor }) => {
                format!("{uid}:{gid}:{}:{major}:{minor}", if block { 'b' } else { 'c' })
            }
        }
    }

    fn from_text(text: &[u8]) -> Option<Self> {
        let mut fields = std::str::from_utf8(text).ok()?.split(':');
        let number = |fields: &mut std::str::Split<'_, char>| fields.next()?.parse().ok();
        let (uid, gid) = (number(&mut fields)?, number(&mut fields)?);
        let device = match fields.next() {
            None => None,
            Some(kind @ ("b" | "c")) => Some(Device {
                block: kind == "b",
                major: number(&mut fields)?,
                minor: number(&mut fields)?,
            }),
            Some(_) => return None,
        };
        fields.next().is_none().then_some(Self { uid, gid, device })
    }

    fn to_capability(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let words = [REVISION_2, self.uid, self.gid, MARK[0], MARK[1]];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_capability(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at * 4..)?.first_chunk()?));
        let marked = bytes.len() == 20 && [word(3)?, word(4)?] == MARK;
        marked.then_some(Self {
            uid: word(1)?,
            gid: word(2)?,
            device: None,
        })
    }
}

/// Whether a file of that type has its note as a `user.` attribute.
fn has_user_attributes(file_type: FileType) -> bool {
    matches!(file_type, FileType::RegularFile | FileType::Directory)
}

/// Takes the note out of the attributes of a file; they come sorted and stay so.
pub(super) fn take_note(file_type: FileType, xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<Note> {
    let name = if has_user_attributes(file_type) {
        OWNER
    } else {
        CAPABILITY
    };
    let Some(at) = xattrs.iter().position(|(known, _)| known == name.as_bytes()) else {
        return Ok(Note::default());
    };
    let (_, value) = xattrs.remove(at);
    let note = if name == OWNER {
        Note::from_text(&value)
    } else {
        Note::from_capability(&value)
    };
    note.ok_or_else(|| io::Error::other("what the tree notes about its owner is damaged"))
}

/// Gives the file `name` in `parent`, which is not followed, the owner of `entry`; it may have another note.
pub(super) fn set_note(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
    let path = proc_path(parent, name);
    let note = Note::of(entry);
    let key = match entry.kind {
        Kind::Symlink { .. } | Kind::Fifo => CAPABILITY,
        _ => OWNER,
    };
    if note == Note::default() {
        return match rustix::fs::lremovexattr(path, key) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        };
    }
    let flags = XattrFlags::empty();
    let set = if key == OWNER {
        rustix::fs::lsetxattr(path, key, note.to_text().as_bytes(), flags)
    } else {
        rustix::fs::lsetxattr(path, key, &note.to_capability(), flags)
    };
    set.map_err(|errno| refused(entry, errno))
}

/// As [`set_note`], for a new file or directory that is open.
pub(super) fn set_note_of_open(file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    let note = Note::of(entry);
    if note == Note::default() {
        return Ok(());
    }
    rustix::fs::fsetxattr(file, OWNER, note.to_text().as_bytes(), XattrFlags::empty())
        .map_err(|errno| refused(entry, errno))
}

/// As [`set_note`], for a new directory at `path`.
pub(crate) fn note_owner(path: &std::path::Path, entry: &Entry) -> io::Result<()> {
    set_note_of_open(std::os::fd::AsFd::as_fd(&std::fs::File::open(path)?), entry)
}

fn refused(entry: &Entry, errno: Errno) -> io::Error {
    let kind = io::Error::from(errno).kind();
    let message = format!(
        "noting its owner {}:{}: {errno} (the store's file system has to keep extended attributes; choose another \
         place with --root)",
        entry.uid, entry.gid
    );
    io::Error::new(kind, message)
}

/// Whether a tree of `ownership` must not get the attribute `name` of `entry`, because it would be a note.
pub(super) fn is_note(ownership: Ownership, entry: &Entry, name: &[u8]) -> bool {
    let links = matches!(entry.kind, Kind::Symlink { .. } | Kind::Fifo);
    name.starts_with(RESERVED) || ownership == Ownership::Emulated && links && name == CAPABILITY.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_as_written() {
        let device = Device {
            block: true,
            major: 8,
            minor: 1_048_575,
        };
        for note in [
            Note {
                uid: 0,
                gid: 42,
                device: None,
            },
            Note {
                uid: u32::MAX,
                gid: 1,
                device: Some(device),
            },
            Note {
                uid: 0,
                gid: 0,
                device: Some(Device {
                    block: false,
                    ..device
                }),
            },
        ] {
            assert_eq!(Note::from_text(note.to_text().as_bytes()), Some(note));
        }
        for bad in [
            "",
            "1",
            "1:",
            "1:2:",
            "1:2:c",
            "1:2:c:1",
            "1:2:c:1:2:3",
            "-1:2",
            "4294967296:0",
            "1:2:d:1:2",
        ] {
            assert_eq!(Note::from_text(bad.as_bytes()), None, "{bad}");
        }
        let note = Note {
            uid: 1000,
            gid: 1001,
            device: None,
        };
        assert_eq!(Note::from_capability(&note.to_capability()), Some(note));
        // cap_net_raw+ep, as setcap writes it.
        let mut real = [0; 20];
        real[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
        assert_eq!(Note::from_capability(&real), None);
        assert_eq!(Note::from_capability(&note.to_capability()[..19]), None);
    }
}
