//! The process that waits for an answer: its memory, its files, its credentials.
//!
//! Paths are those of the step, because the supervisor has the step's root; its working directory is the root of a `/proc` in
//! which the threads have the numbers that it knows them by. A relative path of a process is then one of
//! the supervisor: `PID/cwd/path`.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::credentials::{Credentials, DAC_OVERRIDE, FOWNER};
use crate::sys;

/// A limit that no kernel enforces. Its soft value says which credentials a process has: the kernel
/// gives it to children and keeps it across exec, however many processes on the way are gone.
pub(super) const TAG: u32 = libc::RLIMIT_LOCKS;
const FIRST_TAG: u64 = 0x7262_6c64_0000_0000;

/// The longest path, with the zero at its end.
const PATH_MAX: usize = 4096;
const PAGE: u64 = 4096;

/// `AT_FDCWD`, as it arrives.
const CURRENT: i32 = libc::AT_FDCWD;

/// Names that mean something else in every process, and where that lies below `/proc/PID`.
const OWN: [(&[u8], &str); 6] = [
    (b"/proc/self/", ""),
    (b"/proc/thread-self/", ""),
    (b"/dev/fd/", "fd/"),
    (b"/dev/stdin", "fd/0"),
    (b"/dev/stdout", "fd/1"),
    (b"/dev/stderr", "fd/2"),
];

/// Does the path lead through `/proc` to what the process has open?
pub(super) fn is_own(path: &[u8]) -> bool {
    OWN.iter().any(|(prefix, _)| path.starts_with(prefix))
}

/// A thread that waits for the answer to a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    pub(super) listener: BorrowedFd<'a>,
    pub(super) id: u64,
    pub(super) thread: i32,
}

impl Task<'_> {
    /// Is it still there? What was read before belongs to it, then.
    pub(super) fn check(&self) -> Result<(), Errno> {
        if sys::is_waiting(self.listener, self.id) {
            Ok(())
        } else {
            Err(Errno::SRCH)
        }
    }

    /// Fills `buffer` from its memory.
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        match sys::read_memory(self.thread, address, buffer) {
            Ok(length) if length == buffer.len() => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// `count` numbers at `address`.
    pub(super) fn numbers(&self, address: u64, count: usize) -> Result<Vec<u32>, Errno> {
        let mut bytes = vec![0u8; count * 4];
        if count > 0 {
            self.read(address, &mut bytes)?;
        }
        Ok(bytes
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }

    pub(super) fn write_numbers(&self, address: u64, numbers: &[u32]) -> Result<(), Errno> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        if bytes.is_empty() {
            return Ok(());
        }
        self.write(address, &bytes)
    }

    /// The text at `address` up to its zero.
    pub(super) fn text(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut next = address;
        while text.len() < PATH_MAX {
            // Never across a page that may not be there.
            let length = (PAGE - next % PAGE).min(if text.is_empty() { 256 } else { PAGE });
            let start = text.len();
            text.resize(start + length as usize, 0);
            self.read(next, &mut text[start..])?;
            if let Some(end) = text[start..].iter().position(|b| *b == 0) {
                text.truncate(start + end);
                return Ok(text);
            }
            next += length;
        }
        Err(Errno::NAMETOOLONG)
    }

    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.check()?;
        sys::write_memory(self.thread, address, bytes).map_err(|_| Errno::FAULT)
    }

    /// A field of its `status`.
    pub(super) fn status(&self, field: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("{}/status", self.thread)).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(value.trim_start_matches(':').trim().to_owned())
    }

    pub(super) fn umask(&self) -> Mode {
        let value = self
            .status("Umask")
            .and_then(|text| u32::from_str_radix(&text, 8).ok());
        Mode::from_raw_mode(value.unwrap_or(0o022))
    }

    /// What its descriptor `fd` refers to.
    pub(super) fn descriptor(&self, fd: i32) -> Place {
        Place {
            path: format!("{}/fd/{fd}", self.thread).into_bytes(),
            follow: true,
            held: None,
        }
    }

    /// `path` as the task means it, relative to its descriptor `directory`. Empty paths are the directory itself.
    pub(super) fn place(
        &self,
        known: &Known,
        directory: i32,
        path: &[u8],
        follow: bool,
    ) -> Result<Place, Errno> {
        if known.roots_changed && known.of(self)?.changed_root {
            return self.place_below_root(directory, path, follow);
        }
        let base = match directory {
            CURRENT => format!("{}/cwd", self.thread),
            fd => format!("{}/fd/{fd}", self.thread),
        };
        let own = OWN
            .iter()
            .find_map(|(prefix, place)| Some((path.strip_prefix(*prefix)?, *place)));
        let full = match (own, path) {
            (Some((rest, place)), _) => [format!("{}/{place}", self.thread).as_bytes(), rest].concat(),
            (None, [b'/', ..]) => path.to_vec(),
            (None, []) => base.into_bytes(),
            (None, _) => [base.as_bytes(), b"/", path].concat(),
        };
        if full.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        // A descriptor is reached by a link of /proc.
        let follow = follow || path.is_empty();
        Ok(Place {
            path: full,
            follow,
            held: None,
        })
    }

    /// As [`Task::place`], for a task that has called chroot.
    fn place_below_root(&self, directory: i32, path: &[u8], follow: bool) -> Result<Place, Errno> {
        let link = |name: String| rustix::fs::readlink(name, Vec::new()).map(|text| text.into_bytes());
        let thread = self.thread;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root_name = format!("{thread}/root");
        let root = rustix::fs::open(&root_name, flags | OFlags::DIRECTORY, Mode::empty())?;
        let base_name = match directory {
            CURRENT => format!("{thread}/cwd"),
            fd => format!("{thread}/fd/{fd}"),
        };
        if path.is_empty() {
            return Ok(Place::held(rustix::fs::open(base_name, flags, Mode::empty())?));
        }
        let wanted = if path.first() == Some(&b'/') {
            path.to_vec()
        } else {
            let (base, top) = (link(base_name)?, link(root_name)?);
            let below = base.strip_prefix(top.as_slice()).unwrap_or_default();
            [below, b"/", path].concat()
        };
        let last = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let resolve = ResolveFlags::IN_ROOT;
        rustix::fs::openat2(&root, wanted, flags | last, Mode::empty(), resolve).map(Place::held)
    }
}

/// A file as the supervisor names it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    /// Is a link at the end followed?
    pub(super) follow: bool,
    held: Option<OwnedFd>,
}

impl Place {
    /// The file behind a descriptor of the supervisor.
    fn held(file: OwnedFd) -> Place {
        Place {
            path: format!("self/fd/{}", file.as_raw_fd()).into_bytes(),
            follow: true,
            held: Some(file),
        }
    }

    /// The same file, whatever its name leads to from now on.
    pub(super) fn hold(self) -> Result<Place, Errno> {
        if self.held.is_some() {
            return Ok(self);
        }
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        rustix::fs::open(self.path, flags, Mode::empty()).map(Place::held)
    }

    /// What [`Place::hold`] keeps.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.held.as_ref().map_or(CWD, |fd| fd.as_fd())
    }

    pub(super) fn stat(&self) -> Result<rustix::fs::Stat, Errno> {
        if self.follow {
            rustix::fs::stat(self.path.as_slice())
        } else {
            rustix::fs::lstat(self.path.as_slice())
        }
    }
}

/// The credentials that processes of the step have or had.
#[derive(Debug)]
pub(super) struct Known {
    table: Vec<Credentials>,
    numbers: HashMap<Credentials, usize>,
    roots_changed: bool,
    /// Does every one of them have all of root's power over files?
    all_root: bool,
}

impl Known {
    /// All processes have the credentials `first` until they change them.
    pub(super) fn new(first: Credentials) -> Known {
        Known {
            numbers: HashMap::from([(first.clone(), 0)]),
            all_root: first.can(DAC_OVERRIDE | FOWNER),
            table: vec![first],
            roots_changed: false,
        }
    }

    pub(super) fn all_root(&self) -> bool {
        self.all_root
    }

    pub(super) fn of(&self, task: &Task<'_>) -> Result<&Credentials, Errno> {
        // As long as nobody has changed, nobody has to be asked.
        if let [only] = self.table.as_slice() {
            return Ok(only);
        }
        let (tag, _) = sys::limit_of(task.thread, TAG).map_err(|_| Errno::SRCH)?;
        let number = tag.checked_sub(FIRST_TAG).map_or(0, |n| n as usize);
        Ok(self.table.get(number).unwrap_or(&self.table[0]))
    }

    /// From now on the task has `credentials`.
    pub(super) fn set(&mut self, task: &Task<'_>, credentials: Credentials) -> Result<(), Errno> {
        self.roots_changed |= credentials.changed_root;
        // Even a process that may use it again has put it aside.
        self.all_root &= credentials.can(DAC_OVERRIDE | FOWNER) && credentials.uid.real == 0;
        let number = match self.numbers.get(&credentials) {
            Some(number) => *number,
            None => {
                self.table.push(credentials.clone());
                self.numbers.insert(credentials, self.table.len() - 1);
                self.table.len() - 1
            }
        };
        task.check()?;
        let tag = FIRST_TAG + number as u64;
        sys::set_limit_of(task.thread, TAG, tag, u64::MAX).map_err(|_| Errno::SRCH)
    }
}
