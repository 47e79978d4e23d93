//! `RUN --mount` (spec 3.3, M1 to M11).

use std::fs;

use crate::built::{build, each, last_layer};

/// The secret. Its text is nowhere else, or it would be found there (spec A5).
const SECRET: &str = "line one\n";
/// The beginning of its sha256.
const HASH: &str = "31f21b1dae81";

/// Rule, what follows RUN, lines that the step prints.
const PRINTED: &[(&str, &str, &[&str])] = &[
    (
        "M1",
        "--mount=type=secret,id=s sha256sum /run/secrets/s | cut -c1-12; stat -c '%a %u:%g' /run/secrets/s; grep -c ' /run/secrets/s ' /proc/self/mounts",
        &[HASH, "400 0:0", "1"],
    ),
    (
        "M1 elsewhere",
        "--mount=type=secret,id=s,target=deep/er/key,mode=0440,uid=5,gid=6 sha256sum /deep/er/key | cut -c1-12; stat -c '%a %u:%g' /deep/er/key",
        &[HASH, "440 5:6"],
    ),
    (
        "M2 B14",
        "--mount=type=secret,id=s,env=SECRET printf %s \"$SECRET\" | sha256sum | cut -c1-12; test ! -e /run/secrets/s && echo no file",
        &[HASH, "no file"],
    ),
    (
        "M2 both",
        "--mount=type=secret,id=s,env=SECRET,target=/s test \"$(cat /s; echo x)\" = \"${SECRET}x\" && echo the same",
        &["the same"],
    ),
    (
        "M3",
        "--mount=type=secret,id=absent test ! -e /run/secrets/absent && echo nothing",
        &["nothing"],
    ),
    (
        "M3 B11",
        "--mount=type=secret,id=absent,env=SECRET echo \"[${SECRET-unset}]\"",
        &["[]"],
    ),
    (
        "M5",
        "--mount=type=ssh --mount=type=ssh,id=other echo \"$SSH_AUTH_SOCK\"",
        &["/run/buildkit/ssh_agent.0"],
    ),
    (
        "M5 target",
        "--mount=type=ssh,target=/agent echo \"$SSH_AUTH_SOCK\"",
        &["/agent"],
    ),
    (
        "M6",
        "--mount=type=tmpfs,target=/t,size=1m stat -c %a /t; grep ' /t ' /proc/self/mounts | cut -d' ' -f3; \
         head -c 2000000 /dev/zero 2>/dev/null > /t/f || echo full",
        &["1777", "tmpfs", "full"],
    ),
    (
        "M9",
        "--mount=type=tmpfs,target=/t/in/er --mount=type=tmpfs,target=/t touch /t/in/er/f && ls /t/in && grep -c ' /t' /proc/self/mounts",
        &["er", "2"],
    ),
    (
        "bind of a file, read-only",
        "--mount=target=/m/f,source=d/1 cat /m/f; echo; touch /m/f 2>/dev/null || echo read-only",
        &["1", "read-only"],
    ),
    (
        "bind, writes are lost",
        "--mount=target=/m,rw echo new > /m/a && cat /m/a",
        &["new"],
    ),
    (
        "bind from an image",
        "--mount=from=base,target=/m,source=/etc ls /m/passwd",
        &["/m/passwd"],
    ),
];

/// Rule, what follows RUN, what the error says.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "M3 required",
        "--mount=type=secret,id=absent,required true",
        "secret absent: not found",
    ),
    ("M4", "--mount=type=secret,id=a,source=b true", "secret"),
    ("M4 neither", "--mount=type=secret true", "secret"),
    (
        "M5 required",
        "--mount=type=ssh,required true",
        "no SSH key \"default\" forwarded from the client",
    ),
    ("M11", "--mount=type=bind,target=/m,z true", "'z'"),
    (
        "target",
        "--mount=type=tmpfs,target=/ true",
        "invalid mount target \"/\"",
    ),
    (
        "bind",
        "--mount=target=/m,source=absent true",
        "\"/absent\": not found",
    ),
];

#[test]
fn m1_to_m9_what_is_mounted() {
    each(|env| {
        env.write("secret", SECRET);
        let layout = env.path("layout");
        for (id, command, expected) in PRINTED {
            let body = format!("FROM base\nRUN {command}");
            let run = build(env, &body, &layout, &["--secret", "id=s,src=secret"]).ok();
            for line in *expected {
                assert!(
                    run.stderr.lines().any(|l| l.ends_with(&format!(" {line}"))),
                    "{id}: {line:?} is not in:\n{}",
                    run.stderr
                );
            }
            // M10, and M6: nothing of it stays.
            assert!(last_layer(&layout).is_empty(), "{id}: {:?}", last_layer(&layout));
            fs::remove_dir_all(&layout).unwrap();
        }
        assert_eq!(fs::read_to_string(env.path("ctx/a")).unwrap(), "a\n");
    });
}

#[test]
fn m3_to_m11_what_is_refused() {
    each(|env| {
        for (id, command, expected) in REFUSED {
            let body = format!("FROM base\nRUN {command}");
            let run = build(env, &body, &env.path("layout"), &[]).fails(1);
            assert!(
                run.stderr.contains(expected) && run.stderr.contains("Dockerfile:2"),
                "{id}: {}",
                run.stderr
            );
        }
    });
}

#[test]
fn m7_m8_caches_outlive_builds_and_differ_by_owner() {
    each(|env| {
        let layout = env.path("layout");
        let lines = |options: &str, command: &str| {
            let body = format!("FROM base\nRUN --mount=type=cache,{options} {command}");
            let run = build(env, &body, &layout, &["--no-cache"]).ok();
            fs::remove_dir_all(&layout).unwrap();
            run.stderr
        };
        let add = "echo x >> /c/f && echo has $(cat /c/f | wc -l)";
        assert!(lines("target=/c", add).contains(" has 1\n"));
        assert!(lines("target=/c", add).contains(" has 2\n"), "M7");
        assert!(
            lines("target=/c,id=/c", add).contains(" has 3\n"),
            "the id is the target"
        );
        assert!(lines("id=other,target=/c", add).contains(" has 1\n"));
        let told = lines(
            "target=/c,uid=5,mode=0700",
            &format!("stat -c '%a %u' /c && {add}"),
        );
        assert!(
            told.contains(" 700 5\n") && told.contains(" has 1\n"),
            "M8: {told}"
        );
        assert!(
            lines("target=/c,ro", "touch /c/g 2>/dev/null || echo read-only").contains(" read-only\n"),
            "M8"
        );
        // Two stages of one build, and not in the key: the second build of this is cached whatever the cache holds.
        let body = "FROM base AS one\nRUN --mount=type=cache,id=both,target=/c echo one > /c/f\n\
                    FROM base\nCOPY --from=one /etc/passwd /p\nRUN --mount=type=cache,id=both,target=/c cat /c/f";
        let run = build(env, body, &layout, &[]).ok();
        assert!(run.stderr.contains(" one\n"), "{}", run.stderr);
        fs::remove_dir_all(&layout).unwrap();
        lines("id=both,target=/c", "rm -f /c/f");
        assert_eq!(build(env, body, &layout, &[]).ok().count("CACHED"), 3);
        fs::remove_dir_all(&layout).unwrap();
        // Seeded once, when it is new.
        let seeded = "id=seeded,from=base,source=/etc,target=/c";
        assert!(lines(seeded, "ls /c/passwd && rm /c/passwd").contains(" /c/passwd\n"));
        assert!(lines(seeded, "test -e /c/passwd || echo gone").contains(" gone\n"));
    });
}
