//! Who a process is, as it believes: ids, groups and capabilities, and how calls change them.
//!
//! Nothing here touches a process; the rules are those of credentials(7) and capabilities(7).

use rustix::io::Errno;

/// Leaves an id as it is.
pub(super) const KEEP: u32 = u32::MAX;

/// The capabilities that a change of the file system uid takes and gives.
const FILE_SYSTEM: u64 = capability(0) // CHOWN
    | capability(1) // DAC_OVERRIDE
    | capability(2) // DAC_READ_SEARCH
    | capability(3) // FOWNER
    | capability(4) // FSETID
    | capability(9) // LINUX_IMMUTABLE
    | capability(27) // MKNOD
    | capability(32); // MAC_OVERRIDE

pub(super) const CHOWN: u64 = capability(0);
pub(super) const DAC_OVERRIDE: u64 = capability(1);
pub(super) const DAC_READ_SEARCH: u64 = capability(2);
pub(super) const FOWNER: u64 = capability(3);
pub(super) const SETGID: u64 = capability(6);
pub(super) const SETUID: u64 = capability(7);
const SETPCAP: u64 = capability(8);
pub(super) const SYS_CHROOT: u64 = capability(18);
pub(super) const MKNOD: u64 = capability(27);
pub(super) const SETFCAP: u64 = capability(31);

const fn capability(number: u32) -> u64 {
    1 << number
}

/// Real, effective, saved and file system id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ids {
    pub(super) real: u32,
    pub(super) effective: u32,
    pub(super) saved: u32,
    pub(super) file_system: u32,
}

impl Ids {
    pub(super) fn all(id: u32) -> Ids {
        Ids {
            real: id,
            effective: id,
            saved: id,
            file_system: id,
        }
    }

    fn has(self, id: u32) -> bool {
        id == KEEP || id == self.real || id == self.effective || id == self.saved
    }

    fn is_root(self) -> bool {
        self.real == 0 || self.effective == 0 || self.saved == 0
    }

    fn set(self, id: u32, privileged: bool) -> Result<Ids, Errno> {
        if id == KEEP {
            return Err(Errno::INVAL);
        }
        if privileged {
            return Ok(Ids::all(id));
        }
        if id != self.real && id != self.saved {
            return Err(Errno::PERM);
        }
        Ok(Ids {
            effective: id,
            file_system: id,
            ..self
        })
    }

    fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Ids, Errno> {
        let real_allowed = real == KEEP || real == self.real || real == self.effective;
        let allowed = privileged || real_allowed && self.has(effective);
        if !allowed {
            return Err(Errno::PERM);
        }
        let mut new = self;
        if real != KEEP {
            new.real = real;
        }
        if effective != KEEP {
            new.effective = effective;
        }
        if real != KEEP || effective != KEEP && effective != self.real {
            new.saved = new.effective;
        }
        new.file_system = new.effective;
        Ok(new)
    }

    fn set_three(self, [real, effective, saved]: [u32; 3], privileged: bool) -> Result<Ids, Errno> {
        let allowed = privileged || self.has(real) && self.has(effective) && self.has(saved);
        if !allowed {
            return Err(Errno::PERM);
        }
        let or = |new: u32, old: u32| if new == KEEP { old } else { new };
        let effective = or(effective, self.effective);
        Ok(Ids {
            real: or(real, self.real),
            effective,
            saved: or(saved, self.saved),
            file_system: effective,
        })
    }
}

/// A change that a process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    One(u32),
    /// Real and effective.
    Two(u32, u32),
    /// Real, effective and saved.
    Three([u32; 3]),
}

/// What a process may do at most, does now and hands on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Capabilities {
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
}

/// The credentials of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Credentials {
    pub(super) uid: Ids,
    pub(super) gid: Ids,
    pub(super) groups: Vec<u32>,
    pub(super) capabilities: Capabilities,
    /// What no process of the step can have more than.
    pub(super) bounding: u64,
    /// `PR_SET_KEEPCAPS`
    pub(super) keep_capabilities: bool,
    /// Its root is another one than the step's.
    pub(super) changed_root: bool,
}

/// What a program file says about who it runs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// Its owner, if it is setuid.
    pub(super) uid: Option<u32>,
    /// Its group, if it is setgid.
    pub(super) gid: Option<u32>,
    /// Its file capabilities: permitted, inheritable.
    pub(super) capabilities: (u64, u64),
    /// Are those effective at once?
    pub(super) effective: bool,
}

impl Credentials {
    /// Those of a step's first process.
    pub(super) fn first(uid: u32, gid: u32, groups: Vec<u32>, bounding: u64) -> Credentials {
        let held = if uid == 0 { bounding } else { 0 };
        Credentials {
            uid: Ids::all(uid),
            gid: Ids::all(gid),
            groups,
            capabilities: Capabilities {
                effective: held,
                permitted: held,
                inheritable: 0,
            },
            bounding,
            keep_capabilities: false,
            changed_root: false,
        }
    }

    pub(super) fn can(&self, capability: u64) -> bool {
        self.capabilities.effective & capability == capability
    }

    /// Is the process in the group, for access to files?
    pub(super) fn is_in_group(&self, gid: u32) -> bool {
        gid == self.gid.file_system || self.groups.contains(&gid)
    }

    pub(super) fn change_uid(&self, change: Change) -> Result<Credentials, Errno> {
        let privileged = self.can(SETUID);
        let uid = apply(self.uid, change, privileged)?;
        let mut new = Credentials { uid, ..self.clone() };
        let held = &mut new.capabilities;
        if self.uid.is_root() && !uid.is_root() && !self.keep_capabilities {
            held.permitted = 0;
            held.effective = 0;
        }
        if self.uid.effective == 0 && uid.effective != 0 {
            held.effective = 0;
        }
        if self.uid.effective != 0 && uid.effective == 0 {
            held.effective = held.permitted;
        }
        Ok(new)
    }

    pub(super) fn change_gid(&self, change: Change) -> Result<Credentials, Errno> {
        let gid = apply(self.gid, change, self.can(SETGID))?;
        Ok(Credentials { gid, ..self.clone() })
    }

    /// `setfsuid`; what is not allowed changes nothing.
    pub(super) fn change_file_system_uid(&self, id: u32) -> Credentials {
        let mut new = self.clone();
        if id == KEEP || !(self.uid.has(id) || id == self.uid.file_system || self.can(SETUID)) {
            return new;
        }
        new.uid.file_system = id;
        let held = &mut new.capabilities;
        if self.uid.file_system == 0 && id != 0 {
            held.effective &= !FILE_SYSTEM;
        }
        if self.uid.file_system != 0 && id == 0 {
            held.effective |= held.permitted & FILE_SYSTEM;
        }
        new
    }

    /// `setfsgid`; what is not allowed changes nothing.
    pub(super) fn change_file_system_gid(&self, id: u32) -> Credentials {
        let mut new = self.clone();
        if id != KEEP && (self.gid.has(id) || id == self.gid.file_system || self.can(SETGID)) {
            new.gid.file_system = id;
        }
        new
    }

    pub(super) fn change_groups(&self, groups: Vec<u32>) -> Result<Credentials, Errno> {
        if !self.can(SETGID) {
            return Err(Errno::PERM);
        }
        Ok(Credentials {
            groups,
            ..self.clone()
        })
    }

    pub(super) fn change_capabilities(&self, new: Capabilities) -> Result<Credentials, Errno> {
        let old = self.capabilities;
        let within = |set: u64, limit: u64| set & !limit == 0;
        let may_inherit = if self.can(SETPCAP) {
            old.inheritable | old.permitted | self.bounding
        } else {
            old.inheritable | old.permitted
        };
        if within(new.permitted, old.permitted)
            && within(new.effective, new.permitted)
            && within(new.inheritable, may_inherit)
        {
            Ok(Credentials {
                capabilities: new,
                ..self.clone()
            })
        } else {
            Err(Errno::PERM)
        }
    }

    /// After the process has become `program`.
    pub(super) fn execute(&self, program: Program) -> Credentials {
        let mut new = self.clone();
        new.keep_capabilities = false;
        if let Some(uid) = program.uid {
            new.uid.effective = uid;
        }
        if let Some(gid) = program.gid {
            new.gid.effective = gid;
        }
        for ids in [&mut new.uid, &mut new.gid] {
            ids.saved = ids.effective;
            ids.file_system = ids.effective;
        }
        let held = &mut new.capabilities;
        if new.uid.real == 0 || new.uid.effective == 0 {
            held.permitted = held.inheritable | self.bounding;
            held.effective = if new.uid.effective == 0 { held.permitted } else { 0 };
        } else {
            let (permitted, inheritable) = program.capabilities;
            held.permitted = held.inheritable & inheritable | permitted & self.bounding;
            held.effective = if program.effective { held.permitted } else { 0 };
        }
        new
    }
}

fn apply(ids: Ids, change: Change, privileged: bool) -> Result<Ids, Errno> {
    match change {
        Change::One(id) => ids.set(id, privileged),
        Change::Two(real, effective) => ids.set_two(real, effective, privileged),
        Change::Three(wanted) => ids.set_three(wanted, privileged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = 0xa804_25fb;

    fn root() -> Credentials {
        Credentials::first(0, 0, vec![0], ALL)
    }

    fn ids(real: u32, effective: u32, saved: u32) -> Ids {
        Ids {
            real,
            effective,
            saved,
            file_system: effective,
        }
    }

    #[test]
    fn dropping_privileges_is_final() {
        let user = root()
            .change_groups(vec![100])
            .and_then(|c| c.change_gid(Change::Three([100; 3])))
            .and_then(|c| c.change_uid(Change::Three([42; 3])))
            .unwrap();
        assert_eq!((user.uid, user.gid), (Ids::all(42), Ids::all(100)));
        assert_eq!(user.capabilities, Capabilities::default());
        for change in [
            Change::One(0),
            Change::Two(KEEP, 0),
            Change::Three([KEEP, KEEP, 0]),
        ] {
            assert_eq!(user.change_uid(change), Err(Errno::PERM), "{change:?}");
            assert_eq!(user.change_gid(change), Err(Errno::PERM), "{change:?}");
        }
        assert_eq!(user.change_groups(Vec::new()), Err(Errno::PERM));
        assert_eq!(user.change_uid(Change::One(42)).unwrap(), user);
        assert_eq!(user.change_uid(Change::One(KEEP)), Err(Errno::INVAL));
    }

    #[test]
    fn an_effective_id_comes_back_by_the_saved_one() {
        let lent = root().change_uid(Change::Two(KEEP, 42)).unwrap();
        assert_eq!(lent.uid, ids(0, 42, 42));
        assert_eq!(lent.capabilities.effective, 0);
        assert_eq!(lent.capabilities.permitted, ALL);
        let back = lent.change_uid(Change::Two(KEEP, 0)).unwrap();
        assert_eq!(back.uid, ids(0, 0, 42));
        assert_eq!(back.capabilities.effective, ALL);
        let lent = root().change_uid(Change::Three([KEEP, 42, KEEP])).unwrap();
        assert_eq!(lent.uid, ids(0, 42, 0));
        assert_eq!(lent.change_uid(Change::One(0)).unwrap().uid, ids(0, 0, 0));
    }

    #[test]
    fn capabilities_are_kept_on_request() {
        let mut keeping = root();
        keeping.keep_capabilities = true;
        let user = keeping.change_uid(Change::One(42)).unwrap();
        assert_eq!(user.capabilities.permitted, ALL);
        assert_eq!(user.capabilities.effective, 0);
        let raised = Capabilities {
            effective: SETUID,
            permitted: SETUID,
            inheritable: 0,
        };
        let raised = user.change_capabilities(raised).unwrap();
        assert_eq!(raised.change_uid(Change::One(0)).unwrap().uid, Ids::all(0));
        assert_eq!(raised.change_capabilities(user.capabilities), Err(Errno::PERM));
    }

    #[test]
    fn programs_change_who_runs_them() {
        let user = Credentials::first(42, 42, vec![42], ALL);
        let plain = user.execute(Program::default());
        assert_eq!(plain, user);
        let su = Program {
            uid: Some(0),
            ..Program::default()
        };
        let set = user.execute(su);
        assert_eq!(set.uid, ids(42, 0, 0));
        assert_eq!(set.capabilities.effective, ALL);
        assert_eq!(set.change_uid(Change::One(0)).unwrap().uid, Ids::all(0));
        let ping = Program {
            capabilities: (1 << 13, 0),
            effective: true,
            ..Program::default()
        };
        assert_eq!(user.execute(ping).capabilities.effective, 1 << 13);
        assert_eq!(root().execute(ping), root());
        let reduced = root().change_capabilities(Capabilities::default()).unwrap();
        assert_eq!(reduced.execute(Program::default()), root());
    }

    #[test]
    fn file_system_ids_take_what_concerns_files() {
        let lent = root().change_file_system_uid(7);
        assert_eq!(lent.uid.file_system, 7);
        assert!(!lent.can(CHOWN) && lent.can(SETUID));
        assert_eq!(lent.change_file_system_uid(0), root());
        let user = Credentials::first(42, 42, Vec::new(), ALL);
        assert_eq!(user.change_file_system_uid(0), user);
    }
}
