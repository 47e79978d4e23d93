//! A profile of the user, assembled for this machine with the rules of libseccomp and runc: a rule without arguments
//! goes before those with arguments, of which the first that matches counts; two conditions on one argument are two
//! rules; calls newer than all that the profile names do not exist (ENOSYS) unless it lets unknown ones through; calls
//! that nobody knows are passed over.

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;

use super::assembler::{Action, Assembler};
use super::document::{Architecture, Argument, Circumstances, Document, ProfileError, version};
use super::{ENOSYS, Filter, X32_BIT, native, spread, table};

/// The kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

/// What a call gets: unconditionally, or by the first of the rules that matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answers {
    always: Option<u32>,
    rules: Vec<(Vec<Argument>, u32)>,
}

/// Assembles the profile for a step that holds `capabilities`.
pub(super) fn assemble(text: &str, capabilities: CapabilitySet) -> Result<Filter, ProfileError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let circumstances = Circumstances {
        capabilities,
        architecture: if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "amd64"
        },
        kernel: version(&release).unwrap_or_default(),
    };
    assemble_for(text, circumstances, native())
}

fn assemble_for(
    text: &str,
    circumstances: Circumstances<'_>,
    native: &[(u32, usize)],
) -> Result<Filter, ProfileError> {
    let document = Document::parse(text)?;
    let default = document.default()?;
    let admitted = admitted(&document, native);
    let x32 = admitted.contains(&Architecture::X32);
    let mut asm = Assembler::new();
    for (position, &(arch, column)) in native.iter().enumerate() {
        if position > 0 && !admitted.contains(&COLUMNS[column]) {
            continue;
        }
        let known = answers(&document, default, circumstances, |name| {
            table::number(name, column)
        });
        let newest = known
            .keys()
            .copied()
            .filter(|number| *number < super::ARM_PRIVATE)
            .max();
        let mut single = known;
        if column == 0 && x32 {
            let own = answers(&document, default, circumstances, table::x32_number);
            single.extend(
                own.into_iter()
                    .map(|(number, answers)| (number | X32_BIT, answers)),
            );
        }
        let above = if document.is_open() {
            default
        } else {
            0x0005_0000 | u32::from(ENOSYS)
        };
        let mut blocks: Vec<Vec<(Vec<Argument>, u32)>> = Vec::new();
        let mut actions: BTreeMap<u32, Action> = BTreeMap::new();
        for (number, answers) in single {
            let action = match answers.always {
                Some(value) => Action::Return(value),
                None => {
                    let place = blocks.iter().position(|rules| *rules == answers.rules);
                    Action::Block(place.unwrap_or_else(|| {
                        blocks.push(answers.rules);
                        blocks.len() - 1
                    }))
                }
            };
            actions.insert(number, action);
        }
        let mut changes = spread(
            actions,
            newest.unwrap_or(0),
            Action::Return(default),
            Action::Return(above),
        );
        if column == 0 && !x32 {
            changes.push((X32_BIT, Action::Return(0x8000_0000)));
        }
        asm.architecture(arch, &changes, |asm| {
            for rules in &blocks {
                asm.rules_block(rules, default);
            }
        });
    }
    let program = asm.finish();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(ProfileError(format!(
            "the profile makes {} instructions and the kernel takes {MAX_INSTRUCTIONS}: use fewer rules with arguments",
            program.len()
        )));
    }
    Ok(Filter {
        program,
        flags: document.flags(),
    })
}

const COLUMNS: [Architecture; 4] = [
    Architecture::X86_64,
    Architecture::I386,
    Architecture::Aarch64,
    Architecture::Arm,
];

/// The architectures whose calls are not killed; that of the machine always is one.
fn admitted(document: &Document, native: &[(u32, usize)]) -> Vec<Architecture> {
    let mut admitted = document.architectures.clone().unwrap_or_default();
    let machine = native.first().map(|(_, column)| COLUMNS[*column]);
    for map in document.arch_map.iter().flatten() {
        if Some(map.architecture) == machine {
            admitted.extend(map.sub_architectures.iter().flatten());
        }
    }
    admitted
}

/// The answers to all calls that have a number.
fn answers(
    document: &Document,
    default: u32,
    circumstances: Circumstances<'_>,
    number: impl Fn(&str) -> Option<u32>,
) -> BTreeMap<u32, Answers> {
    let mut all: BTreeMap<u32, Answers> = BTreeMap::new();
    for rule in document.rules() {
        let Ok(value) = rule.answer() else { continue };
        if value == default || !rule.applies(circumstances) {
            continue;
        }
        let arguments = rule.args.as_deref().unwrap_or_default();
        let twice = |one: &Argument| arguments.iter().filter(|other| other.index == one.index).count() > 1;
        for number in rule.names().filter_map(&number) {
            let answers = all.entry(number).or_default();
            if arguments.is_empty() {
                answers.always.get_or_insert(value);
            } else if arguments.iter().any(twice) {
                answers
                    .rules
                    .extend(arguments.iter().map(|one| (vec![*one], value)));
            } else {
                answers.rules.push((arguments.to_vec(), value));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::assembler::simulate;
    use super::super::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64};
    use super::*;
    use crate::caps::DOCKER_DEFAULT;

    const X86: [(u32, usize); 2] = [(AUDIT_ARCH_X86_64, 0), (AUDIT_ARCH_I386, 1)];
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;

    fn here(capabilities: CapabilitySet) -> Circumstances<'static> {
        Circumstances {
            capabilities,
            architecture: "amd64",
            kernel: (6, 1),
        }
    }

    fn filter(text: &str) -> Filter {
        assemble_for(text, here(DOCKER_DEFAULT), &X86).unwrap()
    }

    fn errno(e: u32) -> u32 {
        0x0005_0000 | e
    }

    #[test]
    fn every_operator_compares_64_bits() {
        let big = 0x1_0000_0005_u64;
        for (op, matching, other) in [
            ("EQ", &[big][..], &[5, big + 1, 0x2_0000_0005][..]),
            ("NE", &[5, big + 1, 0x2_0000_0005], &[big]),
            ("LT", &[0, 5, u32::MAX as u64, big - 1], &[big, big + 1, u64::MAX]),
            ("LE", &[0, big - 1, big], &[big + 1, 0x2_0000_0000, u64::MAX]),
            (
                "GE",
                &[big, big + 1, 0x2_0000_0000],
                &[0, big - 1, u32::MAX as u64],
            ),
            (
                "GT",
                &[big + 1, 0x2_0000_0000, u64::MAX],
                &[big, big - 1, u32::MAX as u64],
            ),
        ] {
            let text = format!(
                r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",
                    "args":[{{"index":2,"value":{big},"op":"SCMP_CMP_{op}"}}]}},{{"names":["getdents64"],"action":"SCMP_ACT_ALLOW"}}]}}"#
            );
            let filter = filter(&text);
            let run = |arg| simulate(filter.program(), AUDIT_ARCH_X86_64, 0, [0, 0, arg, 0, 0, 0]);
            for arg in matching {
                assert_eq!(run(*arg), ALLOW, "{op} {arg:#x}");
            }
            for arg in other {
                assert_eq!(run(*arg), errno(1), "{op} {arg:#x}");
            }
        }
        let filter = filter(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"clone","action":"SCMP_ACT_ERRNO","errnoRet":13,
                "args":[{"index":0,"value":4294967312,"valueTwo":16,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#,
        );
        let run = |arg| simulate(filter.program(), AUDIT_ARCH_X86_64, 56, [arg, 0, 0, 0, 0, 0]);
        assert_eq!((run(0x10), run(0xff)), (errno(13), errno(13)));
        assert_eq!((run(0), run(0x1_0000_0010)), (ALLOW, ALLOW));
    }

    #[test]
    fn rules_are_put_together_as_by_libseccomp() {
        let filter = filter(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":2,
              "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
              "syscalls":[
                {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
                {"names":["prctl"],"action":"SCMP_ACT_ALLOW","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":2,"op":"SCMP_CMP_EQ"}]},
                {"names":["mkdir"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
                {"names":["mkdir","no_such_call"],"action":"SCMP_ACT_ALLOW"},
                {"names":["mkdir"],"action":"SCMP_ACT_KILL"},
                {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
                {"names":["ptrace"],"action":"SCMP_ACT_TRAP","includes":{"minKernel":"4.8"}},
                {"names":["bpf"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"6.2"}},
                {"names":["reboot"],"action":"SCMP_ACT_TRACE","errnoRet":7,"excludes":{"arches":["arm64"]}},
                {"names":["acct"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64","s390x"]}},
                {"names":["swapon"],"action":"SCMP_ACT_KILL_PROCESS","args":null,"includes":{},"comment":"x"}]}"#,
        );
        let run = |nr, args: [u64; 6]| simulate(filter.program(), AUDIT_ARCH_X86_64, nr, args);
        for (what, nr, first, second, expected) in [
            ("one of two values", 41, 1, 0, ALLOW),
            ("the other of two values", 41, 2, 0, ALLOW),
            ("none of two values", 41, 3, 0, errno(2)),
            ("both conditions", 157, 1, 2, ALLOW),
            ("one of two conditions", 157, 1, 3, errno(2)),
            (
                "without arguments goes first, and the first of them",
                83,
                1,
                0,
                ALLOW,
            ),
            ("a capability that is not held", 165, 0, 0, errno(2)),
            ("a kernel that is new enough", 101, 0, 0, 0x0003_0000),
            ("a kernel that is not new enough", 321, 0, 0, errno(38)),
            ("not excluded", 169, 0, 0, 0x7ff0_0007),
            ("of another architecture", 163, 0, 0, errno(2)),
            ("killed", 167, 0, 0, KILL),
            ("newer than all that is named", 300, 0, 0, errno(38)),
            ("x32 is not admitted", X32_BIT | 83, 0, 0, KILL),
        ] {
            assert_eq!(run(nr, [first, second, 0, 0, 0, 0]), expected, "{what}");
        }
        let i386 = |nr| simulate(filter.program(), AUDIT_ARCH_I386, nr, [0; 6]);
        assert_eq!((i386(39), i386(21)), (ALLOW, errno(2)), "mkdir, mount");
        assert_eq!(simulate(filter.program(), 1, 39, [0; 6]), KILL);
    }

    #[test]
    fn architectures_that_are_not_listed_are_killed() {
        let filter = filter(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"],
               "flags":["SECCOMP_FILTER_FLAG_LOG"]}"#,
        );
        assert_eq!(filter.flags, 2);
        assert_eq!(simulate(filter.program(), AUDIT_ARCH_X86_64, 900, [0; 6]), ALLOW);
        assert_eq!(
            simulate(filter.program(), AUDIT_ARCH_X86_64, X32_BIT | 1, [0; 6]),
            ALLOW
        );
        assert_eq!(simulate(filter.program(), AUDIT_ARCH_I386, 1, [0; 6]), KILL);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, expected) in [
            ("{", "at line 1 column 1"),
            ("{}", "missing field `defaultAction`"),
            (
                "{\n \"defaultAction\": \"SCMP_ACT_PERMIT\"}",
                "unknown variant `SCMP_ACT_PERMIT`",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_NOTIFY"}]}"#,
                "syscalls[0]: SCMP_ACT_NOTIFY is not supported",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"name":"b","action":"SCMP_ACT_KILL"}]}"#,
                "use either \"name\" or \"names\"",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86"}]}"#,
                "use either \"architectures\" or \"archMap\"",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_KILL","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
                "arguments 0 to 5, not 6",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":5000}"#,
                "5000 is no error number",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_KILL","includes":{"caps":["CAP_X"]}}]}"#,
                "unknown capability \"CAP_X\"",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}"#,
                "listenerPath",
            ),
        ] {
            let error = assemble(text, DOCKER_DEFAULT).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_program_may_be_long_but_not_too_long() {
        let rules = |count: u64| {
            let rule = |n: u64| {
                format!(
                    r#"{{"names":["read","write","openat"],"action":"SCMP_ACT_ERRNO","args":[{{"index":1,"value":{n},"op":"SCMP_CMP_EQ"}}]}}"#
                )
            };
            let rules: Vec<String> = (0..count).map(rule).collect();
            format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#,
                rules.join(",")
            )
        };
        let long = filter(&rules(600));
        assert!(long.program().len() > 2000);
        let run = |arg| simulate(long.program(), AUDIT_ARCH_X86_64, 257, [0, arg, 0, 0, 0, 0]);
        assert_eq!((run(0), run(599), run(600)), (errno(1), errno(1), ALLOW));
        let error = assemble_for(&rules(3000), here(DOCKER_DEFAULT), &X86).unwrap_err();
        assert!(error.to_string().contains("the kernel takes 4096"), "{error}");
    }

    #[test]
    fn the_profile_of_podman_is_understood() {
        let Ok(text) = std::fs::read_to_string("/usr/share/containers/seccomp.json") else {
            eprintln!("skipped: podman's profile is not installed");
            return;
        };
        let filter = assemble_for(&text, here(DOCKER_DEFAULT), &X86).unwrap();
        let run = |nr, arg| simulate(filter.program(), AUDIT_ARCH_X86_64, nr, [arg, 0, 0, 0, 0, 0]);
        assert_eq!(run(0, 0), ALLOW, "read");
        assert_eq!(run(175, 0), errno(1), "init_module");
        assert_eq!(run(135, 0x0004_0000), errno(38), "personality");
    }
}
