//! rbuild as root inside ordinary containers: Docker's fourteen capabilities, no subordinate ids, once under a filter that
//! allows user namespaces (podman's) and once under one that does not (Docker's).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::env::{Env, Run, cached, has, rbuild_binary};

const CAPABILITIES: &str = "CHOWN,DAC_OVERRIDE,FSETID,FOWNER,MKNOD,NET_RAW,SETGID,SETUID,SETFCAP,SETPCAP,\
    NET_BIND_SERVICE,SYS_CHROOT,KILL,AUDIT_WRITE";

/// Steps whose layers do not depend on when and where they are made.
const STAGES: &str = "FROM base AS one\n\
    RUN mkdir -p /d/sub && echo data > /d/sub/f && ln /d/sub/f /d/hard && ln -s f /d/sub/l \
    && chown -R 1000:1001 /d/sub && chmod 4755 /d/sub/f && rm /etc/group \
    && touch -h -d @1000000000 /d/sub/l /d/sub/f /d/sub /d /etc\n\
    RUN rm -rf /d/sub && mkdir /d/sub && echo new > /d/sub/g && touch -d @1000000000 /d/sub/g /d/sub /d\n\
    FROM base AS two\n\
    COPY --from=one /d /d\n\
    RUN mkdir /own && chown nobody /own && touch -d @1000000000 /own\n\
    USER nobody\n\
    RUN id -u > /own/uid && touch -d @1000000000 /own/uid /own && cat /d/hard\n\
    FROM base\n\
    COPY --from=two /own /own\n\
    RUN echo more >> /own/uid && touch -d @1000000000 /own/uid && (sleep 1000 &)\n\
    RUN cat /own/uid\n";

/// The time of directories that COPY makes.
const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1000000000";

/// The filter of the container.
#[derive(Clone, Copy)]
enum Filter {
    Podman,
    Docker,
    /// Podman's, for an ordinary user of the container.
    Ordinary,
}

/// A container's root file system, and what is mounted into it.
struct Containers<'a> {
    env: &'a Env,
    root: PathBuf,
}

impl<'a> Containers<'a> {
    /// `None`, with a note, where no container can be run.
    fn new(env: &'a Env) -> Option<Self> {
        if !["podman", "runc"].iter().all(|program| has(program)) {
            return None;
        }
        let root = env.path("container");
        fs::create_dir(&root).unwrap();
        let tar = cached("busybox.tar", |_| unreachable!("the base was imported before"));
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(tar)
            .arg("-C")
            .arg(&root)
            .status();
        assert!(unpacked.unwrap().success());
        env.write("shared/token", "hush");
        fs::create_dir(root.join("places")).unwrap();
        for directory in [root.join("places"), env.path("shared")] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        }
        let containers = Self { env, root };
        let trial = containers.run(Filter::Podman, "", "true");
        if trial.code != Some(0) {
            eprintln!("skipped: podman cannot run a container here: {}", trial.stderr);
            return None;
        }
        Some(containers)
    }

    /// Runs `script`; `rbuild` is at hand, and the folder `shared` is `/shared`. `overlay` (`:O`) makes the container's root an overlay.
    fn run(&self, filter: Filter, overlay: &str, script: &str) -> Run {
        let mut command = Command::new("podman");
        command
            .args(["--root", self.env.path("podman").to_str().unwrap()])
            .args(["--runroot", self.env.path("podman-run").to_str().unwrap()])
            .args(["--cgroup-manager", "cgroupfs", "--runtime", "/usr/sbin/runc"])
            .args(["run", "--rm", "--network", "host", "--cap-drop", "all"])
            .args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        match filter {
            Filter::Ordinary => command.args(["--user", "1000:1000"]),
            Filter::Podman | Filter::Docker => command.args(["--cap-add", CAPABILITIES]),
        };
        if let Filter::Docker = filter {
            let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/seccomp/docker-default.json");
            command.args(["--security-opt", &format!("seccomp={}", profile.display())]);
        }
        let shared = self.env.path("shared");
        command
            .args(["-v", &format!("{}:/bin/rbuild:ro", rbuild_binary().display())])
            .args(["-v", &format!("{}:/shared", shared.display())])
            .args(["--tmpfs", "/memory:exec"])
            .arg("--rootfs")
            .arg(format!("{}{overlay}", self.root.display()))
            .args(["/bin/sh", "-c", script]);
        command.output().unwrap().into()
    }

    /// Builds `dockerfile` in a container and runs `more` afterwards there.
    fn build(&self, filter: Filter, overlay: &str, store: &str, dockerfile: &str, more: &str) -> Run {
        self.env.write("shared/context/Dockerfile", dockerfile);
        let tar = cached("busybox.tar", |_| unreachable!());
        fs::copy(tar, self.env.path("shared/busybox.tar")).unwrap();
        let rbuild = format!("rbuild --root {store}");
        self.run(
            filter,
            overlay,
            &format!(
                "{rbuild} import /shared/busybox.tar base >/dev/null \
                 && {rbuild} build --progress=plain {EPOCH} --secret id=token,src=/shared/token -t result /shared/context 2>&1 \
                 && rm -f /shared/inspect && {rbuild} inspect result > /shared/inspect && ls {store}/tmp && {{ {more}; }}"
            ),
        )
    }

    fn layers(&self) -> serde_json::Value {
        let text = fs::read(self.env.path("shared/inspect")).unwrap();
        let images: serde_json::Value = serde_json::from_slice(&text).unwrap();
        images[0]["RootFS"]["Layers"].clone()
    }
}

fn in_containers(test: impl Fn(&Env, &Containers<'_>)) {
    let Some(env) = Env::root() else {
        eprintln!("skipped: containers are run by root here");
        return;
    };
    env.base();
    if let Some(containers) = Containers::new(&env) {
        test(&env, &containers);
    }
}

#[test]
fn layers_are_those_of_every_other_isolation() {
    in_containers(|env, containers| {
        env.build("result", STAGES, &["--isolation=root", EPOCH]).ok();
        let expected = env.inspect("result")["RootFS"]["Layers"].clone();
        assert_eq!(expected.as_array().unwrap().len(), 4);
        // What is said, whether a change of the root is all that holds a step, and where the store lies.
        let cases = [
            (
                Filter::Docker,
                "",
                "/shared/docker",
                "isolation: chroot, which is weak",
            ),
            (
                Filter::Podman,
                "",
                "/shared/podman",
                "isolation: user namespace with",
            ),
            // No overlay on an overlay: copied roots, with mounts and without.
            (Filter::Podman, ":O", "/store", "isolation: user namespace with"),
            (Filter::Docker, ":O", "/store", "isolation: chroot, which is weak"),
            (
                Filter::Ordinary,
                "",
                "/shared/ordinary",
                "isolation: user namespace with one id",
            ),
            (
                Filter::Ordinary,
                ":O",
                "/places/store",
                "isolation: user namespace with one id",
            ),
        ];
        for (filter, overlay, store, said) in cases {
            let run = containers
                .build(
                    filter,
                    overlay,
                    store,
                    STAGES,
                    "echo left; ps | grep -c '[s]leep 1000' || true",
                )
                .fails(0);
            assert!(run.stdout.contains(said), "{}", run.stdout);
            let (_, left) = run.stdout.split_once("left\n").unwrap();
            assert!(left.starts_with("0\n"), "a process of a step lives on: {left}");
            assert_eq!(containers.layers(), expected, "{store} {said}: {}", run.stdout);
        }
    });
}

#[test]
fn a_step_reaches_nothing_around_it() {
    in_containers(|env, containers| {
        env.write("shared/canary", "untouched");
        let canary = env.path("shared/canary");
        let seen = |path: &Path| {
            let meta = fs::metadata(path).unwrap();
            (meta.ino(), meta.ctime(), meta.ctime_nsec(), meta.mode())
        };
        let before = seen(&canary);
        let attacks = "FROM base\n\
            RUN kill -9 -1; kill -9 $PPID; kill -9 1; kill -STOP $PPID; echo lives\n\
            RUN cat /proc/$PPID/environ /proc/1/environ; cat /proc/1/root/shared/canary; echo lives\n\
            RUN mkdir x; chroot x /bin/true; mount -t tmpfs x /x; unshare -U true; unshare -m true; \
            echo $? > /sys/fs/cgroup/cgroup.procs; mknod sda b 8 0 && dd if=sda of=/dev/null count=1; echo lives\n\
            RUN ls -l /proc/self/fd 2>/dev/null | wc -l; cd /; ls ../../../shared ../../store; echo lives\n\
            USER nobody\n\
            RUN (sleep 1000 & setsid sleep 1000 &); kill -9 -1; echo lives\n";
        for filter in [Filter::Docker, Filter::Podman] {
            // The token would be in the environment of the builder.
            let run = containers.build(
                filter,
                "",
                "/shared/store",
                attacks,
                "echo left; ps | grep -c '[s]leep 1000' || true",
            );
            let run = run.fails(0);
            let lives = run
                .stdout
                .lines()
                .filter(|line| line.ends_with(" lives") && !line.contains("RUN"))
                .count();
            assert_eq!(lives, 5, "{}", run.stdout);
            assert!(!run.stdout.contains("untouched"), "{}", run.stdout);
            assert!(!run.stdout.contains("PATH="), "{}", run.stdout);
            assert!(!run.stdout.contains("1+0 records"), "{}", run.stdout);
            assert!(run.stdout.contains("left\n0\n"), "{}", run.stdout);
            fs::remove_dir_all(env.path("shared/store")).unwrap();
        }
        assert_eq!(seen(&canary), before);
    });
}

#[test]
fn what_cannot_be_had_is_said_at_once() {
    in_containers(|env, containers| {
        env.write("shared/context/Dockerfile", "FROM scratch\nRUN true\n");
        for (isolation, knob) in [
            ("root", "--cap-add SYS_ADMIN"),
            ("userns", "seccomp=unconfined"),
            ("userns-single", "seccomp=unconfined"),
        ] {
            let script = format!("rbuild --root /shared/store build --isolation={isolation} /shared/context");
            let began = std::time::Instant::now();
            let run = containers.run(Filter::Docker, "", &script).fails(1);
            assert!(run.stderr.contains(knob), "{isolation}: {}", run.stderr);
            // The start of the container is in it.
            assert!(began.elapsed().as_secs() < 10, "{isolation}");
        }
    });
}

#[test]
fn mounts_without_mounting() {
    in_containers(|env, containers| {
        let mounts = "FROM base AS source\n\
            RUN mkdir /data && echo one > /data/file\n\
            FROM base\n\
            RUN --mount=type=cache,target=/made/cache,uid=5 cat /made/cache/n; echo two > /made/cache/n; stat -c %u /made/cache\n\
            RUN --mount=type=cache,target=/made/cache,uid=5 echo again $(cat /made/cache/n)\n\
            RUN --mount=type=bind,from=source,source=/data,target=/etc --mount=type=tmpfs,target=/bin/memory \
            cat /etc/file; echo lost > /etc/lost; echo lost > /bin/memory/lost\n\
            RUN --mount=type=bind,from=source,source=/data,target=/mnt --mount=type=tmpfs,target=/memory \
            ls /mnt /memory /etc /bin/memory; true\n\
            RUN --mount=type=secret,id=token,env=TOKEN echo secret ${#TOKEN}\n\
            RUN ls -d /made /mnt /memory /etc/file /etc/lost /etc/passwd; touch -d @0 /etc/passwd\n";
        let run = containers
            .build(Filter::Docker, "", "/shared/store", mounts, "true")
            .fails(0);
        for said in [
            " again two",
            " 5\n",
            " one\n",
            " secret 4\n",
            " /etc/passwd\n",
            " passwd\n",
        ] {
            assert!(run.stdout.contains(said), "{said:?}: {}", run.stdout);
        }
        for unwanted in [" lost\n", " /made\n", " /mnt\n", " /memory\n", " /etc/file\n"] {
            assert!(!run.stdout.contains(unwanted), "{unwanted:?}: {}", run.stdout);
        }
        // Only the last step has changed anything.
        let layers = containers.layers();
        let layers = layers.as_array().unwrap();
        assert!(layers[1..6].iter().all(|layer| *layer == layers[1]), "{layers:?}");
        assert_ne!(layers[6], layers[1]);

        let file = "FROM base\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token\n";
        let refused = containers
            .build(Filter::Docker, "", "/shared/store", file, "true")
            .fails(1);
        assert!(refused.stdout.contains("env=NAME"), "{}", refused.stdout);
        let in_memory = containers
            .build(Filter::Docker, "", "/memory/store", file, "true")
            .fails(0);
        assert!(in_memory.stdout.contains(" 4\n"), "{}", in_memory.stdout);
        assert!(env.path("shared/token").exists());
    });
}
