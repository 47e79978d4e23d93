//! What RUN --mount reaches: A2-6 to A2-9 and A2-18.

use std::fs;
use std::process::{Command, Stdio};

use super::guard::{Guard, SECRET, in_every_tier, with_namespaces};

#[test]
fn a2_6_sources_of_bind_mounts_stay_in_their_tree() {
    in_every_tier(|guard| {
        let from = "FROM base AS from\nRUN mkdir -p /d/ir && echo inside >/d/ir/id; ln -s HOST/.ssh /abs; ln -s ../../../../../../../../HOST/.ssh /up; \
             ln -s / /root-link; ln -s HOST /host-link; ln -s abs /chain; ln -s /proc/self/root /own; ln -s /d/ir /good\n";
        let sources = [
            "/abs",
            "/up",
            "/chain",
            "/host-link/.ssh",
            "/own",
            "/root-link/HOST/.ssh",
            "../../../../../../../..HOST/.ssh",
            "/../../../../../../..HOST/.ssh",
            "/proc/self/root",
            "HOST/.ssh",
        ];
        for source in sources {
            let dockerfile = format!(
                "{from}FROM base\nRUN --mount=type=bind,from=from,source={source},target=/m ls -a /m /m/*; cat /m/id /m/HOST/.ssh/id; true\n"
            );
            let run = guard.build("bind", &dockerfile, &[]);
            assert!(!run.stderr.contains(SECRET), "{source}: {}", run.stderr);
            assert!(matches!(run.code, Some(0 | 1)), "{source}: {}", run.stderr);
        }
        let good =
            format!("{from}FROM base\nRUN --mount=type=bind,from=from,source=/good,target=/m cat /m/id\n");
        let run = guard.build("bind", &good, &[]).ok();
        assert!(run.stderr.contains(" inside\n"), "{}", run.stderr);
    });
}

#[test]
fn a2_6_links_in_the_context_lead_nowhere_else() {
    in_every_tier(|guard| {
        let context = guard.env.path("linked");
        guard.env.write("linked/own", "own");
        for (name, to) in [("abs", guard.host()), ("up", "../host".to_owned())] {
            std::os::unix::fs::symlink(to, context.join(name)).unwrap();
        }
        for source in ["abs", "up", "abs/.ssh", "up/.ssh", "../host", "../host/.ssh"] {
            let run = guard.build(
                "linked",
                &format!("FROM base\nRUN --mount=source={source},target=/m cat /m/id /m/.ssh/id; true\n"),
                &[],
            );
            assert!(!run.stderr.contains(SECRET), "{source}: {}", run.stderr);
        }
    });
}

/// A program that swaps `a/b` with `a/link` in a directory, so many times, for some seconds.
const SWAPPER: &str = "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
    int main(int count, char **args) { long swaps = 0, wanted = atol(args[1]);\n\
      if (chdir(args[2])) return 1;\n\
      while (swaps++ < wanted) {\n\
        if (renameat2(AT_FDCWD, \"a/b\", AT_FDCWD, \"a/link\", RENAME_EXCHANGE)) return 2;\n\
        if (swaps % 1000 == 0) usleep(40000);\n\
      }\n\
      printf(\"swapped %ld\\n\", wanted); return 0; }\n";

#[test]
fn a2_7_parts_of_a_mounts_source_are_swapped_by_another_step() {
    with_namespaces(|guard| {
        let source = guard.env.write("swap/swap.c", SWAPPER);
        let program = guard.env.path("swap/swap");
        let compiled = Command::new("gcc")
            .args(["-static", "-o"])
            .arg(&program)
            .arg(source)
            .status();
        assert!(compiled.unwrap().success());
        let cache = "--mount=type=cache,id=race,sharing=shared";
        let prepare = format!(
            "FROM base\nRUN {cache},target=/c mkdir -p /c/a/b/d /c/a/b/.ssh; echo inside >/c/a/b/id; ln -s HOST /c/a/link\n"
        );
        guard.build("prepare", &prepare, &[]).ok();
        let swap = format!("FROM base\nCOPY swap /swap\nRUN {cache},target=/c /swap 100000 /c\n");
        let mut swapping = guard
            .build_command("swap", &swap, &[])
            .stdout(Stdio::null())
            .stderr(fs::File::create(guard.env.path("log")).unwrap())
            .spawn()
            .unwrap();
        let steps = [
            format!("{cache},source=a/b,target=/m cat /m/id /m/.ssh/id; touch /m/made; echo reached"),
            format!("{cache},source=a/b/.ssh,target=/m cat /m/id; touch /m/made; echo reached"),
            // The target leads through what is swapped.
            format!(
                "{cache},target=/c --mount=type=tmpfs,target=/c/a/b/over touch /c/a/b/over/made; echo reached"
            ),
            format!(
                "{cache},target=/c --mount=type=bind,target=/c/a/b/d cat /c/a/b/d/Dockerfile /c/a/b/.ssh/id; echo reached"
            ),
        ];
        let (mut started, mut reached) = (0, 0);
        while swapping.try_wait().unwrap().is_none() {
            let step = &steps[started % steps.len()];
            let run = guard.build("race", &format!("FROM base\nRUN {step}\n"), &["--no-cache"]);
            assert!(!run.stderr.contains(SECRET), "{step}: {}", run.stderr);
            started += 1;
            // In the moment of a swap there may be nothing to mount, which is told.
            reached += usize::from(run.stderr.contains(" reached\n"));
        }
        assert!(
            swapping.wait().unwrap().success(),
            "{}",
            fs::read_to_string(guard.env.path("log")).unwrap()
        );
        assert!(started >= 4 && reached >= 1, "{reached} of {started}");
    });
}

#[test]
fn a2_8_identities_of_caches_are_no_paths() {
    in_every_tier(|guard| {
        let long = "x".repeat(4096);
        for id in [
            "../../x",
            "..",
            ".",
            "/etc",
            "HOST",
            "%2e%2e/%2e%2e/x",
            "a/../../../b",
            &long,
            "-o",
            "a\u{0}b",
        ] {
            let dockerfile = format!(
                "FROM base\nRUN --mount=type=cache,id={id},target=/c touch /c/made-by-a-step; echo mounted\n"
            );
            let run = guard.build("ids", &dockerfile, &[]);
            assert!(matches!(run.code, Some(0 | 1)), "{id:?}: {}", run.stderr);
        }
        let found = Command::new("find")
            .arg(guard.env.path(""))
            .args(["-name", "made-by-a-step", "-not", "-path", "*/store/*"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    });
}

#[test]
fn a2_9_mounts_do_not_come_back() {
    with_namespaces(|guard| {
        for option in [
            "type=bind,target=/m,bind-propagation=rshared",
            "type=bind,target=/m,bind-propagation=slave",
            "type=bind,target=/m,propagation=shared",
            "type=bind,target=/m,options=rshared",
            "type=devpts,target=/m",
            "type=overlay,target=/m",
            "type=bind,target=/",
            "type=tmpfs,target=/m,z",
        ] {
            let run = guard.build("option", &format!("FROM base\nRUN --mount={option} true\n"), &[]);
            assert_eq!(run.code, Some(1), "{option}: {}", run.stderr);
        }
        // Who may mount, mounts in the step.
        let mounts = || {
            fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .lines()
                .count()
        };
        let before = mounts();
        let dockerfile = "# syntax=docker/dockerfile:1\nFROM base\nRUN --security=insecure --mount=type=bind,target=/m,rw \
             mount -t tmpfs none /m && touch /m/mounted && mount --make-rshared / ; mount -t tmpfs none /tmp; echo mounted\n";
        let run = guard
            .build("insecure", dockerfile, &["--allow=security.insecure"])
            .ok();
        assert!(run.stderr.contains(" mounted\n"), "{}", run.stderr);
        assert_eq!(mounts(), before);
        assert!(!guard.env.path("insecure/mounted").exists());
    });
}

#[test]
fn a2_18_what_is_written_to_the_context_is_discarded() {
    in_every_tier(|guard| {
        // The canary is the context.
        let context = guard.env.path("host");
        let file = guard.env.write("file/Dockerfile", "FROM base\nRUN --mount=type=bind,target=/m,rw cd /m && rm -rf deep .ssh link && echo x >y && chmod 700 . && touch etc/hosts && ls -a\n\
             RUN --mount=type=bind,target=/m,rw cat /m/deep/er/file; test ! -e /m/y && echo \" and no more\"\n\
             RUN --mount=type=bind,target=/m ( echo x >/m/y ) 2>/dev/null || echo read-only\n");
        let (file, context) = (
            file.to_str().unwrap().to_owned(),
            context.to_str().unwrap().to_owned(),
        );
        let run = guard
            .rbuild(&[
                "build",
                "--progress=plain",
                &isolation(guard),
                "-f",
                &file,
                &context,
            ])
            .ok();
        assert!(
            run.stderr.contains(" and no more\n") && run.stderr.contains(" read-only\n"),
            "{}",
            run.stderr
        );
    });
}

fn isolation(guard: &Guard) -> String {
    format!("--isolation={}", guard.tier)
}
