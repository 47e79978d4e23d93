//! The system call filter of a step: Docker's default profile, assembled once per build.
//!
//! The program looks at the architecture, then finds the call number by binary search over
//! ranges, so that the usual call costs some ten instructions; calls that depend on an
//! argument end in a short block of their own. Both 64-bit machines also admit their 32-bit
//! sub-architecture (and x32), as libseccomp does for Docker; any other one is killed.

mod assembler;
mod capability;
mod custom;
mod document;
mod profile;
mod table;

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;

use crate::Error;
use crate::privilege::{Capabilities, SystemCalls};
use crate::spec::ExecSpec;
use crate::sys::BpfInstruction;
use assembler::{Action, Assembler};
pub use document::ProfileError;
use document::{Argument, Operator};
use profile::{
    ALLOWED, CLONE, CLONE3, NAMESPACE_FLAGS, NO, PERSONALITIES, PERSONALITY, SOCKET, SOCKET_FAMILIES, X32_OWN,
};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

/// Marks an x32 call under the x86_64 architecture.
const X32_BIT: u32 = 0x4000_0000;

/// Arm's private calls start here; they say nothing about how new a call is.
const ARM_PRIVATE: u32 = 0xf_0000;

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

const RET_ALLOW: u32 = 0x7fff_0000;
const RET_NOTIFY: u32 = 0x7fc0_0000;

/// Which arguments make a call one to be handed over. Arguments are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    Any,
    /// The argument is this number.
    Value(u8, u32),
}

/// A filter ready to be installed.
#[derive(Debug)]
pub(crate) struct Filter {
    program: Vec<BpfInstruction>,
    /// Flags of seccomp(2).
    flags: u32,
}

impl Filter {
    /// The default profile for a step with `capabilities`, on the machine this is compiled for.
    fn usual(capabilities: CapabilitySet) -> Result<Filter, Error> {
        match native() {
            [] => Err(Error::Setup(
                "no system call filter is known for this machine".to_owned(),
            )),
            columns => Ok(Filter::for_architectures(columns, capabilities)),
        }
    }

    fn for_architectures(columns: &[(u32, usize)], capabilities: CapabilitySet) -> Filter {
        let mut asm = Assembler::new();
        for &(arch, column) in columns {
            asm.architecture(arch, &decisions(column, capabilities), |asm| {
                asm.clone_block(NAMESPACE_FLAGS, EPERM);
                asm.values_block(PERSONALITIES, EPERM);
                asm.ranges_block(SOCKET_FAMILIES, EPERM);
            });
        }
        Filter {
            program: asm.finish(),
            flags: 0,
        }
    }

    /// A filter that hands the given calls of this machine's own architecture to whoever listens, and allows all
    /// others.
    pub(crate) fn notifying(calls: &[(u32, Arguments)]) -> Option<Filter> {
        let &(arch, _) = native().first()?;
        let mut single: BTreeMap<u32, Action> = BTreeMap::new();
        let mut blocks = Vec::new();
        for &(number, arguments) in calls {
            let action = match arguments {
                Arguments::Any => Action::Return(RET_NOTIFY),
                _ => {
                    blocks.push(arguments);
                    Action::Block(blocks.len() - 1)
                }
            };
            single.insert(number, action);
        }
        let mut changes = vec![(0, Action::Allow)];
        let mut push = |number: u32, action: Action| match changes.last_mut() {
            Some((_, last)) if *last == action => {}
            Some((at, last)) if *at == number => *last = action,
            _ => changes.push((number, action)),
        };
        for (number, action) in single {
            push(number, action);
            push(number + 1, Action::Allow);
        }
        let mut asm = Assembler::new();
        asm.architecture(arch, &changes, |asm| {
            for block in &blocks {
                let masked = |index: u8, mask: u32, wanted: u32| Argument {
                    index,
                    value: mask.into(),
                    value_two: wanted.into(),
                    op: Operator::MaskedEqual,
                };
                match *block {
                    Arguments::Value(index, value) => {
                        let equal = (vec![masked(index, u32::MAX, value)], RET_NOTIFY);
                        asm.rules_block(&[equal], RET_ALLOW);
                    }
                    Arguments::Any => {}
                }
            }
        });
        Some(Filter {
            program: asm.finish_allowing(),
            flags: 0,
        })
    }

    /// The instructions.
    pub(crate) fn program(&self) -> &[BpfInstruction] {
        &self.program
    }

    /// Flags of seccomp(2).
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }
}

/// Reads the seccomp profile `text` as for a step with `capabilities`, to learn whether it can be used.
pub fn check_profile(text: &str, capabilities: Capabilities) -> Result<(), ProfileError> {
    custom::assemble(text, capabilities.set()).map(drop)
}

/// The filters of a build's steps, each assembled once.
#[derive(Debug, Default)]
pub(crate) struct Filters(Vec<(SystemCalls, Capabilities, Filter)>);

impl Filters {
    /// Assembles the filter that `spec` needs, if it is not there yet.
    pub(crate) fn prepare(&mut self, spec: &ExecSpec) -> Result<(), Error> {
        let privileges = &spec.privileges;
        if spec.insecure || self.of(spec).is_some() {
            return Ok(());
        }
        let filter = match &privileges.system_calls {
            SystemCalls::Unconfined => return Ok(()),
            SystemCalls::Profile(text) => custom::assemble(text, privileges.capabilities.set())
                .map_err(|error| Error::Setup(format!("reading the seccomp profile: {error}")))?,
            SystemCalls::Usual => Filter::usual(privileges.capabilities.set())?,
        };
        self.0
            .push((privileges.system_calls.clone(), privileges.capabilities, filter));
        Ok(())
    }

    /// The filter of `spec`, which was prepared; `None` for a step that may make all calls.
    pub(crate) fn of(&self, spec: &ExecSpec) -> Option<&Filter> {
        if spec.insecure {
            return None;
        }
        let wanted = &spec.privileges;
        let mut filters = self.0.iter();
        let found = filters.find(|(calls, capabilities, _)| {
            *calls == wanted.system_calls && *capabilities == wanted.capabilities
        });
        found.map(|(_, _, filter)| filter)
    }
}

/// The architectures that this machine runs, with their columns of the tables; none where there is no table.
fn native() -> &'static [(u32, usize)] {
    if cfg!(target_arch = "x86_64") {
        &[(AUDIT_ARCH_X86_64, 0), (AUDIT_ARCH_I386, 1)]
    } else if cfg!(target_arch = "aarch64") {
        &[(AUDIT_ARCH_AARCH64, 2), (AUDIT_ARCH_ARM, 3)]
    } else {
        &[]
    }
}

/// Where the answer changes, walking up the call numbers: from each number on, this action.
fn decisions(column: usize, capabilities: CapabilitySet) -> Vec<(u32, Action)> {
    let mut single: BTreeMap<u32, Action> = BTreeMap::new();
    let mut newest = 0;
    for row in ALLOWED {
        let number = [row.1, row.2, row.3, row.4][column];
        if number == NO {
            continue;
        }
        single.insert(number, Action::Allow);
        if number < ARM_PRIVATE {
            newest = newest.max(number);
        }
    }
    single.insert(CLONE[column], Action::Block(0));
    single.insert(CLONE3[column], Action::Errno(ENOSYS));
    single.insert(PERSONALITY[column], Action::Block(1));
    single.insert(SOCKET[column], Action::Block(2));
    for number in capability::allowed(capabilities).filter_map(|name| table::number(name, column)) {
        single.insert(number, Action::Allow);
    }
    if column == 0 {
        let shared: Vec<_> = single.range(..512).map(|(n, a)| (n | X32_BIT, *a)).collect();
        single.extend(shared);
        for &(first, last) in X32_OWN {
            single.extend((first..=last).map(|n| (n | X32_BIT, Action::Allow)));
        }
    }

    spread(single, newest, Action::Errno(EPERM), Action::Errno(ENOSYS))
}

/// Decisions from single calls: the others get `below` up to the `newest` call, and `above` after it.
fn spread(single: BTreeMap<u32, Action>, newest: u32, below: Action, above: Action) -> Vec<(u32, Action)> {
    let default = |number: u32| if number <= newest { below } else { above };
    let mut changes: Vec<(u32, Action)> = Vec::new();
    let mut push = |number: u32, action: Action| {
        if changes.last().is_none_or(|(_, last)| *last != action) {
            changes.push((number, action));
        }
    };
    let mut next = 0;
    for (number, action) in single {
        if next < number {
            push(next, default(next));
            if next <= newest && newest < number - 1 {
                push(newest + 1, above);
            }
        }
        push(number, action);
        next = number + 1;
    }
    push(next, above);
    changes
}

/// Refuses a signal to everybody, `kill(-1)`, which reaches the builder where no namespace and no Landlock keeps it in.
pub(crate) fn no_signal_to_all() -> Vec<BpfInstruction> {
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0000 | EPERM as u32;
    let own = if cfg!(target_arch = "aarch64") {
        [129, 129, 37]
    } else {
        [62, 62 | X32_BIT, 37]
    };
    let step = |code, k, jt, jf| BpfInstruction { code, jt, jf, k };
    // The number of the call, the low half of the first argument; numbers of other architectures that mean another call
    // take no -1 first.
    vec![
        step(LOAD, 0, 0, 0),
        step(EQUAL, own[0], 3, 0),
        step(EQUAL, own[1], 2, 0),
        step(EQUAL, own[2], 1, 0),
        step(RETURN, ALLOW, 0, 0),
        step(LOAD, 16, 0, 0),
        step(EQUAL, u32::MAX, 0, 1),
        step(RETURN, REFUSE, 0, 0),
        step(RETURN, ALLOW, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::assembler::simulate;
    use super::*;
    use crate::caps::DOCKER_DEFAULT;

    const X86: [(u32, usize); 2] = [(AUDIT_ARCH_X86_64, 0), (AUDIT_ARCH_I386, 1)];
    const ARM: [(u32, usize); 2] = [(AUDIT_ARCH_AARCH64, 2), (AUDIT_ARCH_ARM, 3)];
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;

    fn errno(e: u16) -> u32 {
        0x0005_0000 | u32::from(e)
    }

    #[test]
    fn every_call_gets_its_answer() {
        let filter = Filter::for_architectures(&X86, DOCKER_DEFAULT);
        let run = |arch, nr, args: [u64; 6]| simulate(filter.program(), arch, nr, args);
        for row in ALLOWED {
            for (arch, nr) in [(AUDIT_ARCH_X86_64, row.1), (AUDIT_ARCH_I386, row.2)] {
                if nr != NO {
                    assert_eq!(run(arch, nr, [0; 6]), ALLOW, "{} on {arch:x}", row.0);
                }
            }
        }
        let x64 = AUDIT_ARCH_X86_64;
        let cases: &[(&str, u32, u32, u64, u32)] = &[
            ("mount", x64, 165, 0, errno(EPERM)),
            ("umount2", x64, 166, 0, errno(EPERM)),
            ("unshare", x64, 272, 0, errno(EPERM)),
            ("keyctl", x64, 250, 0, errno(EPERM)),
            ("bpf", x64, 321, 0, errno(EPERM)),
            ("io_uring_setup", x64, 425, 0, errno(EPERM)),
            ("userfaultfd", x64, 323, 0, errno(EPERM)),
            ("clone3", x64, 435, 0, errno(ENOSYS)),
            ("newer than the table", x64, 467, 0, errno(ENOSYS)),
            ("thread", x64, 56, 0x0031_0f00, ALLOW),
            ("clone of a user namespace", x64, 56, 0x1000_0011, errno(EPERM)),
            ("clone of a mount namespace", x64, 56, 0x0002_0011, errno(EPERM)),
            ("clone of a cgroup namespace", x64, 56, 0x0200_0011, errno(EPERM)),
            ("personality linux", x64, 135, 0, ALLOW),
            ("personality query", x64, 135, 0xffff_ffff, ALLOW),
            ("personality no-randomize", x64, 135, 0x0004_0000, errno(EPERM)),
            ("unix socket", x64, 41, 1, ALLOW),
            ("netlink socket", x64, 41, 16, ALLOW),
            ("alg socket", x64, 41, 38, errno(EPERM)),
            ("vsock socket", x64, 41, 40, errno(EPERM)),
            ("x32 read", x64, X32_BIT, 0, ALLOW),
            ("x32 ioctl", x64, X32_BIT | 514, 0, ALLOW),
            ("x32 kexec_load", x64, X32_BIT | 528, 0, errno(ENOSYS)),
            (
                "x32 clone of a user namespace",
                x64,
                X32_BIT | 56,
                0x1000_0011,
                errno(EPERM),
            ),
            ("i386 mount", AUDIT_ARCH_I386, 21, 0, errno(EPERM)),
            (
                "i386 clone of a user namespace",
                AUDIT_ARCH_I386,
                120,
                0x1000_0011,
                errno(EPERM),
            ),
            ("i386 vsock socket", AUDIT_ARCH_I386, 359, 40, errno(EPERM)),
            ("another architecture", AUDIT_ARCH_ARM, 4, 0, KILL),
        ];
        for &(name, arch, nr, arg, expected) in cases {
            assert_eq!(run(arch, nr, [arg, 0, 0, 0, 0, 0]), expected, "{name}");
        }
    }

    #[test]
    fn capabilities_bring_their_calls() {
        let filter = Filter::for_architectures(&X86, DOCKER_DEFAULT.union(CapabilitySet::SYS_ADMIN));
        let run = |nr, arg| simulate(filter.program(), AUDIT_ARCH_X86_64, nr, [arg, 0, 0, 0, 0, 0]);
        assert_eq!(run(165, 0), ALLOW, "mount");
        assert_eq!(run(56, 0x1000_0011), ALLOW, "clone of a user namespace");
        assert_eq!(run(435, 0), ALLOW, "clone3");
        assert_eq!(run(175, 0), errno(EPERM), "init_module");
        assert_eq!(run(425, 0), errno(EPERM), "io_uring_setup");
    }

    #[test]
    fn only_what_was_asked_for_is_handed_over() {
        const NOTIFY: u32 = 0x7fc0_0000;
        let calls = [
            (4, Arguments::Any),
            (5, Arguments::Any),
            (2, Arguments::Value(1, 0x40)),
            (257, Arguments::Value(2, 0x40)),
            (302, Arguments::Value(1, 10)),
        ];
        let Some(filter) = Filter::notifying(&calls) else {
            return;
        };
        let own = if cfg!(target_arch = "aarch64") {
            AUDIT_ARCH_AARCH64
        } else {
            AUDIT_ARCH_X86_64
        };
        let run = |arch, nr, args: [u64; 6]| simulate(filter.program(), arch, nr, args);
        for (nr, args, expected) in [
            (0, [0; 6], ALLOW),
            (3, [0; 6], ALLOW),
            (4, [0; 6], NOTIFY),
            (5, [0; 6], NOTIFY),
            (6, [0; 6], ALLOW),
            (2, [0, 0x40, 0, 0, 0, 0], NOTIFY),
            (2, [0x40, 0x1, 0x40, 0, 0, 0], ALLOW),
            (257, [0, 0, 0x40, 0, 0, 0], NOTIFY),
            (257, [0, 0, 0x41, 0, 0, 0], ALLOW),
            (257, [0, 0x40, 0, 0, 0, 0], ALLOW),
            (302, [0, 10, 0, 0, 0, 0], NOTIFY),
            (302, [10, 7, 0, 0, 0, 0], ALLOW),
            (500, [0; 6], ALLOW),
        ] {
            assert_eq!(run(own, nr, args), expected, "{nr} {args:?}");
        }
        assert_eq!(run(AUDIT_ARCH_ARM, 4, [0; 6]), ALLOW);
        assert_eq!(run(own, X32_BIT | 4, [0; 6]), ALLOW);
    }

    #[test]
    fn arm_keeps_its_private_calls() {
        let filter = Filter::for_architectures(&ARM, DOCKER_DEFAULT);
        let run = |arch, nr| simulate(filter.program(), arch, nr, [0; 6]);
        assert_eq!(run(AUDIT_ARCH_ARM, 0xf0002), ALLOW);
        assert_eq!(run(AUDIT_ARCH_ARM, 0xf0003), errno(ENOSYS));
        assert_eq!(run(AUDIT_ARCH_ARM, 500), errno(ENOSYS));
        assert_eq!(run(AUDIT_ARCH_AARCH64, 40), errno(EPERM), "mount");
        assert_eq!(run(AUDIT_ARCH_AARCH64, 63), ALLOW, "read");
        assert_eq!(run(AUDIT_ARCH_X86_64, 0), KILL);
    }
}
