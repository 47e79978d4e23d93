//! What is noted on a file about its owner, and the notes that no file system keeps.
//!
//! The notes are those of `cache/src/layer/ownership.rs`, which says what they look like and why. A file that cannot keep
//! one (a terminal, a file of `/proc`) has it in memory as long as the step lasts.

use std::collections::HashMap;

use rustix::fs::{FileType, Stat, XattrFlags};
use rustix::io::Errno;

/// Names that a step neither sees nor sets.
pub(super) const RESERVED: &[u8] = b"user.rbuild.";

const OWNER: &str = "user.rbuild.owner";
pub(super) const CAPABILITY: &str = "security.capability";
const REVISION_2: u32 = 0x0200_0000;
const MARK: [u32; 2] = [0x6c69_7562, 0x6f77_6e72];

/// The owner of a file, and the device that it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) device: Option<Device>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) block: bool,
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl Note {
    fn to_text(self) -> String {
        let Note { uid, gid, device } = self;
        match device {
            None => format!("{uid}:{gid}"),
            Some(Device { block, major, minor }) => {
                format!("{uid}:{gid}:{}:{major}:{minor}", if block { 'b' } else { 'c' })
            }
        }
    }

    fn from_text(text: &[u8]) -> Option<Note> {
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
        fields.next().is_none().then_some(Note { uid, gid, device })
    }

    fn to_capability(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        let words = [REVISION_2, self.uid, self.gid, MARK[0], MARK[1]];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn from_capability(bytes: &[u8]) -> Option<Note> {
        let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at * 4..)?.first_chunk()?));
        let marked = bytes.len() == 20 && [word(3)?, word(4)?] == MARK;
        marked.then_some(Note {
            uid: word(1)?,
            gid: word(2)?,
            device: None,
        })
    }

    /// What `stat` says of the file.
    pub(super) fn show(self, stat: &mut Stat) {
        stat.st_uid = self.uid;
        stat.st_gid = self.gid;
        if let Some(device) = self.device {
            let kind = if device.block {
                libc::S_IFBLK
            } else {
                libc::S_IFCHR
            };
            stat.st_mode = stat.st_mode & 0o7777 | kind;
            stat.st_rdev = rustix::fs::makedev(device.major, device.minor);
        }
    }
}

/// All notes of a step.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By device and inode.
    unkept: HashMap<(u64, u64), Note>,
}

/// The attribute that holds the note of a file of that type.
fn key(file_type: FileType) -> &'static str {
    match file_type {
        FileType::RegularFile | FileType::Directory => OWNER,
        _ => CAPABILITY,
    }
}

impl Notes {
    /// The note of the file at `path`, of which `stat` was read; a last link is followed if `follow`.
    pub(super) fn get(&self, path: &[u8], follow: bool, stat: &Stat) -> Option<Note> {
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let key = key(file_type);
        let mut value = [0u8; 64];
        let length = if follow {
            rustix::fs::getxattr(path, key, &mut value[..])
        } else {
            rustix::fs::lgetxattr(path, key, &mut value[..])
        };
        let noted = length.ok().and_then(|length| {
            let value = &value[..length];
            if key == OWNER {
                Note::from_text(value)
            } else {
                Note::from_capability(value)
            }
        });
        if noted.is_some() || self.unkept.is_empty() {
            return noted;
        }
        self.unkept.get(&(stat.st_dev, stat.st_ino)).copied()
    }

    /// Notes `note` on the file at `path`, which is followed: the name of a descriptor.
    pub(super) fn set(&mut self, path: &[u8], stat: &Stat, note: Note) -> Result<(), Errno> {
        let key = key(FileType::from_raw_mode(stat.st_mode));
        let inode = (stat.st_dev, stat.st_ino);
        let result = if note == Note::default() {
            match rustix::fs::removexattr(path, key) {
                Err(Errno::NODATA) => Ok(()),
                result => result,
            }
        } else if key == OWNER {
            rustix::fs::setxattr(path, key, note.to_text().as_bytes(), XattrFlags::empty())
        } else {
            rustix::fs::setxattr(path, key, &note.to_capability(), XattrFlags::empty())
        };
        match result {
            Ok(()) => {
                self.unkept.remove(&inode);
                Ok(())
            }
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {
                self.unkept.insert(inode, note);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_read_as_written() {
        let device = Device {
            block: true,
            major: 8,
            minor: 1,
        };
        let note = Note {
            uid: 1000,
            gid: 50,
            device: Some(device),
        };
        assert_eq!(note.to_text(), "1000:50:b:8:1");
        assert_eq!(Note::from_text(b"1000:50:b:8:1"), Some(note));
        assert_eq!(Note::from_text(b"1000:50:b:8"), None);
        assert_eq!(Note::from_text(b"x"), None);
        let note = Note { device: None, ..note };
        assert_eq!(Note::from_capability(&note.to_capability()), Some(note));
        assert_eq!(Note::from_capability(&[0; 20]), None);
    }
}
