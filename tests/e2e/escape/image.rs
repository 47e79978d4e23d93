//! What the image holds where rbuild looks for devices, users and directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use super::guard::{Guard, SECRET, in_every_tier, with_namespaces};

#[test]
fn a2_1_no_descriptor_of_the_builder_reaches_a_step() {
    with_namespaces(|guard| {
        let run = guard.build(
            "fds",
            "FROM base\nRUN ls /proc/self/fd; readlink /proc/self/fd/* | grep -c HOST; true\n",
            &[],
        );
        let run = run.ok();
        // 3 is the directory that ls reads.
        assert!(
            run.stderr.contains(" 0\n") && run.stderr.contains(" 3\n"),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains(" 4\n"), "{}", run.stderr);
        for number in (3..=16).chain([32, 64]) {
            let dockerfile = format!(
                "FROM base\nWORKDIR /proc/self/fd/{number}\nRUN cat .ssh/id ../.ssh/id ../../.ssh/id; pwd; touch escaped\n"
            );
            let run = guard.build("cwd", &dockerfile, &[]);
            assert!(!run.stderr.contains(SECRET), "{}", run.stderr);
            // A number may be one that the step itself has for a moment, of a directory of its own.
            assert!(run.code == Some(1), "{}", run.stderr);
        }
    });
}

/// What a step checks of the masks: nothing of the kernel can be written, and the devices are the devices.
const MASKS: &str = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper; do \
    if ( echo x >$f ) 2>/dev/null; then echo WRITTEN $f; fi; done; \
    test -c /dev/null && { test $(stat -c %t,%T /dev/null) = 1,3 || echo OTHER DEVICE; }; \
    test $(stat -f -c %t /proc) = 9fa0 || echo NO PROC; \
    test -z \"$(cat /proc/keys)\" || echo UNMASKED; ls /dev/pts >/dev/null; echo x >/dev/null; echo checked";

#[test]
fn a2_2_and_a2_3_mount_points_that_are_links_and_files() {
    with_namespaces(|guard| {
        let host = guard.host();
        let links: [(&str, &str); 12] = [
            ("dev", &host),
            ("dev", "../.."),
            ("dev", "/proc/self/root"),
            ("proc", &host),
            ("proc", "../../.."),
            ("sys", &host),
            ("dev/null", &host),
            ("dev/null", "/proc/sys/kernel/core_pattern"),
            ("dev/pts", &host),
            ("dev/console", "/proc/sysrq-trigger"),
            ("dev/shm", "../../../.."),
            ("proc/sys", &host),
        ];
        for (number, (path, target)) in links.into_iter().enumerate() {
            hostile(guard, &format!("link{number}"), |files| {
                fs::create_dir_all(files.join(path).parent().unwrap()).unwrap();
                symlink(target, files.join(path)).unwrap();
            });
        }
        for (number, path) in [
            "dev",
            "proc",
            "sys",
            "dev/null",
            "dev/pts",
            "dev/console",
            "proc/self",
        ]
        .into_iter()
        .enumerate()
        {
            hostile(guard, &format!("file{number}"), |files| {
                fs::create_dir_all(files.join(path).parent().unwrap()).unwrap();
                fs::write(files.join(path), "a file").unwrap();
            });
        }
    });
}

/// A step on such an image sees the masks, or does not start.
fn hostile(guard: &Guard, name: &str, make: impl FnOnce(&Path)) {
    guard.image(name, make);
    let run = guard.build(&format!("on-{name}"), &format!("FROM {name}\nRUN {MASKS}\n"), &[]);
    match run.code {
        Some(0) => assert!(run.stderr.contains(" checked\n"), "{}", run.stderr),
        Some(1) => assert!(run.stderr.contains("ERROR: failed to build"), "{}", run.stderr),
        _ => panic!("{run:?}"),
    }
    let output: Vec<&str> = run
        .stderr
        .lines()
        .filter(|line| !line.contains("RUN ") && !line.contains("ERROR"))
        .collect();
    for bad in ["WRITTEN", "OTHER DEVICE", "NO PROC", "UNMASKED", SECRET] {
        assert!(
            !output.iter().any(|line| line.contains(bad)),
            "{name}: {}",
            run.stderr
        );
    }
}

#[test]
fn a2_4_the_builders_binary_cannot_be_reached() {
    with_namespaces(|guard| {
        guard.image("self", |files| {
            fs::create_dir_all(files.join("etc")).unwrap();
            fs::write(files.join("etc/ld.so.preload"), "/evil.so\n").unwrap();
            fs::write(files.join("evil.so"), "no library").unwrap();
            fs::write(files.join("again"), "#!/proc/self/exe --version\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(files.join("again"), mode).unwrap();
            symlink("/proc/self/exe", files.join("entry")).unwrap();
            symlink("/proc/1/exe", files.join("first")).unwrap();
        });
        for command in [
            "[\"/again\"]",
            "[\"/entry\", \"--version\"]",
            "[\"/first\", \"version\"]",
        ] {
            let run = guard.build("exe", &format!("FROM self\nRUN {command}\n"), &[]);
            assert!(
                !run.stderr.contains(concat!("rbuild ", env!("CARGO_PKG_VERSION"))),
                "{}",
                run.stderr
            );
        }
        // A step that waits for whatever of the builder can be seen, and writes to its program.
        let script = "FROM self\nRUN n=0; while [ $n -lt 200 ]; do n=$((n+1)); for p in /proc/[0-9]*; do \
            ( echo evil >$p/exe ) 2>/dev/null; readlink $p/exe | grep -v -e busybox -e /bin/sh; done; done; true\n";
        let run = guard.build("overwrite", script, &[]).ok();
        assert!(!run.stderr.contains(" /tmp/"), "{}", run.stderr);
    });
}

#[test]
fn a2_5_a_working_directory_behind_a_link_stays_inside() {
    in_every_tier(|guard| {
        let dockerfile = "FROM base\nRUN ln -s /../../HOST /w && ln -s HOST /abs && ln -s ../../../../../../../../HOST /up\n\
             USER 1000\nWORKDIR /w/new\nRUN touch y; pwd; stat -c 'made by %u' .\nWORKDIR /abs/new2\nRUN stat -c 'made by %u' .\n\
             WORKDIR /up/new3\nRUN stat -c 'made by %u' . && ls HOST\nCOPY Dockerfile /abs/copied\nCOPY Dockerfile /w/\n";
        let run = guard.build("workdir", dockerfile, &[]).ok();
        assert_eq!(run.count(" made by 1000\n"), 3, "{}", run.stderr);
        assert!(!run.stderr.contains("/.ssh"), "{}", run.stderr);
    });
}

#[test]
fn a2_10_files_of_users_that_are_none() {
    in_every_tier(|guard| {
        guard.env.write("users/passwd", "bob:x:0:0::/:\nroot:x:0:0::/:\n");
        let make = |name: &str, script: &str| {
            let dockerfile = format!("FROM base\nRUN rm /etc/passwd; {script}\n");
            guard.build(name, &dockerfile, &[]).ok();
        };
        make("outside", "ln -s HOST/../users/passwd /etc/passwd");
        make("pipe", "mkfifo /etc/passwd");
        make("zero", "ln -s /dev/zero /etc/passwd");
        make("big", "truncate -s 1073741824 /etc/passwd");
        make("loop", "ln -s passwd /etc/passwd");
        make("directory", "mkdir /etc/passwd");
        for base in ["outside", "pipe", "zero", "big", "loop", "directory"] {
            for step in [
                "USER bob\nRUN id -u",
                "USER bob\nWORKDIR /made",
                "COPY --chown=bob Dockerfile /x",
            ] {
                let began = Instant::now();
                let run = guard.build("use", &format!("FROM {base}\n{step}\n"), &[]);
                assert_eq!(run.code, Some(1), "{base}, {step}: {}", run.stderr);
                assert!(run.stderr.contains("passwd"), "{base}, {step}: {}", run.stderr);
                assert!(began.elapsed() < Duration::from_secs(5), "{base}, {step}");
            }
        }
        // A million groups with members are more than is read.
        make(
            "groups",
            "cp /etc/group /etc/passwd; echo 'bob:x:7:7::/:' >/etc/passwd; seq 1000000 | sed 's/.*/g&:x:&:bob/' >/etc/group",
        );
        let run = guard.build("use", "FROM groups\nUSER bob\nRUN id -u\n", &[]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        assert!(run.stderr.contains("10 MiB"), "{}", run.stderr);
    });
}

#[test]
fn a2_11_user_numbers_never_wrap_to_root() {
    in_every_tier(|guard| {
        for (user, uid) in [
            ("2147483648", None),
            ("4294967295", None),
            ("4294967296", None),
            ("18446744073709551616", None),
            ("-1", None),
            ("0x0", None),
            ("1e3", None),
            ("1000:4294967296", None),
            ("1000:-1", None),
            ("00", Some("0")),
            ("1000", Some("1000")),
            ("65533:65533", Some("65533")),
        ] {
            let run = guard.build(
                "uid",
                &format!("FROM base\nUSER {user}\nRUN echo \"uid $(id -u)\"\n"),
                &[],
            );
            match uid {
                Some(uid) => assert!(run.ok().stderr.contains(&format!(" uid {uid}\n")), "{user}"),
                None => {
                    assert_eq!(run.code, Some(1), "{user}: {}", run.stderr);
                    assert!(!run.stderr.contains(" uid 0\n"), "{user}: {}", run.stderr);
                }
            }
        }
    });
}

#[test]
fn a2_12_what_is_cleaned_up_after_a_step_is_the_images() {
    in_every_tier(|guard| {
        // The mount points that rbuild makes in /etc, /dev, /proc and /sys move away; the canary has the same names.
        let dockerfile = "FROM base\nRUN rm -rf /etc/resolv.conf /etc/hosts 2>/dev/null; mv /etc /etc2 && ln -s HOST/etc /etc; ls -l / /etc2; \
             mkdir -p HOST/etc && touch HOST/etc/hosts HOST/etc/resolv.conf\n\
             RUN test -L /etc && echo linked; echo '#!/bin/sh' >/script\n\
             RUN mkdir -p /run/x; rm -rf /run && ln -s HOST /run\nRUN <<EOF\n#!/bin/sh\necho here\nEOF\n";
        guard.build("cleaner", dockerfile, &[]).ok();
        guard.check();
        assert_eq!(fs::metadata(guard.env.path("host/etc/hosts")).unwrap().size(), 0);
    });
}
