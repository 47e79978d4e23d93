use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::env::{Env, Run, as_every_user, has};

/// Every path below `root`: type and mode, content or target, and when it was last changed in any way.
fn state(root: &Path) -> BTreeMap<String, (u32, Vec<u8>, i64, i64)> {
    let mut all = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|child| child.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let entry = (metadata.mode(), content, metadata.ctime(), metadata.ctime_nsec());
        all.insert(name, entry);
    }
    all
}

fn file(env: &Env, name: &str, path: &str) -> String {
    fs::read_to_string(env.unpack(name).join(path)).unwrap()
}

/// Whether a step of the last build was run; what it prints is `text`.
fn ran(run: &Run, text: &str) -> bool {
    run.count(&format!(" {text}\n")) > 0
}

#[test]
fn a_bind_shows_what_is_selected_and_the_context_is_never_changed() {
    as_every_user(|env| {
        env.base();
        let context = env.context(
            "ctx",
            &[
                ("d/f", "one\n"),
                ("d/g", "g\n"),
                ("other", "o\n"),
                ("hidden", "h\n"),
                (".dockerignore", "hidden\n"),
            ],
        );
        let dockerfile = "FROM base\n\
            RUN --mount=target=/all,rw cd /all && find . | sort > /list && rm -rf d && echo x > y && echo z > other\n\
            RUN --mount=source=d,target=/d echo ran-d; cat /d/f > /f; ! touch /d/no 2>/dev/null\n\
            RUN --mount=source=d/f,target=/new/deep/file,rw echo more >> /new/deep/file; cp /new/deep/file /g; ls / > /top\n\
            RUN test ! -e /new && test ! -e /d && test ! -e /all && echo clean > /clean\n";
        env.write("ctx/Dockerfile", dockerfile);
        let before = state(Path::new(&context));
        env.rbuild(["build", "--progress=plain", "-t", "ctx", &context])
            .ok();
        assert_eq!(state(Path::new(&context)), before);
        assert_eq!(
            file(env, "ctx", "list"),
            ".\n./.dockerignore\n./Dockerfile\n./d\n./d/f\n./d/g\n./other\n"
        );
        assert_eq!(file(env, "ctx", "f"), "one\n");
        assert_eq!(file(env, "ctx", "g"), "one\nmore\n");
        assert_eq!(file(env, "ctx", "clean"), "clean\n");
        let root = env.unpack("ctx");
        for stub in ["all", "d", "new"] {
            assert!(!root.join(stub).exists(), "{stub} is in a layer");
        }

        env.write("ctx/hidden", "changed\n");
        assert!(!ran(&env.build("ctx", dockerfile, &[]).ok(), "ran-d"));
        let selected = "FROM base\nRUN --mount=source=d,target=/d echo ran-d; cat /d/f > /f\n";
        assert!(ran(&env.build("ctx", selected, &[]).ok(), "ran-d"));
        env.write("ctx/other", "changed\n");
        assert!(!ran(&env.build("ctx", selected, &[]).ok(), "ran-d"));
        env.write("ctx/d/f", "two\n");
        assert!(ran(&env.build("ctx", selected, &[]).ok(), "ran-d"));
        assert_eq!(file(env, "ctx", "f"), "two\n");

        let missing = env.build(
            "ctx",
            "FROM base\nRUN --mount=source=no/such,target=/d true\n",
            &[],
        );
        assert!(missing.fails(1).stderr.contains("\"/no/such\": not found"));
        let pattern = env.build("ctx", "FROM base\nRUN --mount=source=d*,target=/d true\n", &[]);
        assert!(
            pattern.fails(1).stderr.contains("not found"),
            "there are no wildcards"
        );
    });
}

#[test]
fn a_bind_of_a_stage_is_known_by_its_content() {
    as_every_user(|env| {
        env.base();
        let dockerfile = |stage: &str| {
            format!(
                "FROM base AS made\nRUN {stage}\nFROM base\n\
                 RUN --mount=from=made,source=/o,target=/m,rw echo ran-last; cat /m/f > /f; echo gone > /m/f\n\
                 RUN --mount=from=made,target=/m cat /m/o/f >> /f\n"
            )
        };
        let first = env
            .build(
                "staged",
                &dockerfile("mkdir /o; echo 1 > /o/f; date > /o-time"),
                &[],
            )
            .ok();
        assert!(ran(&first, "ran-last"));
        assert_eq!(
            file(env, "staged", "f"),
            "1\n1\n",
            "what was written is not seen later"
        );
        let again = dockerfile("mkdir /o; echo 1 > /o/f; date +%N > /o-time");
        let second = env.build("staged", &again, &[]).ok();
        assert!(!ran(&second, "ran-last"), "{}", second.stderr);
        let other = env
            .build("staged", &dockerfile("mkdir /o; echo 2 > /o/f"), &[])
            .ok();
        assert!(ran(&other, "ran-last"));
        let missing = env.build(
            "staged",
            "FROM base AS a\nFROM base\nRUN --mount=from=a,source=/x,target=/m true\n",
            &[],
        );
        assert!(missing.fails(1).stderr.contains("\"/x\": not found"));
    });
}

#[test]
fn links_of_a_source_lead_nowhere_outside() {
    as_every_user(|env| {
        env.base();
        env.write("outside/canary", "canary\n");
        let outside = env.path("outside");
        let outside = outside.display();
        for link in [
            format!("{outside}"),
            format!("../../../../../../../..{outside}"),
            format!("/proc/self/root{outside}"),
            "/proc/self/cwd".to_owned(),
        ] {
            let dockerfile = format!(
                "FROM base AS evil\nRUN ln -s {link} /link\n\
                 FROM base\nRUN --mount=from=evil,source=/link,target=/m cat /m/canary\n"
            );
            let run = env.build("links", &dockerfile, &[]).fails(1);
            assert!(!run.stderr.contains(" canary\n"), "{link}\n{}", run.stderr);
            let target = format!(
                "FROM base\nRUN mkdir -p /x && ln -s {link} /x/l\n\
                 RUN --mount=type=tmpfs,target=/x/l/deep echo in > /x/l/deep/f\n"
            );
            // It may be refused or be mounted inside of the image.
            env.build("links", &target, &[]);
            assert_eq!(fs::read_dir(env.path("outside")).unwrap().count(), 1);
        }
        // What a step puts into the place of a mount point's parent is not followed when that is taken away.
        env.write("outside/file", "");
        let replaced = format!(
            "FROM base\nRUN --mount=type=secret,id=none,target=/a/b/file --mount=type=tmpfs,target=/z \
             mkdir -p /a2 && ln -s {outside} /a; true\n"
        );
        env.build("links", &replaced, &[]).ok();
        let run = env.build(
            "links",
            &format!("FROM base\nRUN --mount=source=Dockerfile,target=/p/q/file mv /p /gone; ln -s {outside} /p; ls /p || true\n"),
            &[],
        );
        assert!(run.code.is_some());
        assert!(env.path("outside/file").exists() && env.path("outside/canary").exists());
    });
}

#[test]
fn caches_outlive_builds_and_are_told_apart() {
    as_every_user(|env| {
        env.base();
        let dockerfile =
            "FROM base\nRUN --mount=type=cache,id=a,target=/c echo x >> /c/log; wc -l < /c/log > /n\n";
        for count in 1..4 {
            env.build("cache", dockerfile, &["--no-cache"]).ok();
            // Read back with the cache, which has the last result.
            assert_eq!(file(env, "cache", "n").trim(), count.to_string());
        }
        // V55, and what else makes another cache.
        for other in ["uid=2", "gid=2", "mode=0700", "from=base"] {
            let text = format!(
                "FROM base\nRUN --mount=type=cache,id=a,target=/c,{other} ls /c | grep -x log || echo none > /n\n"
            );
            env.build("cache", &text, &[]).ok();
            assert_eq!(file(env, "cache", "n"), "none\n", "{other}");
        }
        let namespace = ["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=other"];
        let text = "FROM base\nRUN --mount=type=cache,id=a,target=/c ls /c > /n\n";
        env.build("cache", text, &namespace).ok();
        // The same cache by other words, a part of it, and read-only.
        let text = "FROM base\nRUN --mount=type=cache,id=./b/../a,target=/c ls /c > /n; echo x > /c/sub; mkdir /c/part; echo p > /c/part/f\n\
            RUN --mount=type=cache,id=a,target=/p,source=part --mount=type=cache,id=a,target=/r,ro cat /p/f >> /n; ! touch /r/x 2>/dev/null\n";
        env.build("cache", text, &[]).ok();
        assert_eq!(file(env, "cache", "n"), "log\np\n");
        let text = "FROM base AS seed\nRUN mkdir -p /s/t && echo seed > /s/t/f && chown 5:6 /s/t/f\n\
            FROM base\nRUN --mount=type=cache,id=seeded,from=seed,source=/s,target=/c stat -c '%u:%g' /c/t/f > /n; cat /c/t/f >> /n; echo changed > /c/t/f\n\
            RUN --mount=type=cache,id=seeded,from=seed,source=/s,target=/c cat /c/t/f >> /n\n";
        env.build("cache", text, &[]).ok();
        assert_eq!(file(env, "cache", "n"), "5:6\nseed\nchanged\n");
        // Names that would be paths are none.
        for id in ["../../x", "/etc", "%2e%2e", &"x".repeat(4096)] {
            let text = format!("FROM base\nRUN --mount=type=cache,id={id},target=/c echo > /c/f\n");
            env.build("cache", &text, &[]).ok();
        }
        let caches = fs::read_dir(env.store().join("mounts/v1")).unwrap();
        for cache in caches {
            let name = cache.unwrap().file_name().into_string().unwrap();
            let digest = name.split(['-', '.']).next().unwrap();
            assert!(
                digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit()),
                "{name}"
            );
        }

        env.rbuild(["prune", "--force"]).ok();
        env.build("cache", dockerfile, &["--no-cache"]).ok();
        assert_eq!(file(env, "cache", "n").trim(), "4", "a plain prune keeps caches");
        let pruned = env
            .rbuild(["prune", "--force", "--filter", "type=exec.cachemount"])
            .ok();
        assert!(
            pruned.stdout.contains("Deleted cache mounts:"),
            "{}",
            pruned.stdout
        );
        env.build("cache", dockerfile, &["--no-cache"]).ok();
        assert_eq!(file(env, "cache", "n").trim(), "1");
    });
}

#[test]
fn a_locked_cache_is_waited_for_and_a_private_one_copied() {
    as_every_user(|env| {
        env.base();
        env.build("seed", "FROM base\nRUN true\n", &[]).ok();
        let text = |sharing: &str| {
            format!(
                "FROM base\nRUN --mount=type=cache,id=l,target=/c,sharing={sharing} \
                 test ! -e /c/busy && touch /c/busy && sleep 1 && rm /c/busy\n"
            )
        };
        let together = |sharing: &str| -> Vec<Run> {
            let builds: Vec<_> = (0..3)
                .map(|n| {
                    let name = format!("{sharing}{n}");
                    env.write(&format!("{name}/Dockerfile"), text(sharing));
                    let context = env.path(&name);
                    let args = [
                        "build",
                        "--progress=plain",
                        "--no-cache",
                        "-t",
                        &name,
                        context.to_str().unwrap(),
                    ];
                    let mut command = env.rbuild_command(args);
                    command
                        .stdout(Stdio::piped())
                        .stderr(Stdio::piped())
                        .spawn()
                        .unwrap()
                })
                .collect();
            builds
                .into_iter()
                .map(|build| Run::from(build.wait_with_output().unwrap()).ok())
                .collect()
        };
        let begin = Instant::now();
        let locked = together("locked");
        assert!(begin.elapsed() >= Duration::from_secs(3));
        let told = |run: &&Run| {
            run.stderr
                .contains("waiting for the cache mount l, used by [2/2] RUN")
        };
        assert!(locked.iter().filter(told).count() >= 1, "{}", locked[0].stderr);
        together("private");
        let copies = fs::read_dir(env.store().join("mounts/v1")).unwrap().count();
        assert!(copies >= 2, "a second user has a copy of its own: {copies}");
    });
}

#[test]
fn a_cache_of_a_killed_step_is_kept_and_told_of() {
    as_every_user(|env| {
        env.base();
        let text = "FROM base\nRUN --mount=type=cache,id=k,target=/c touch /c/half; echo started; sleep 60\n";
        env.write("killed/Dockerfile", text);
        let context = env.path("killed");
        let mut build = env.rbuild_command(["build", "--progress=plain", context.to_str().unwrap()]);
        let mut build = build.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let users = || {
            let caches = fs::read_dir(env.store().join("mounts/v1")).ok()?;
            let used = caches.filter_map(|cache| fs::read_dir(cache.ok()?.path().join("users")).ok()?.next());
            used.into_iter().next()
        };
        let begin = Instant::now();
        while users().is_none() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        build.kill().unwrap();
        build.wait().unwrap();
        let next = "FROM base\nRUN --mount=type=cache,id=k,target=/c ls /c\n";
        let first = env.build("killed", next, &[]).ok();
        assert!(
            first
                .stderr
                .contains("was being written by a step that was killed"),
            "{}",
            first.stderr
        );
        let second = env.build("killed", next, &["--no-cache"]).ok();
        assert!(!second.stderr.contains("was killed"), "{}", second.stderr);
    });
}

#[test]
fn mounts_nest_and_leave_nothing() {
    as_every_user(|env| {
        env.base();
        env.write("nest/f", "f\n");
        let dockerfile = "FROM base\nRUN mkdir -p /kept && touch -d @1000000000 /kept\n\
            RUN --mount=type=tmpfs,target=/t/inner/most,size=1m --mount=type=cache,target=/t/inner --mount=source=f,target=/t/inner/f \
                --mount=type=tmpfs,target=/t --mount=type=tmpfs,target=/kept/new \
                stat -c '%a' /t/inner/most > /n; df -k /t/inner/most | tail -1 | awk '{print $2}' >> /n; cat /t/inner/f >> /n; \
                ! dd if=/dev/zero of=/t/inner/most/big bs=1M count=2 2>/dev/null\n\
            RUN stat -c %Y /kept > /time; ls / > /top; find /kept > /found\n";
        env.build("nest", dockerfile, &[]).ok();
        assert_eq!(file(env, "nest", "n"), "1777\n1024\nf\n");
        assert_eq!(
            file(env, "nest", "time"),
            "1000000000\n",
            "the time of a directory that was mounted in"
        );
        assert!(!file(env, "nest", "top").lines().any(|line| line == "t"));
        let root = env.build(
            "nest",
            "FROM base\nWORKDIR /\nRUN --mount=type=tmpfs,target=. true\n",
            &[],
        );
        assert!(root.fails(1).stderr.contains("invalid mount target"));
        let propagated = env.build(
            "nest",
            "FROM base\nRUN --mount=target=/x,bind-propagation=rshared true\n",
            &[],
        );
        assert!(
            propagated
                .fails(1)
                .stderr
                .contains("unexpected key 'bind-propagation'")
        );
    });
}

#[test]
fn volumes_are_in_every_step_and_in_no_layer() {
    as_every_user(|env| {
        env.base();
        env.write("shared/in", "in\n");
        let shared = env.path("shared");
        let shared = shared.to_str().unwrap();
        let text = "FROM base\nRUN cat /v/in > /a; echo ran-volume; echo out > /v/out\nRUN ls /v > /b\n";
        let volume = format!("{shared}:/v");
        let first = env.build("vol", text, &["-v", &volume]).ok();
        assert!(ran(&first, "ran-volume"));
        assert_eq!(fs::read_to_string(env.path("shared/out")).unwrap(), "out\n");
        fs::remove_file(env.path("shared/out")).unwrap();
        env.write("shared/in", "other\n");
        assert!(
            !ran(&env.build("vol", text, &["-v", &volume]).ok(), "ran-volume"),
            "contents are in no key"
        );
        assert!(env.build("vol", text, &["-v", &format!("{volume}:ro")]).code != Some(0));
        env.build("vol", text, &["-v", &format!("{volume}:O")]).ok();
        assert!(!env.path("shared/out").exists());
        let dest = env.path("vol-files");
        let output = format!("type=local,dest={}", dest.display());
        env.build("vol", text, &["-v", &format!("{volume}:O"), "-o", &output])
            .ok();
        assert_eq!(
            fs::read_to_string(dest.join("b")).unwrap(),
            "in\n",
            "each step has its own"
        );
        assert!(!dest.join("v").exists());
        let missing = env.build("vol", text, &["-v", "/no/such/directory:/v"]).fails(1);
        assert!(
            missing.stderr.contains("/no/such/directory"),
            "{}",
            missing.stderr
        );
        let shared_mount = env
            .build("vol", text, &["-v", &format!("{volume}:rshared")])
            .fails(2);
        assert!(
            shared_mount.stderr.contains("never seen outside"),
            "{}",
            shared_mount.stderr
        );
    });
}

#[test]
fn keys_are_held_by_an_agent_of_the_build() {
    if !has("ssh-agent") || !has("ssh-keygen") || !has("ssh-add") {
        return;
    }
    as_every_user(|env| {
        env.base();
        let key = env.path("id");
        let made = env
            .command("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "a-key-of-the-test", "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        // The machine's own ssh-add, in the step: lists pass, changes do not.
        let dockerfile = "FROM base\nRUN --mount=type=ssh,id=k /usr/bin/ssh-add -l > /listed; ! /usr/bin/ssh-add -D 2>/dev/null\n\
            RUN --mount=type=ssh,id=none test -n \"$SSH_AUTH_SOCK\" && test ! -e \"$SSH_AUTH_SOCK\"\n";
        let agent = format!("k={}", key.display());
        let files = env.path("ssh-files");
        let output = format!("type=local,dest={}", files.display());
        let libraries: Vec<String> = ["/usr", "/lib", "/lib64"]
            .iter()
            .filter(|path| Path::new(path).exists())
            .map(|path| format!("{path}:{path}:ro"))
            .collect();
        let mut args = vec!["--ssh", &agent, "-o", &output];
        args.extend(libraries.iter().flat_map(|volume| ["-v", volume.as_str()]));
        env.build("ssh", dockerfile, &args).ok();
        let listed = fs::read_to_string(files.join("listed")).unwrap();
        assert!(listed.contains("a-key-of-the-test"), "{listed}");
        let missing = env
            .build("ssh", "FROM base\nRUN --mount=type=ssh,required true\n", &[])
            .fails(1);
        assert!(
            missing
                .stderr
                .contains("no SSH key \"default\" forwarded from the client"),
            "{}",
            missing.stderr
        );
        let unset = env.build("ssh", dockerfile, &["--ssh", "default"]).fails(1);
        assert!(
            unset.stderr.contains("make sure SSH_AUTH_SOCK is set"),
            "{}",
            unset.stderr
        );
    });
}

#[test]
fn a_mounted_directory_has_its_own_mode_and_is_known_by_it() {
    as_every_user(|env| {
        env.base();
        let dockerfile = "FROM base AS made\nCOPY mode /mode\nRUN mkdir -m $(cat /mode) /d\nFROM base\n\
             RUN --mount=source=d,target=/m --mount=from=made,source=/d,target=/n stat -c %a /m /n > /modes\n";
        for mode in [0o700, 0o755, 0o1770] {
            env.write("own/mode", format!("{mode:o}"));
            env.write("own/d/file", "x");
            fs::set_permissions(env.path("own/d"), fs::Permissions::from_mode(mode)).unwrap();
            env.build("own", dockerfile, &[]).ok();
            let modes = fs::read_to_string(env.unpack("own").join("modes")).unwrap();
            fs::remove_dir_all(env.path("unpacked-own")).unwrap();
            assert_eq!(modes, format!("{mode:o}\n{mode:o}\n"));
        }
    });
}
