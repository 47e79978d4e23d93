//! Programs of other machines. Nothing else in the suite uses the two of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::env::{Env, Run, as_every_user};

/// One that no test registers.
const MISSING: &str = "s390x";
/// One that a test registers for itself.
const EMULATED: &str = "riscv64";

#[test]
fn a_step_that_no_emulator_runs_fails_before_anything_runs() {
    as_every_user(|env| {
        if registered(MISSING) {
            eprintln!("skipped: this machine runs programs for {MISSING}");
            return;
        }
        env.base();
        let dockerfile = "FROM --platform=$BUILDPLATFORM base AS native\nRUN echo ran-$((40 + 2)) > /file; cat /file\n\
                          FROM scratch\nCOPY --from=native /file /\nRUN [\"/program\"]\n";
        let platform = format!("--platform=linux/{MISSING}");
        let run = env.build("foreign", dockerfile, &[&platform]).fails(1);
        assert_eq!(run.count("ran-42"), 0, "{}", run.stderr);
        for text in [
            "Dockerfile:5\n",
            "a program for linux/s390x cannot be run on linux/",
            "no emulator for linux/s390x is registered",
            "hint: as root of this machine: apt-get install qemu-user-static",
        ] {
            assert!(run.stderr.contains(text), "{text}: {}", run.stderr);
        }
        // Nothing of the target is run: nothing is needed.
        let (cross, _) = dockerfile.rsplit_once("RUN").unwrap();
        let run = env.build("cross", cross, &[&platform]).ok();
        assert_eq!(run.count("ran-42\n"), 1, "{}", run.stderr);
        assert_eq!(env.inspect("cross")["Architecture"], MISSING);
        // A stage that the target does not use may need whatever it likes.
        let unused = format!("FROM scratch AS unused\nRUN [\"/program\"]\n{cross}");
        env.build("unused", &unused, &[&platform]).ok();
    });
}

#[test]
fn a_registered_emulator_runs_steps() {
    let emulator = Path::new("/usr/bin/qemu-riscv64-static");
    if !emulator.exists() || !Env::of_caller().is_root() {
        eprintln!(
            "skipped: it takes root, and {} (package qemu-user-static)",
            emulator.display()
        );
        return;
    }
    as_every_user(|env| {
        let program = env.write("emulated/program", program());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let dockerfile = "FROM scratch\nCOPY program /\nRUN [\"/program\"]\n";
        env.write("emulated/Dockerfile", dockerfile);
        let build = |flags: &str, interpreter: &str| {
            let context = env.path("emulated");
            let args = [
                "build",
                "--progress=plain",
                "--no-cache",
                "--platform=linux/riscv64",
            ];
            let build = env.rbuild_command(args.into_iter().chain([context.to_str().unwrap()]));
            with_emulator(&build, flags, interpreter)
        };
        let run = build("F", emulator.to_str().unwrap()).ok();
        assert_eq!(run.count("for riscv64\n"), 1, "{}", run.stderr);
        // Without the flag it would have to be in the image.
        let run = build("", "/nowhere/qemu").fails(1);
        assert!(run.stderr.contains("registered without flag F"), "{}", run.stderr);
    });
}

/// Runs `command` where an emulator is registered, in a mount namespace whose end takes the list away.
fn with_emulator(command: &Command, flags: &str, interpreter: &str) -> Run {
    let script = format!(
        "set -e; d=/proc/sys/fs/binfmt_misc; mount -t binfmt_misc none $d\n\
         trap 'test ! -e $d/{NAME} || echo -1 > $d/{NAME}; umount $d' EXIT\n\
         printf '%s' ':{NAME}:M::{MAGIC}:{MASK}:{interpreter}:{flags}' > $d/register\n\"$@\""
    );
    let mut within = Command::new("flock");
    // One at a time: the list is the machine's.
    within.arg(env!("CARGO_BIN_EXE_rbuild"));
    within.args(["unshare", "-m", "sh", "-c", &script, "sh"]);
    within.arg(command.get_program()).args(command.get_args());
    within.env_clear().current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        within.env(name, value.unwrap_or_default());
    }
    within.output().unwrap().into()
}

const NAME: &str = "rbuild-test-riscv64";
const MAGIC: &str = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00";
const MASK: &str = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";

fn registered(architecture: &str) -> bool {
    let qemu = Path::new("/proc/sys/fs/binfmt_misc").join(format!("qemu-{architecture}"));
    qemu.exists() || std::env::consts::ARCH == architecture
}

/// A static program that says which machine it is for.
fn program() -> Vec<u8> {
    let text = format!("for {EMULATED}\n");
    let code: [u32; 9] = [
        0x0010_0513,                             // li a0, 1
        0x0000_0597,                             // auipc a1, 0
        0x0205_8593,                             // addi a1, a1, 32: the text behind the code
        0x0000_0613 | (text.len() as u32) << 20, // li a2, length
        0x0400_0893,                             // li a7, write
        0x0000_0073,                             // ecall
        0x0000_0513,                             // li a0, 0
        0x05d0_0893,                             // li a7, exit
        0x0000_0073,                             // ecall
    ];
    let address = 0x40_0000_u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xf3\0\x01\0\0\0".to_vec();
    for word in [address + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, address, address, 0x1000, 0x1000, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code.iter().flat_map(|word| word.to_le_bytes()));
    file.extend(text.bytes());
    file.resize(0x1000, 0);
    file
}
