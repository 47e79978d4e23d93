//! RUN (spec 3.3) and what a build as a whole does (spec 3.2, 4).

use std::fs;

use serde_json::Value;

use crate::built::{blob, build, each, last_layer, manifest};
use crate::env::{Env, as_every_user};

/// Rule, Dockerfile after `FROM base`, lines that its steps print.
const PRINTED: &[(&str, &str, &[&str])] = &[
    ("R1", "RUN  echo   a  'b  c'  \"$0\"", &["a b  c /bin/sh"]),
    (
        "R1 exec",
        "RUN [\"/bin/busybox\", \"echo\", \"$HOME\", \"a  b\"]",
        &["$HOME a  b"],
    ),
    (
        "R2",
        "ARG A=arg\nENV E=env\nRUN echo \"$A $E $HOME\" && echo \"$PATH\"",
        &[
            "arg env /root",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        ],
    ),
    ("R2 unknown home", "USER 4242\nRUN echo \"[$HOME]\"", &["[/]"]),
    (
        "R2 proxy",
        "RUN echo \"[$http_proxy $HTTP_PROXY]\"",
        &["[p:1 p:1]"],
    ),
    (
        "R4",
        "RUN echo me:x:41:42::/home: >> /etc/passwd; printf 'g:x:42:\\nother:x:77:me\\n' >> /etc/group\n\
         USER me\nRUN echo \"1 $(id -u):$(id -g):$(id -G) $HOME\"\n\
         USER 41\nRUN echo \"2 $(id -u):$(id -g):$(id -G) $HOME\"\n\
         USER 43\nRUN echo \"3 $(id -u):$(id -g):$(id -G) $HOME\"\n\
         USER me:other\nRUN echo \"4 $(id -u):$(id -g):$(id -G) $HOME\"\n\
         USER 43:44\nRUN echo \"5 $(id -u):$(id -g):$(id -G) $HOME\"",
        &[
            "1 41:42:42 77 /home",
            "2 41:42:42 77 /home",
            "3 43:0:0 /",
            "4 41:77:77 /home",
            "5 43:44:44 /",
        ],
    ),
    (
        "R5",
        "RUN umask; hostname; grep -E 'CapBnd|CapInh|NoNewPrivs|Seccomp:' /proc/self/status | tr '\\t' ' '; echo \"pid $$\"; \
         ls -d /dev/pts /dev/shm /dev/mqueue /dev/null; cat /proc/self/mounts | grep -c '^sysfs /sys sysfs ro'; \
         df -k /dev/shm | awk 'END { print $2 }'; echo x 2>/dev/null > /proc/sysrq-trigger || echo refused",
        &[
            "0022",
            "buildkitsandbox",
            "CapInh: 0000000000000000",
            "CapBnd: 00000000a80425fb",
            "NoNewPrivs: 0",
            "Seccomp: 2",
            "pid 1",
            "/dev/mqueue",
            "65536",
            "refused",
        ],
    ),
    (
        "R6",
        "RUN cat /etc/hosts | tr '\\t' ' '; echo x 2>/dev/null >> /etc/hosts || echo read-only; test -s /etc/resolv.conf && echo resolv",
        &[
            "127.0.0.1 localhost buildkitsandbox",
            "::1 localhost ip6-localhost ip6-loopback",
            "10.0.0.7 db",
            "read-only",
            "resolv",
        ],
    ),
    ("R8 stdin", "RUN cat; echo end", &["end"]),
];

#[test]
fn r1_to_r8_what_a_step_sees() {
    each(|env| {
        for (id, body, expected) in PRINTED {
            let more = ["--add-host", "db:10.0.0.7", "--build-arg", "http_proxy=p:1"];
            let run = build(env, &format!("FROM base\n{body}"), &env.path("layout"), &more).ok();
            for line in *expected {
                assert!(
                    run.stderr.lines().any(|l| l.ends_with(&format!(" {line}"))),
                    "{id}: {line:?} is not in:\n{}",
                    run.stderr
                );
            }
            fs::remove_dir_all(env.path("layout")).unwrap();
        }
    });
}

#[test]
fn r2_nothing_of_the_builders_environment_is_seen() {
    each(|env| {
        env.write(
            "Dockerfile",
            "FROM base\nRUN env | grep -c canary || echo none of it\n",
        );
        let (file, context) = (env.path("Dockerfile"), env.path("ctx"));
        let mut command = env.rbuild_command(["build", "--progress=plain", "-f"]);
        command.arg(file).arg(context);
        for name in [
            "OTEL_TRACES_EXPORTER",
            "TRACEPARENT",
            "CI_JOB_TOKEN",
            "LD_LIBRARY_PATH",
        ] {
            command.env(name, "canary");
        }
        let run: crate::env::Run = command.output().unwrap().into();
        assert!(run.ok().stderr.contains(" none of it\n"));
    });
}

#[test]
fn r3_a_working_directory_that_the_base_lacks_is_made() {
    as_every_user(|env| {
        env.base();
        let base = env.build("base-with-workdir", "FROM base\nWORKDIR /gone\n", &[]);
        base.ok();
        env.build("gone", "FROM base-with-workdir\nRUN cd / && rmdir /gone\n", &[])
            .ok();
        let run = env.build("r3", "FROM gone\nRUN pwd\n", &[]).ok();
        assert!(run.stderr.contains(" /gone\n"), "{}", run.stderr);
    });
}

#[test]
fn r6_r7_m10_what_is_mounted_is_not_committed() {
    each(|env| {
        let layout = env.path("layout");
        let body = "FROM scratch\nCOPY --from=base /bin /bin\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]";
        build(env, body, &layout, &[]).ok();
        assert_eq!(last_layer(&layout), ["made f644 0:0"]);
    });
}

#[test]
fn r8_r10_failures_and_long_logs() {
    each(|env| {
        let body = "FROM base\nRUN head -c 3000000 /dev/zero | tr '\\0' x | fold -w 1000; exit 7";
        let run = build(env, body, &env.path("layout"), &[]).fails(1);
        assert!(
            run.stderr.contains("did not complete successfully: exit code: 7"),
            "{}",
            &run.stderr[run.stderr.len() - 2000..]
        );
        // The error repeats the last lines, without a number.
        let long = |line: &&str| line.starts_with('#') && line.ends_with(&"x".repeat(1000));
        assert_eq!(
            run.stderr.lines().filter(long).count(),
            3000,
            "R10: nothing is clipped"
        );
    });
}

#[test]
fn r9_a_step_without_changes_is_an_empty_layer() {
    each(|env| {
        let layout = env.path("layout");
        let layers = |body: &str| {
            build(env, body, &layout, &[]).ok();
            let count = manifest(&layout)["layers"].as_array().unwrap().len();
            let top = last_layer(&layout);
            fs::remove_dir_all(&layout).unwrap();
            (count, top)
        };
        let (base, _) = layers("FROM base");
        assert_eq!(layers("FROM base\nRUN true"), (base + 1, vec![]));
        let (_, top) = layers(
            "FROM base\nRUN touch -d @1000000000 /old && echo kept > /old && touch -d @1000000000 /old",
        );
        assert_eq!(top, ["old f644 0:0 kept @1000000000"], "times stay as written");
    });
}

#[test]
fn a7_arguments_from_the_environment() {
    each(|env| {
        let file = env.write(
            "Dockerfile",
            "FROM base\nARG GIVEN=d\nARG ABSENT=d\nRUN echo \"[$GIVEN $ABSENT]\"\n",
        );
        let mut command = env.rbuild_command([
            "build",
            "--progress=plain",
            "--build-arg=GIVEN",
            "--build-arg=ABSENT",
            "-f",
        ]);
        command
            .arg(file)
            .arg(env.path("ctx"))
            .env("GIVEN", "from outside");
        let run: crate::env::Run = command.output().unwrap().into();
        assert!(run.ok().stderr.contains(" [from outside d]\n"));
    });
}

#[test]
fn g8_one_failure_ends_the_rest() {
    each(|env| {
        let body = "FROM base AS slow\nRUN sleep 600 && touch /x\nFROM base AS wrong\nRUN sleep 0.2; exit 3\n\
                    FROM scratch\nCOPY --from=slow /x /\nCOPY --from=wrong /etc /e";
        let began = std::time::Instant::now();
        let run = build(env, body, &env.path("layout"), &[]).fails(1);
        assert!(run.stderr.contains("exit code: 3"), "{}", run.stderr);
        assert!(run.stderr.contains("CANCELED"), "{}", run.stderr);
        // It slept for ten minutes if it was not ended.
        assert!(began.elapsed().as_secs() < 300);
    });
}

#[test]
fn g10_every_step_of_a_needed_stage_is_run() {
    each(|env| {
        let body = "FROM base AS s\nRUN echo no change but executed\nRUN echo x > /x\nRUN echo after it > /y && echo also executed\n\
                    FROM scratch\nCOPY --from=s /x /x";
        let run = build(env, body, &env.path("layout"), &[]).ok();
        assert!(run.stderr.contains(" no change but executed\n"), "{}", run.stderr);
        assert!(run.stderr.contains(" also executed\n"), "{}", run.stderr);
    });
}

#[test]
fn g11_f11_a_stage_without_instructions_is_its_base() {
    each(|env| {
        let layout = env.path("layout");
        let config = |env: &Env, body: &str| -> Value {
            build(env, body, &layout, &[]).ok();
            let bytes = fs::read(blob(&layout, &manifest(&layout)["config"]["digest"])).unwrap();
            fs::remove_dir_all(&layout).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        let all = "FROM base\nENV A=1\nUSER 5\nWORKDIR /w\nENTRYPOINT [\"e\"]\nCMD [\"c\"]\nEXPOSE 80\nVOLUME /v\nLABEL l=1\n\
                   STOPSIGNAL 9\nSHELL [\"/bin/sh\", \"-ec\"]\nHEALTHCHECK CMD true\nMAINTAINER me\n";
        env.build("all", all, &[]).ok();
        let (built, again) = (config(env, all), config(env, "FROM all"));
        assert_eq!(built["config"], again["config"]);
        assert_eq!(built["author"], again["author"]);
        assert_eq!(built["rootfs"], again["rootfs"]);
    });
}
