//! What rbuild itself runs and maps while an image is at hand that has answers prepared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::guard::{Guard, with_namespaces};

/// Where programs and libraries that a builder could be led to are found.
const EVIL: [&str; 12] = [
    "usr/bin/xz",
    "usr/bin/unpigz",
    "usr/bin/git",
    "usr/bin/newuidmap",
    "usr/bin/newgidmap",
    "usr/bin/tar",
    "usr/bin/pasta",
    "usr/bin/slirp4netns",
    "lib/libnss_files.so.2",
    "lib/x86_64-linux-gnu/libnss_compat.so.2",
    "lib/x86_64-linux-gnu/libc.so.6",
    "etc/ld.so.preload",
];

#[test]
fn a2_19_nothing_of_the_image_is_run_or_mapped_by_the_builder() {
    with_namespaces(|guard| {
        guard.image("evil", |files| {
            for path in EVIL {
                let file = files.join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(&file, "#!/bin/sh\necho evil has run\n").unwrap();
                fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
            }
        });
        let archive = guard.env.write("traced/archive.tar", "");
        let packed = std::process::Command::new("tar")
            .arg("-cJf")
            .arg(&archive)
            .args(["-C", "/etc", "hostname"])
            .status();
        assert!(packed.unwrap().success());
        let dockerfile = "FROM evil AS made\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n\
             FROM evil\nADD archive.tar /added/\nCOPY --chown=nobody --from=made /made /made\nUSER nobody\nWORKDIR /home/nobody\n\
             RUN [\"/bin/busybox\", \"true\"]\n";
        traced(guard, dockerfile);
    });
}

/// The programs that rbuild starts are its helpers for id maps, and the two steps; nothing is mapped to be run.
fn traced(guard: &Guard, dockerfile: &str) {
    guard.env.write("traced/Dockerfile", dockerfile);
    let context = guard.env.path("traced");
    let isolation = format!("--isolation={}", guard.tier);
    let args = [
        "build",
        "-q",
        "-t",
        "traced",
        &isolation,
        context.to_str().unwrap(),
    ];
    let Some(trace) = guard.env.trace("execve,execveat,openat,openat2,open,mmap", &args) else {
        return;
    };
    assert!(!trace.contains("evil"), "{trace}");
    let mut steps = 0;
    // Processes that have become another program, and programs that another thread's line has torn in two.
    let (mut others, mut begun) = (BTreeSet::new(), BTreeMap::new());
    for line in trace.lines() {
        let (process, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if call.starts_with("exec") {
            let program = call.split('"').nth(1).unwrap_or_default();
            begun.insert(process, program);
        }
        if (call.starts_with("exec") || call.starts_with("<... exec")) && call.ends_with("= 0") {
            let program = begun[process];
            steps += usize::from(program == "/bin/busybox");
            assert!(
                program == "/bin/busybox" || of_the_machine(program),
                "{program} is run"
            );
            others.insert(process);
        } else if call.starts_with("mmap") && call.contains("PROT_EXEC") {
            assert!(others.contains(process), "mapped without exec: {line}");
        }
    }
    assert_eq!(steps, 2, "{trace}");
}

/// Whether rbuild may run the program: it is rbuild, or a helper of the machine.
fn of_the_machine(program: &str) -> bool {
    let helper = program.strip_prefix("/usr/bin/").is_some_and(|name| {
        ["newuidmap", "newgidmap", "pasta", "slirp4netns"].contains(&name) || name.starts_with("passt")
    });
    helper || program.ends_with("/rbuild") || program.ends_with("rbuild-under-test")
}
