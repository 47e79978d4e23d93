//! What a caller gives to steps and takes from them.

use crate::env::{Env, as_every_user};

const LOOK: &str = "FROM base\nRUN grep -e CapBnd -e CapEff -e CapInh -e Seccomp: -e NoNewPrivs /proc/self/status \
                    | tr -d '\\t'; df -k /dev/shm | tail -n 1 | awk '{print \"shm \" $2}'\n";

#[test]
fn capabilities_filter_and_shared_memory_are_as_asked() {
    as_every_user(|env| {
        env.base();
        let usual = env.build("look", LOOK, &[]).ok();
        for text in [
            "CapInh:0000000000000000",
            "CapEff:00000000a80425fb",
            "CapBnd:00000000a80425fb",
            "NoNewPrivs:0",
            "Seccomp:2",
            "shm 65536\n",
        ] {
            assert_eq!(usual.count(text), 1, "{text}: {}", usual.stderr);
        }
        for (flags, seen) in [
            (
                &["--cap-drop=all", "--cap-add", "cap_chown,NET_ADMIN"][..],
                "CapEff:0000000000001001",
            ),
            (&["--cap-drop", "CAP_MKNOD"], "CapBnd:00000000a00425fb"),
            (&["--security-opt=no-new-privileges"], "NoNewPrivs:1"),
            (&["--security-opt", "seccomp=unconfined"], "Seccomp:0"),
            (&["--shm-size=1m"], "shm 1024\n"),
        ] {
            // Another confinement is another step: nothing of the first build is taken.
            let run = env.build("look", LOOK, flags).ok();
            assert_eq!(
                (run.count(seen), run.count("CACHED")),
                (1, 0),
                "{flags:?}: {}",
                run.stderr
            );
            let again = env.build("look", LOOK, flags).ok();
            assert_eq!(again.count("CACHED"), 1, "{flags:?}: {}", again.stderr);
        }
    });
}

#[test]
fn an_added_capability_brings_its_system_calls() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nRUN mount -t tmpfs none /mnt || mkdir /mnt && mount -t tmpfs none /mnt; echo $?\n";
        let refused = env.build("mount", dockerfile, &[]).ok();
        assert!(refused.count(" 0\n") == 0, "{}", refused.stderr);
        let run = env.build("mount", dockerfile, &["--cap-add=SYS_ADMIN"]).ok();
        assert!(run.count(" 0\n") == 1, "{}", run.stderr);
    });
}

#[test]
fn a_profile_of_the_user_filters_system_calls() {
    as_every_user(|env| {
        env.base();
        let profile = env.write(
            "profile.json",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
                {"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_CHOWN"]}}]}"#,
        );
        let flag = format!("--security-opt=seccomp={}", profile.display());
        let dockerfile = "FROM base\nRUN mkdir /made || true; unshare -U true || echo un-$((40 + 2))\n";
        let run = env.build("profile", dockerfile, &[&flag]).ok();
        assert!(
            run.stderr.contains("/made': No space left on device"),
            "{}",
            run.stderr
        );
        assert_eq!(run.count("un-42\n"), 1, "{}", run.stderr);
        // Another text under the same name is another step.
        env.write("profile.json", r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
        let run = env.build("profile", dockerfile, &[&flag]).ok();
        assert_eq!(
            (run.count("No space left"), run.count("CACHED")),
            (0, 0),
            "{}",
            run.stderr
        );
        env.write("profile.json", "{\"defaultAction\":\n\"SCMP_ACT_MAYBE\"}");
        let run = env.build("profile", dockerfile, &[&flag]).fails(1);
        assert!(run.stderr.contains("at line 2 column 16"), "{}", run.stderr);
    });
}

#[test]
fn a_step_without_its_grant_is_refused_even_when_it_is_cached() {
    as_every_user(|env| {
        env.base();
        let trigger =
            "FROM base\nONBUILD RUN --security=insecure mount -t tmpfs none /var && echo ran-$((40 + 2))\n";
        env.build("trigger", trigger, &[]).ok();
        for (name, dockerfile, right) in [
            (
                "insecure",
                "FROM base\nRUN --security=insecure mount -t tmpfs none /tmp && echo ran-$((40 + 2))\n",
                "security.insecure",
            ),
            ("onbuild", "FROM trigger\n", "security.insecure"),
            (
                "network",
                "FROM base\nRUN --network=host echo ran-$((40 + 2))\n",
                "network.host",
            ),
            (
                "hidden",
                "FROM base AS a\nRUN --security=insecure echo ran-$((40 + 2)); touch /x\nFROM base\nCOPY --from=a /x /\n",
                "security.insecure",
            ),
        ] {
            refused(env, name, dockerfile, right);
            let granted = env.build(name, dockerfile, &["--allow", right]).ok();
            assert_eq!(granted.count("ran-42\n"), 1, "{name}: {}", granted.stderr);
            let cached = env.build(name, dockerfile, &["--allow", right]).ok();
            assert_eq!(cached.count("ran-42\n"), 0, "{name}: {}", cached.stderr);
            refused(env, name, dockerfile, right);
        }
        // What ran with all rights is no result of the same command without them.
        let run = env.build(
            "plain",
            "FROM base\nRUN mount -t tmpfs none /tmp && echo ran-$((40 + 2))\n",
            &[],
        );
        run.fails(1);
    });
}

fn refused(env: &Env, name: &str, dockerfile: &str, right: &str) {
    let run = env.build(name, dockerfile, &[]).fails(1);
    assert!(
        run.stderr.contains(&format!("{right} is not allowed")),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains(&format!("--allow {right}")), "{}", run.stderr);
    assert_eq!(run.count("ran-42\n"), 0);
}

#[test]
fn flags_that_mean_nothing_here_are_errors() {
    let env = &Env::of_caller();
    for (flag, expected) in [
        ("--cap-add=SYSADMIN", "did you mean SYS_ADMIN?"),
        ("--device=nvidia.com/gpu=all", "not supported by rbuild"),
        ("--security-opt=apparmor=x", "AppArmor profiles are not supported"),
        ("--shm-size=big", "expected a size"),
        ("--stop-grace=soon", "expected a duration"),
    ] {
        let run = env.build("flags", "FROM scratch\n", &[flag]);
        assert!(
            run.code != Some(0) && run.stderr.contains(expected),
            "{flag}: {}",
            run.stderr
        );
    }
}
