//! What a step may do, and what it learns of the machine.

use std::fs;

use super::guard::{SECRET, in_every_tier, with_namespaces};

#[test]
fn a2_13_rights_are_granted_on_the_command_line_only() {
    with_namespaces(|guard| {
        let insecure = "RUN --security=insecure id; mount -t tmpfs x /tmp && echo mounted";
        let network = "RUN --network=host echo reached";
        for (step, right) in [(insecure, "security.insecure"), (network, "network.host")] {
            let refused = |name: &str, dockerfile: &str, more: &[&str]| {
                let run = guard.build(name, dockerfile, more);
                assert_eq!(run.code, Some(1), "{}", run.stderr);
                assert!(
                    run.stderr.contains(&format!("{right} is not allowed")),
                    "{}",
                    run.stderr
                );
            };
            let plain = format!("FROM base\n{step}\n");
            refused("plain", &plain, &[]);
            // A result made with the right is no result for who has it not.
            let granted = format!("--allow={right}");
            guard.build("granted", &plain, &[&granted]).ok();
            refused("cached", &plain, &[]);
            // A base image asks for it, or a stage that is not the last.
            guard
                .build("trigger", &format!("FROM base\nONBUILD {step}\n"), &[])
                .ok();
            refused("triggered", "FROM trigger\n", &[]);
            refused(
                "stage",
                &format!("FROM base AS one\n{step}\nFROM base\nCOPY --from=one /etc/passwd /x\n"),
                &[],
            );
            refused(
                "variable",
                &format!("# syntax=docker/dockerfile:1\nFROM base\n{step}\n"),
                &[],
            );
            // The other right is another right.
            let other = if right == "network.host" {
                "security.insecure"
            } else {
                "network.host"
            };
            refused("other", &plain, &[&format!("--allow={other}")]);
        }
    });
}

#[test]
fn a2_14_capabilities_are_dockers_and_none_is_inherited() {
    with_namespaces(|guard| {
        let sets = "grep -e Cap -e NoNewPrivs /proc/self/status | tr -d '\\t'";
        let run = guard
            .build(
                "caps",
                &format!("FROM base\nRUN {sets}\nUSER nobody\nRUN echo nobody; {sets}\n"),
                &[],
            )
            .ok();
        for line in [
            "CapInh:0000000000000000",
            "CapBnd:00000000a80425fb",
            "CapAmb:0000000000000000",
            "NoNewPrivs:0",
        ] {
            assert_eq!(run.count(&format!(" {line}\n")), 2, "{line}: {}", run.stderr);
        }
        if guard.tier == "userns-single" {
            // The file of the kernel shows the one id that there is.
            return;
        }
        for line in ["CapEff:00000000a80425fb", "CapEff:0000000000000000"] {
            assert_eq!(run.count(&format!(" {line}\n")), 1, "{line}: {}", run.stderr);
        }
    });
}

#[test]
fn a2_14_device_nodes_open_nothing() {
    with_namespaces(|guard| {
        // Full and zero stand for disks: these would answer.
        let dockerfile = "FROM base\nRUN mknod /full c 1 7; mknod /zero c 1 5; mknod /disk b 7 0; true\n\
             RUN ( echo x >/full ) 2>&1; head -c 1 /zero | wc -c; head -c 1 /disk | wc -c; echo x >/dev/null && echo end\n";
        let run = guard.build("nodes", dockerfile, &[]).ok();
        assert!(run.stderr.contains(" end\n"), "{}", run.stderr);
        assert!(
            !run.stderr.contains("No space left") && !run.stderr.contains(" 1\n"),
            "{}",
            run.stderr
        );
    });
}

#[test]
fn a2_15_supplementary_groups_are_dockers() {
    in_every_tier(|guard| {
        let users = "FROM base\nRUN echo 'bob:x:1000:1001::/:' >>/etc/passwd; echo 'one:x:1000:1002::/:' >>/etc/passwd; \
             printf 'own:x:1001:\\nten:x:10:bob,one\\neleven:x:11:bob\\nnumber:x:12:1000\\n' >>/etc/group; \
             install -d -m 705 -g ten /denied 2>/dev/null || { mkdir -m 705 /denied; chgrp ten /denied; }\n";
        guard.build("users", users, &[]).ok();
        for (user, groups) in [
            ("root", "0"),
            ("0", "0"),
            ("bob", "1001 10 11"),
            ("1000", "1001 10 11"),
            ("one", "1002 10"),
            ("bob:ten", "10"),
            ("bob:4000", "4000"),
            ("4000", "0"),
            ("4000:11", "11"),
            ("nobody", "65534"),
        ] {
            let run = guard
                .build("id", &format!("FROM users\nUSER {user}\nRUN echo \"groups $(id -G)\"; ls /denied 2>/dev/null || echo de''nied\n"), &[])
                .ok();
            assert!(
                run.stderr.contains(&format!(" groups {groups}\n")),
                "{user}: {}",
                run.stderr
            );
            // Who is in the group that is shut out is shut out.
            let member = groups.split(' ').any(|group| group == "10");
            assert_eq!(run.stderr.contains(" denied\n"), member, "{user}: {}", run.stderr);
        }
    });
}

#[test]
fn a2_16_the_environment_of_the_builder_stays_outside() {
    in_every_tier(|guard| {
        let script = "env; for p in /proc/[0-9]*; do tr '\\0' '\\n' <$p/environ; tr '\\0' '\\n' <$p/cmdline; done; set; true";
        let dockerfile =
            format!("FROM base\nARG CANARY_7\nRUN {script}\nRUN {script} >/layer\nRUN cat /layer\n");
        let mut command = guard.build_command("environ", &dockerfile, &[]);
        for number in 0..200 {
            command.env(format!("CANARY_{number}"), format!("{SECRET} {number}"));
        }
        for name in [
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "CI_JOB_TOKEN",
            "DOCKER_AUTH_CONFIG",
            "SSH_AUTH_SOCK",
        ] {
            command.env(name, SECRET);
        }
        let run: crate::env::Run = command.output().unwrap().into();
        let run = run.ok();
        assert!(
            !run.stderr.contains(SECRET) && !run.stdout.contains(SECRET),
            "{}",
            run.stderr
        );
        let dest = guard.env.unpack("environ");
        assert!(!fs::read_to_string(dest.join("layer")).unwrap().contains(SECRET));
        assert!(!guard.env.inspect("environ").to_string().contains(SECRET));
    });
}

#[test]
fn a2_17_the_builder_cannot_be_killed_traced_or_read() {
    with_namespaces(|guard| {
        let script = "kill -9 -1; kill -9 $PPID 2>/dev/null; cat /proc/$PPID/environ 2>/dev/null; ls -d /proc/[0-9]* | wc -l; \
             ( echo 1 >/sys/fs/cgroup/cgroup.procs ) 2>/dev/null && echo WRITTEN; mkdir /sys/fs/cgroup/x 2>/dev/null && echo MADE; \
             ( echo -1000 >/proc/self/oom_score_adj ) 2>/dev/null && echo PREFERRED; chroot /proc/1/root /bin/true; \
             cat /proc/1/root/HOST/.ssh/id HOST/.ssh/id 2>/dev/null; echo end";
        let run = guard
            .build(
                "kill",
                &format!("FROM base\nRUN {script}\nRUN echo still here\n"),
                &[],
            )
            .ok();
        assert!(
            run.stderr.contains(" end\n") && run.stderr.contains(" still here\n"),
            "{}",
            run.stderr
        );
        let output: Vec<&str> = run
            .stderr
            .lines()
            .filter(|line| !line.contains("RUN ") && !line.contains("ERROR"))
            .collect();
        for bad in ["WRITTEN", "MADE", "PREFERRED", SECRET, "RBUILD"] {
            assert!(
                !output.iter().any(|line| line.contains(bad)),
                "{bad}: {}",
                run.stderr
            );
        }
    });
}

/// The escape from a chroot that everybody knows: another one, out of which the working directory lies.
const ESCAPE: &str = "#include <fcntl.h>\n#include <stdio.h>\n#include <sys/stat.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
    int main(int count, char **args) { int file, root = open(\"/\", O_RDONLY); char text[100] = {0};\n\
      if (count == 1) return syscall(SYS_landlock_create_ruleset, 0, 0, 1) < 1;\n\
      mkdir(\"/jail\", 0755); if (chroot(\"/jail\") == 0) puts(\"made a jail\");\n\
      if (fchdir(root)) return 1;\n\
      for (int i = 0; i < 50; i++) if (chdir(\"..\")) break;\n\
      if (chroot(\".\") == 0) puts(\"left the jail\");\n\
      file = open(args[1], O_RDONLY); if (file >= 0 && read(file, text, 99) > 0) puts(text);\n\
      if (open(args[2], O_CREAT | O_WRONLY, 0644) >= 0 && access(args[1], R_OK) == 0) puts(\"made a file\");\n\
      return 0; }\n";

#[test]
fn a2_17_who_leaves_the_root_of_a_step_reaches_no_file() {
    in_every_tier(|guard| {
        let source = guard.env.write("jail/jail.c", ESCAPE);
        let program = guard.env.path("jail/jail");
        let compiled = std::process::Command::new("gcc")
            .args(["-static", "-o"])
            .arg(program)
            .arg(source)
            .status();
        assert!(compiled.unwrap().success());
        let landlock = std::process::Command::new(guard.env.path("jail/jail")).status();
        if guard.tier == "chroot" && !landlock.unwrap().success() {
            eprintln!("skipped in chroot: this kernel has no Landlock");
            return;
        }
        let dockerfile =
            "FROM base\nCOPY jail /jail-break\nRUN /jail-break HOST/.ssh/id HOST/made; echo end\n";
        let run = guard.build("jail", dockerfile, &["--cap-add=SYS_CHROOT"]).ok();
        assert!(run.stderr.contains(" left the jail\n"), "{}", run.stderr);
        assert!(run.stderr.contains(" end\n"), "{}", run.stderr);
        assert!(
            !run.stderr.contains(SECRET) && !run.stderr.contains(" made a file\n"),
            "{}",
            run.stderr
        );
    });
}

#[test]
fn a2_20_what_the_base_image_says_is_for_steps() {
    in_every_tier(|guard| {
        let dockerfile = "FROM base\nENV LD_PRELOAD=HOST/evil.so LD_LIBRARY_PATH=HOST RBUILD_ROOT=HOST/store RBUILD_ISOLATION=none \
             TMPDIR=HOST HOME=HOST XDG_DATA_HOME=HOST PATH=HOST:/bin SSL_CERT_FILE=HOST/ca DOCKER_CONFIG=HOST\n\
             LABEL rbuild.root=HOST rbuild.log=\"binary:///bin/touch?x=HOST/y\" cdi.k8s.io/x=vendor.com/device=all io.containerd.runc=HOST\n\
             VOLUME HOST\nWORKDIR HOST\nSTOPSIGNAL SIGKILL\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n";
        guard.build("says", dockerfile, &[]).ok();
        let run = guard
            .build("does", "FROM says\nRUN echo \"in $PWD\"; touch x y; ls -a\nCOPY Dockerfile .\nRUN [\"busybox\", \"true\"]\n", &[])
            .ok();
        assert!(
            run.stderr.contains(&format!(" in {}\n", guard.host())),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains(".ssh"), "{}", run.stderr);
    });
}

/// A program that makes the system calls of a list, each with arguments that do no harm, and prints what came of them.
fn program(calls: &[&str]) -> String {
    let lines = calls.iter().map(|name| {
        format!("#ifdef SYS_{name}\n  errno = 0; r = syscall(SYS_{name}, -1, 0, 0, 0, 0, 0); printf(\"call {name} %s\\n\", r < 0 ? strerrorname_np(errno) : \"allowed\");\n#endif\n")
    });
    format!(
        "#define _GNU_SOURCE\n#include <errno.h>\n#include <stdio.h>\n#include <string.h>\n#include <sys/syscall.h>\n#include <unistd.h>\n\
         int main(void) {{ long r;\n{} return 0; }}\n",
        lines.collect::<String>()
    )
}

#[test]
fn a2_21_the_system_calls_of_the_list_are_refused() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rootless.md")).unwrap();
    let list = page
        .split("<!-- refused calls -->")
        .nth(1)
        .expect("the list of refused system calls");
    let calls: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    assert!(calls.len() > 40, "{calls:?}");
    in_every_tier(|guard| {
        let source = guard.env.write("calls/calls.c", program(&calls));
        let compiled = std::process::Command::new("gcc")
            .arg("-static")
            .arg("-o")
            .arg(guard.env.path("calls/calls"))
            .arg(source)
            .status();
        assert!(compiled.unwrap().success());
        let run = guard
            .build(
                "calls",
                "FROM base\nCOPY calls /calls\nRUN /calls; unshare -Ur true; unshare -m true; echo end\n",
                &[],
            )
            .ok();
        assert!(run.stderr.contains(" end\n"), "{}", run.stderr);
        let results: Vec<&str> = run
            .stderr
            .lines()
            .filter_map(|line| line.split_once(" call "))
            .map(|(_, text)| text)
            .collect();
        assert!(results.len() > 40, "{results:?}");
        for result in &results {
            assert!(
                result.ends_with(" EPERM") || result.ends_with(" ENOSYS"),
                "{result}, in tier {}",
                guard.tier
            );
        }
        assert_eq!(
            run.stderr.matches("Operation not permitted").count(),
            2,
            "{}",
            run.stderr
        );
    });
}
