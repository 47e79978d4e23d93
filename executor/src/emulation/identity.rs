//! Calls that tell or change who a process is.

use std::os::unix::ffi::OsStrExt;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::credentials::{Capabilities, Change, Credentials, Program, SYS_CHROOT};
use super::note::CAPABILITY;
use super::task::{Place, Task};
use super::{Reply, Supervisor};

/// The most groups that a process can have.
const MAX_GROUPS: u64 = 65536;

// Of linux/capability.h.
const CAPABILITIES_1: u32 = 0x1998_0330;
const CAPABILITIES_2: u32 = 0x2007_1026;
const CAPABILITIES_3: u32 = 0x2008_0522;

impl Supervisor {
    /// `getresuid`, `getresgid`.
    pub(super) fn tell_three(task: &Task<'_>, to: &[u64], ids: [u32; 3]) -> Result<Reply, Errno> {
        for (address, id) in to.iter().zip(ids) {
            task.write_numbers(*address, &[id])?;
        }
        Ok(Reply::Value(0))
    }

    pub(super) fn tell_groups(&self, task: &Task<'_>, size: u64, to: u64) -> Result<Reply, Errno> {
        let groups = &self.known.of(task)?.groups;
        let size = size as u32 as usize;
        if size > 0 && size < groups.len() || size > i32::MAX as usize {
            return Err(Errno::INVAL);
        }
        if size > 0 {
            task.write_numbers(to, groups)?;
        }
        Ok(Reply::Value(groups.len() as i64))
    }

    pub(super) fn change_groups(&mut self, task: &Task<'_>, size: u64, from: u64) -> Result<Reply, Errno> {
        let size = u64::from(size as u32);
        if size > MAX_GROUPS {
            return Err(Errno::INVAL);
        }
        let mut groups = task.numbers(from, size as usize)?;
        groups.sort_unstable();
        let new = self.known.of(task)?.change_groups(groups)?;
        self.become_other(task, new)
    }

    pub(super) fn change_uid(&mut self, task: &Task<'_>, change: Change) -> Result<Reply, Errno> {
        let new = self.known.of(task)?.change_uid(change)?;
        self.become_other(task, new)
    }

    pub(super) fn change_gid(&mut self, task: &Task<'_>, change: Change) -> Result<Reply, Errno> {
        let new = self.known.of(task)?.change_gid(change)?;
        self.become_other(task, new)
    }

    /// `setfsuid` gives the old id and no error.
    pub(super) fn change_file_system_uid(&mut self, task: &Task<'_>, id: u32) -> Result<Reply, Errno> {
        let old = self.known.of(task)?;
        let (before, new) = (old.uid.file_system, old.change_file_system_uid(id));
        self.become_other(task, new)?;
        Ok(Reply::Value(before.into()))
    }

    pub(super) fn change_file_system_gid(&mut self, task: &Task<'_>, id: u32) -> Result<Reply, Errno> {
        let old = self.known.of(task)?;
        let (before, new) = (old.gid.file_system, old.change_file_system_gid(id));
        self.become_other(task, new)?;
        Ok(Reply::Value(before.into()))
    }

    /// The kernel keeps what it has anyway: the flag only counts here.
    pub(super) fn keep_capabilities(&mut self, task: &Task<'_>, keep: u64) -> Result<Reply, Errno> {
        let new = Credentials {
            keep_capabilities: keep == 1,
            ..self.known.of(task)?.clone()
        };
        self.become_other(task, new)?;
        Ok(Reply::Continue)
    }

    pub(super) fn change_root(&mut self, task: &Task<'_>) -> Result<Reply, Errno> {
        let old = self.known.of(task)?;
        if !old.can(SYS_CHROOT) {
            return Err(Errno::PERM);
        }
        let new = Credentials {
            changed_root: true,
            ..old.clone()
        };
        self.become_other(task, new)?;
        Ok(Reply::Continue)
    }

    fn become_other(&mut self, task: &Task<'_>, new: Credentials) -> Result<Reply, Errno> {
        if *self.known.of(task)? != new {
            self.known.set(task, new)?;
        }
        Ok(Reply::Value(0))
    }

    pub(super) fn tell_capabilities(&self, task: &Task<'_>, header: u64, data: u64) -> Result<Reply, Errno> {
        let Some(words) = capability_words(task, header)? else {
            return if data == 0 {
                Ok(Reply::Value(0))
            } else {
                Err(Errno::INVAL)
            };
        };
        if task.numbers(header + 4, 1)? != [0] || data == 0 {
            // Of another process, which the kernel finds.
            return Ok(Reply::Continue);
        }
        let held = self.known.of(task)?.capabilities;
        let sets = [held.effective, held.permitted, held.inheritable];
        let low = sets.map(|set| set as u32);
        let high = sets.map(|set| (set >> 32) as u32);
        task.write_numbers(data, &[low, high].concat()[..3 * words])?;
        Ok(Reply::Value(0))
    }

    pub(super) fn change_capabilities(
        &mut self,
        task: &Task<'_>,
        header: u64,
        data: u64,
    ) -> Result<Reply, Errno> {
        let Some(words) = capability_words(task, header)? else {
            return Err(Errno::INVAL);
        };
        let mut sets = task.numbers(data, 3 * words)?;
        sets.resize(6, 0);
        let set = |at: usize| u64::from(sets[at]) | u64::from(sets[at + 3]) << 32;
        let wanted = Capabilities {
            effective: set(0),
            permitted: set(1),
            inheritable: set(2),
        };
        let new = self.known.of(task)?.change_capabilities(wanted)?;
        self.become_other(task, new)
    }

    /// The kernel executes the program; who runs it is decided here.
    pub(super) fn execute(&mut self, task: &Task<'_>, place: Place) -> Result<Reply, Errno> {
        let old = self.known.of(task)?.clone();
        let program = match self.program(task, &old, place) {
            Ok(Some(program)) => program,
            // The kernel will say why it cannot be executed.
            Ok(None) | Err(_) => return Ok(Reply::Continue),
        };
        let new = old.execute(program);
        if new != old {
            self.known.set(task, new)?;
        }
        Ok(Reply::Continue)
    }

    /// What the file at `place` says about who runs it; `None` for one that nobody can execute.
    fn program(&self, task: &Task<'_>, old: &Credentials, place: Place) -> Result<Option<Program>, Errno> {
        let stat = place.stat()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !regular || stat.st_mode & 0o111 == 0 {
            return Ok(None);
        }
        let is_root = old.uid.real == 0 && old.uid.effective == 0;
        let set_id = stat.st_mode & 0o6000 != 0;
        if is_root && !set_id {
            return Ok(Some(Program::default()));
        }
        let place = place.hold()?;
        let mut program = Program::default();
        if is_script(&place) || !is_root && task.status("NoNewPrivs").as_deref() == Some("1") {
            return Ok(Some(program));
        }
        let note = self.notes.get(&place.path, true, &stat).unwrap_or_default();
        program.uid = (stat.st_mode & 0o4000 != 0).then_some(note.uid);
        program.gid = (stat.st_mode & 0o2010 == 0o2010).then_some(note.gid);
        let mut value = [0u8; 64];
        if let Ok(length) = rustix::fs::getxattr(place.path.as_slice(), CAPABILITY, &mut value[..]) {
            let word = |at: usize| {
                let bytes = value[..length].get(at * 4..)?.first_chunk()?;
                Some(u32::from_le_bytes(*bytes))
            };
            let set = |low: usize, high: usize| {
                u64::from(word(low).unwrap_or(0)) | u64::from(word(high).unwrap_or(0)) << 32
            };
            program.capabilities = (set(1, 3), set(2, 4));
            program.effective = word(0).unwrap_or(0) & 1 != 0;
        }
        Ok(Some(program))
    }
}

/// Does it begin as a script does? Those run as who starts them.
fn is_script(place: &Place) -> bool {
    let mut head = [0u8; 2];
    std::fs::File::open(std::path::Path::new(std::ffi::OsStr::from_bytes(&place.path)))
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
        .is_ok_and(|()| head == *b"#!")
}

/// How many words a set has in the version that the header names. One that no kernel knows is answered by the one to
/// use.
fn capability_words(task: &Task<'_>, header: u64) -> Result<Option<usize>, Errno> {
    match task.numbers(header, 1)?[..] {
        [CAPABILITIES_1] => Ok(Some(1)),
        [CAPABILITIES_2 | CAPABILITIES_3] => Ok(Some(2)),
        _ => {
            task.write_numbers(header, &[CAPABILITIES_3])?;
            Ok(None)
        }
    }
}
